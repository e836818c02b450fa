"""Nothing that is read is executed, nothing is written outside its folder, and no port is open unasked."""

import ast
import os
import struct
import zipfile
import zlib

import pytest
import torch
from PIL import Image

from mmssl.checkpoint import UnsafeCheckpointError

# where a call of this name may stand, and why
ALLOWED = {
    ('mmssl/apis/packing.py', 'tarfile.open'): 'writes shards',
    ('mmssl/data/shards.py', 'tarfile.open'): 'reads the headers of the members',
    ('mmssl/hosts/probes.py', 'exec'): 'the probes that stand in the same file, in a child process',
    ('mmssl/selfsup/dalle_file.py', 'torch.load'): 'an unpickler that makes tensors and empty modules alone',
    ('mmssl/checkpoint/files.py', 'torch.load'): 'weights_only unless the user passes --trust-checkpoint',
    ('mmssl/checkpoint/plain_pickles.py', 'pickle.load'): 'where the user passes --trust-checkpoint',
    ('mmssl/config/catalogue.py', 'yaml.load'): 'with SafeLoader, the compiled one where there is one',
}
FORBIDDEN = (
    'eval',
    'exec',
    'os.system',
    'os.popen',
    'pickle.load',
    'pickle.loads',
    'pickle.Unpickler',
    'marshal.loads',
    'shelve.open',
    'yaml.load',
    'yaml.unsafe_load',
    'yaml.full_load',
    'joblib.load',
    'torch.load',
    'dill.load',
    'shutil.unpack_archive',
    'subprocess.getoutput',
    'tarfile.open',
)
# the page of `mmssl demo`: tests/demo_page/test_page_browser.py looks at where it listens and what it serves
PAGE = ('mmssl/demo_page/', 'mmssl/commands/demo.py')
LISTENING = ('http.server', 'socketserver', 'flask', 'gradio', 'aiohttp', 'fastapi', 'uvicorn', 'xmlrpc')


def name_of(node):
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return '.'.join(reversed([*parts, node.id])) if isinstance(node, ast.Name) else ''


def risky_calls(tree):
    """(name, line) of calls that execute what they are given, or write where a name says."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name, arguments = name_of(node.func), {argument.arg: argument.value for argument in node.keywords}
        constants = {key: value.value for key, value in arguments.items() if isinstance(value, ast.Constant)}
        method = node.func.attr if isinstance(node.func, ast.Attribute) else ''
        if name == 'torch.load' and constants.get('weights_only') is True:
            continue
        if (
            name in FORBIDDEN
            or constants.get('shell')
            or constants.get('allow_pickle')
            or 'shell' in arguments.keys() - constants.keys()
            or method in ('extractall', 'extract')
        ):
            yield name or method, node.lineno


def test_the_scan_finds_what_it_looks_for():
    found = risky_calls(
        ast.parse(
            'eval(x)\nos.system(x)\nsubprocess.run(x, shell=True)\n'
            'np.load(x, allow_pickle=True)\ntorch.load(x)\n'
            'archive.extractall(x)\ntorch.load(x, weights_only=True)\nmodel.eval()'
        )
    )
    assert [line for _, line in found] == [1, 2, 3, 4, 5, 6]


def test_no_code_of_ours_executes_data_or_listens(repo_root):
    for path in sorted(file for folder in ('mmssl', 'tools') for file in (repo_root / folder).rglob('*.py')):
        where = path.relative_to(repo_root).as_posix()
        tree = ast.parse(path.read_text(encoding='utf-8'))
        if not where.startswith(
            'tools/benchmarks/'
        ):  # they load the file that the user names on their command line
            assert [call for call in risky_calls(tree) if (where, call[0]) not in ALLOWED] == [], where
        imported = [
            alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
        ]
        imported += [node.module or '' for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        listening = {name for name in imported if name.startswith(LISTENING)}
        assert listening <= ({'uvicorn'} if where.startswith(PAGE) else set()), where
    for path in (repo_root / 'tools').glob('*.sh'):
        assert 'eval' not in path.read_text(encoding='utf-8').split()


class Touch:
    """Pickles as a command that makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch "{self.path}"',)


@pytest.fixture
def evil(tmp_path):
    path = tmp_path / 'evil.pth'
    weight = torch.zeros(2, 2)
    meta = {'iter': 1, 'seed': 0, 'x': Touch(tmp_path / 'canary')}
    torch.save(
        {'state_dict': {'weight': weight}, 'model': {'weight': weight}, 'meta': meta, 'optimizer': {}}, path
    )
    return path


def by_the_host(path):
    from mmengine.runner import load_checkpoint

    load_checkpoint(torch.nn.Linear(2, 2), str(path))


def by_init_cfg(path):
    from mmengine.model import BaseModule

    BaseModule(init_cfg=dict(type='Pretrained', checkpoint=str(path))).init_weights()


def by_init_cfg_of_a_part(path):
    from mmengine.model import BaseModule

    BaseModule(init_cfg=dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')).init_weights()


def by_weights(path):
    from mmssl.checkpoint import load_weights

    load_weights(torch.nn.Linear(2, 2), path)


def by_sam(path):
    from mmssl.promptable.build import build_sam

    build_sam('vit_t', str(path))


def by_a_tokenizer(path):
    from mmssl.selfsup.tokenizers import read_dalle

    read_dalle(str(path))


def by_the_seed_of_a_run(path):
    from mmssl.checkpoint import seed_from_checkpoint

    seed_from_checkpoint(path)


WAYS = (
    by_the_host,
    by_init_cfg,
    by_init_cfg_of_a_part,
    by_weights,
    by_sam,
    by_a_tokenizer,
    by_the_seed_of_a_run,
)


@pytest.mark.parametrize('way', WAYS)
def test_no_way_of_loading_runs_code(way, evil, tmp_path):
    import mmssl.registry  # noqa: F401

    with pytest.raises(UnsafeCheckpointError, match=r'evil\.pth holds (posix|os|nt)\.system'):
        way(evil)
    assert not (tmp_path / 'canary').exists()


@pytest.mark.parametrize(
    'arguments',
    [
        ['convert', 'mae', '{evil}', '{out}'],
        ['train', 'configs/smoke/mae.py', '--resume', '{evil}', '--work-dir', '{out}'],
        ['train', 'configs/smoke/mae.py', '--work-dir', '{out}', '--cfg-options', 'load_from={evil}'],
        ['test', 'configs/smoke/gcn.py', '{evil}', '--work-dir', '{out}'],
        ['segment', '{image}', '--auto', '--model', 'vit_t', '--checkpoint', '{evil}', '--out', '{out}'],
    ],
)
def test_no_command_runs_code(arguments, evil, demo, tmp_path, monkeypatch, capsys):
    from mmssl.cli import main

    monkeypatch.chdir(demo)
    names = dict(evil=evil, out=tmp_path / 'out', image=demo / 'data/demo/photos/coffee.jpg')
    status = main([argument.format(**names) for argument in arguments])
    message = capsys.readouterr().err
    assert status == 1 and 'evil.pth' in message and '.system' in message, message
    assert not (tmp_path / 'canary').exists() and not (tmp_path / 'out').exists()


@pytest.fixture(scope='module')
def demo(tmp_path_factory, with_demo):
    return with_demo(tmp_path_factory.mktemp('demo'))


def test_a_resumed_folder_passes_over_such_a_file(evil, tmp_path):
    from mmssl.checkpoint import find_resume_checkpoint

    (tmp_path / 'last_checkpoint').write_text('evil.pth')
    assert find_resume_checkpoint(tmp_path) is None
    assert not (tmp_path / 'canary').exists()


def jpeg(folder):
    Image.new('RGB', (8, 8), 'red').save(folder / 'x.jpg')
    return (folder / 'x.jpg').read_bytes()


def test_archives_are_read_in_place_and_names_that_lead_out_are_not_listed(tmp_path):
    from mmssl.data.folder import ImageFolder

    (tmp_path / 'in').mkdir()
    data, path = jpeg(tmp_path / 'in'), tmp_path / 'in/photos.zip'
    with zipfile.ZipFile(path, 'w') as archive:
        for name in (
            'a/good.jpg',
            '../out.jpg',
            'a/../../out.jpg',
            '/out.jpg',
            'a//out.jpg',
            '.hidden/out.jpg',
        ):
            archive.writestr(name, data)
        link = zipfile.ZipInfo('a/link.jpg')
        link.external_attr = 0o120777 << 16  # a symbolic link to a file outside
        archive.writestr(link, '/etc/hostname')
    before = {entry.name for entry in tmp_path.rglob('*')}
    dataset = ImageFolder(str(path), pipeline=[dict(type='mmssl.LoadImage')], labels=None, test_mode=True)
    names = sorted(
        dataset.get_data_info(number)['img_path'].rpartition('/')[2] for number in range(len(dataset))
    )
    assert names == ['good.jpg', 'link.jpg']
    from mmssl.data.images import BadImageError

    for number in range(2):
        if dataset.get_data_info(number)['img_path'].endswith('link.jpg'):
            with pytest.raises(
                BadImageError, match='link.jpg: no known image format'
            ):  # its text is data, no way anywhere
                dataset[number]
        else:
            assert dataset[number]['img'].shape == (8, 8, 3)
    assert {entry.name for entry in tmp_path.rglob('*')} == before


def test_an_entry_that_grows_is_refused(tmp_path):
    from mmssl.data.archives import ZipArchive

    path = tmp_path / 'bomb.zip'
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('zeros.jpg', bytes(50_000_000))
    content = bytearray(path.read_bytes())
    at = content.rindex(b'PK\x01\x02')
    content[at + 24 : at + 28] = struct.pack('<I', 100)  # the directory promises a hundred bytes
    path.write_bytes(content)
    with pytest.raises(OSError, match='zeros.jpg.*damaged'):
        ZipArchive(str(path)).read('zeros.jpg')


def test_names_of_images_are_names_and_nothing_else(tmp_path, monkeypatch):
    """Quotes, semicolons and dollars in a file's name, from the folder to the list of bad files."""
    from mmssl.data.bad_files import BadFiles, read_list
    from mmssl.data.folder import ImageFolder

    monkeypatch.chdir(tmp_path)
    name = '$(touch canary); touch canary `touch canary` "x" \'y\' %s {0}.jpg'
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / name).write_bytes(jpeg(tmp_path))
    (tmp_path / 'images' / f'bad {name}').touch()
    dataset = ImageFolder('images', pipeline=[dict(type='mmssl.LoadImage')])
    dataset.bad_files.attach(tmp_path / 'bad_files.txt', dataset.image_root)
    assert all(dataset[number]['img'].shape == (8, 8, 3) for number in range(2))
    assert [path for path, _ in read_list(tmp_path / 'bad_files.txt')] == [f'images/bad {name}']
    assert isinstance(dataset.bad_files, BadFiles) and not (tmp_path / 'canary').exists()


def test_options_are_values_and_no_code(tmp_path, monkeypatch):
    from mmssl.config.load import load_config

    monkeypatch.chdir(tmp_path)
    cfg = load_config(
        'configs/smoke/mae.py', ['x=__import__("os").system("touch canary")', 'y=[1,2,(3,4)]', "z={'a': 1}"]
    )
    assert cfg.y == [1, 2, (3, 4)] and isinstance(cfg.x, str) and not (tmp_path / 'canary').exists()


def test_pictures_that_promise_too_much_are_not_decoded(tmp_path):
    from mmssl.data.images import BadImageError, open_image

    def chunk(name, data):
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    (tmp_path / 'a.png').write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0))
        + chunk(b'IDAT', zlib.compress(bytes(10)))
        + chunk(b'IEND', b'')
    )
    with pytest.raises(BadImageError, match='a.png'):
        open_image(str(tmp_path / 'a.png'))


def test_annotations_cannot_name_a_file_to_write(tmp_path):
    """Results go by the stem of an image's name, whatever its path."""
    from mmssl.evaluation.segmentation import SegmentationMetric

    metric = SegmentationMetric(output_dir=str(tmp_path / 'out'), format_only=True)
    metric._write(
        tmp_path / 'out', torch.zeros(2, 2, dtype=torch.uint8), dict(img_path='../../../escape.jpg')
    )
    assert [path.name for path in tmp_path.rglob('*.png')] == ['escape.png'] and (
        tmp_path / 'out/escape.png'
    ).is_file()
