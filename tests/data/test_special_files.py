"""Files that are not what their names say are skipped, counted and named, and nothing waits for them."""

import os
import shutil
import socket
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from mmssl.cli import main
from mmssl.data import archives
from mmssl.data.annotations import images_below, is_done
from mmssl.data.archives import open_archive, read_bytes
from mmssl.data.bad_files import BadFiles, list_line, read_list
from mmssl.data.checks.labels import LabelRange, check_label_map
from mmssl.data.checks.records import ImageRecord
from mmssl.data.folder import ImageFolder
from mmssl.data.images import BadImageError, decode, open_image
from mmssl.data.mask_datasets import CocoMasks, LabelMasks
from mmssl.data.missing import no_such_folder

PIPELINE = [dict(type='mmssl.LoadRandomResizedCrop', scale=8)]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / 'root'
    root.mkdir()
    for index in range(4):
        Image.new('RGB', (8, 8), (index, 0, 0)).save(root / f'{index}.png')
    return root


def make_special(path, form):
    if form == 'FIFO':
        os.mkfifo(path)
    elif form == 'socket':
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif form == 'character device':
        path.symlink_to('/dev/zero')
    elif form == 'symbolic links':
        path.symlink_to(path.name)


@pytest.mark.parametrize('form', ['FIFO', 'socket', 'character device', 'symbolic links'])
def test_a_special_file_is_a_bad_file(folder, form, monkeypatch):
    monkeypatch.chdir(folder)  # paths of sockets are short
    make_special(folder / 'special.jpg', form)
    with pytest.raises(BadImageError, match=rf'special.jpg: .*{form}'):
        open_image(str(folder / 'special.jpg'))
    dataset = ImageFolder(folder, pipeline=PIPELINE)
    assert len(dataset) == 5
    assert sum(dataset.prepare_data(index) is None for index in range(5)) == 1
    ((path, reason),) = dataset.bad_files._reasons.items()
    assert path.endswith('special.jpg') and form in reason
    if form != 'symbolic links':
        with pytest.raises(ValueError, match=f'is a {form}'):
            ImageFolder(folder / 'special.jpg').full_init()


def test_a_link_to_itself_as_data_root(tmp_path):
    (tmp_path / 'loop').symlink_to('loop')
    with pytest.raises(ValueError, match='a link that leads nowhere'):
        ImageFolder(tmp_path / 'loop').full_init()
    assert 'no such folder' in no_such_folder(str(tmp_path))


def test_a_file_far_larger_than_its_pixels_is_not_read(folder):
    with open(folder / 'sparse.jpg', 'wb') as file:
        file.truncate(1 << 40)
    with pytest.raises(BadImageError, match=r'1099511627776 bytes, more than the \d+'):
        open_image(str(folder / 'sparse.jpg'))


def damage(archive, name, **fields):
    """Overwrite fields of an entry in the directory of a zip."""
    offsets = dict(crc=(16, '<I'), packed=(20, '<I'), size=(24, '<I'), offset=(42, '<I'))
    data = bytearray(archive.read_bytes())
    start = data.rindex(b'PK\x01\x02', 0, data.rindex(name.encode()))
    for field, value in fields.items():
        offset, form = offsets[field]
        data[start + offset : start + offset + 4] = struct.pack(form, value)
    archive.write_bytes(data)


def make_zip(folder, path, **extra):
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
        for image in sorted(folder.iterdir()):
            archive.write(image, image.name)
        for name, data in extra.items():
            archive.writestr(f'{name}.png', data)
    return path


def test_a_zip_entry_that_unpacks_a_thousandfold_is_a_bad_file(folder, tmp_path):
    archive = make_zip(folder, tmp_path / 'a.zip', bomb=bytes(100 << 20))
    dataset = ImageFolder(archive, pipeline=PIPELINE)
    assert sum(dataset.prepare_data(index) is None for index in range(len(dataset))) == 1
    ((path, reason),) = dataset.bad_files._reasons.items()
    assert path.endswith('bomb.png') and '104857600' in reason and '200-fold' in reason


@pytest.mark.parametrize(
    'fields',
    [dict(packed=0xFFFFFFF0), dict(size=0xFFFFFFF0), dict(size=1), dict(offset=0xFFFFFFF0), dict(packed=1)],
    ids=str,
)
def test_a_zip_entry_that_lies_about_its_size_is_a_bad_file(folder, tmp_path, fields):
    archive = make_zip(folder, tmp_path / 'a.zip')
    damage(archive, '3.png', **fields)
    try:
        dataset = ImageFolder(archive, pipeline=PIPELINE)
        dataset.full_init()
    except OSError as error:
        assert 'damaged zip' in str(error)
        return
    assert [dataset.prepare_data(index) is None for index in range(4)] == [False] * 3 + [True]
    assert '3.png' in next(iter(dataset.bad_files._reasons))


def test_a_zip_with_a_damaged_directory_is_named(folder, tmp_path):
    archive = make_zip(folder, tmp_path / 'a.zip')
    data = archive.read_bytes()
    archive.write_bytes(data.replace(b'PK\x01\x02', b'PK\x01\x09'))
    with pytest.raises(OSError, match=r'a\.zip is a damaged zip file'):
        open_archive(str(archive))


@pytest.fixture
def database(tmp_path, folder):
    lmdb = pytest.importorskip('lmdb')
    path = tmp_path / 'images.lmdb'
    with lmdb.open(str(path), map_size=1 << 26) as environment:
        for index in range(40):
            with environment.begin(write=True) as transaction:
                transaction.put(f'{index}.png'.encode(), (folder / '0.png').read_bytes() + bytes(20_000))
    archives._opened.clear()
    return path


@pytest.mark.parametrize('fraction', [0.0, 0.02, 0.3, 0.9])
def test_a_truncated_lmdb_is_named(database, fraction):
    file = database / 'data.mdb'
    os.truncate(file, int(file.stat().st_size * fraction) // 4096 * 4096)
    with pytest.raises(OSError, match=r'images\.lmdb is (a truncated|no complete) LMDB'):
        ImageFolder(database).full_init()


def test_an_lmdb_without_unused_pages_at_its_end_is_read(database):
    """Pages that one transaction takes and frees are never written, so that the file may be shorter."""
    lmdb = pytest.importorskip('lmdb')
    with lmdb.open(str(database), map_size=1 << 26) as environment, environment.begin(write=True) as txn:
        txn.put(b'large', bytes(1 << 20))
        txn.delete(b'large')
    with lmdb.open(str(database), readonly=True, lock=False) as environment:
        stated = (environment.info()['last_pgno'] + 1) * environment.stat()['psize']
    assert (database / 'data.mdb').stat().st_size < stated
    assert len(ImageFolder(database)) == 40


def test_endings_that_are_not_read_are_counted_and_named(folder, tmp_path, caplog):
    for name in ('a.xcf', 'b.XCF', 'c.psd', 'd.npy', 'notes.txt'):
        (folder / name).write_bytes(b'x')
    with caplog.at_level('WARNING'):
        messages = []
        import mmssl.data.find_images as module

        original = module.print_log
        module.print_log = lambda text, *_, **__: messages.append(text)
        try:
            ImageFolder(folder).full_init()
            ImageFolder(make_zip(folder, tmp_path / 'a.zip')).full_init()
            images_below(folder)
        finally:
            module.print_log = original
    assert len(messages) == 3
    for message in messages:
        assert '4 files are not read' in message, message
        assert all(count in message for count in ('2 .xcf', '1 .psd', '1 .npy')), message


def test_class_folders_that_link_to_the_same_folder_stay_classes(folder, tmp_path):
    train = tmp_path / 'train'
    train.mkdir()
    for link in ('cat', 'dog'):
        (train / link).symlink_to(folder)
    shutil.copytree(folder, train / 'egg')
    (train / 'up').symlink_to(tmp_path)  # leads back to the root, which is not read again
    dataset = ImageFolder(train)
    dataset.full_init()
    labels = [dataset.get_data_info(index)['gt_label'] for index in range(len(dataset))]
    assert dataset.metainfo['classes'][:3] == ('cat', 'dog', 'egg')
    assert [labels.count(label) for label in range(3)] == [4, 4, 4]


@pytest.mark.parametrize(
    'name', ['a\tb', 'a\nb', 'a\rb', 'a\\nb', 'a\\', '\udcff', 'a b', 'ä', 'a\x0bb\u2028c']
)
def test_the_list_of_bad_files_keeps_odd_names(tmp_path, name):
    path = f'{tmp_path}/{name}.jpg'
    bad = BadFiles()
    bad.attach(tmp_path / 'bad_files.txt', str(tmp_path))
    bad.add(path, 'the\treason', 1000)
    bad.add(f'{tmp_path}/second.jpg', 'empty', 1000)
    assert read_list(tmp_path / 'bad_files.txt') == [
        (path, 'the reason'),
        (f'{tmp_path}/second.jpg', 'empty'),
    ]
    assert list_line(path, 'x').count('\n') == 1 and list_line(path, 'x').count('\t') == 1


def black_png(side):
    def chunk(name, data):
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))

    rows = zlib.compress(bytes(side // 8 + 2) * side, 1)
    header = struct.pack('>IIBBBBB', side, side, 1, 0, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', rows) + chunk(b'IEND', b'')


def test_max_pixels_above_pillows_limit(tmp_path):
    (tmp_path / 'large.png').write_bytes(black_png(15_000))
    before = Image.MAX_IMAGE_PIXELS
    image = open_image(str(tmp_path / 'large.png'), max_pixels=10**9)
    assert (image.width, image.height) == (15_000, 15_000) and before == Image.MAX_IMAGE_PIXELS
    with pytest.raises(BadImageError, match='15000x15000 pixels are above the limit max_pixels=178956970'):
        open_image(str(tmp_path / 'large.png'))


def test_an_animation_above_pillows_limit_decodes(tmp_path, monkeypatch):
    Image.new('L', (64, 64)).save(
        tmp_path / 'a.gif', save_all=True, append_images=[Image.new('L', (64, 64), 9)]
    )
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    monkeypatch.setattr('mmssl.data.images.MAX_PIXELS', 2000)
    assert decode(open_image(str(tmp_path / 'a.gif'), max_pixels=10**9)).shape == (64, 64, 3)
    assert read_bytes(str(tmp_path / 'a.gif'))


def test_check_data_names_special_files_and_unread_endings(folder, capsys):
    pytest.importorskip('mmpretrain')
    os.mkfifo(folder / 'pipe.jpg')
    for name in ('a.xcf', 'b.npy'):
        (folder / name).write_bytes(b'x')
    main(['check-data', '--data', str(folder), 'smoke/mae.py', '--workers', '0'])
    output = capsys.readouterr().out
    assert 'pipe.jpg: is a FIFO, not a regular file' in output
    assert '2 files are not read' in output and '1 .xcf, 1 .npy' in output


def test_masks_of_special_files_are_refused(folder):
    (folder / 'labels').mkdir()
    (folder / 'images').mkdir()
    shutil.move(folder / '0.png', folder / 'images' / '0.png')
    os.mkfifo(folder / 'labels' / '0.png')
    os.mkfifo(folder / 'masks.json')
    settings = dict(data_root=str(folder), data_prefix=dict(img_path='images', label_path='labels'))
    dataset = LabelMasks(**settings)
    with pytest.raises(OSError, match=r'labels/0\.png is a FIFO'):
        dataset.read_masks(dataset.get_data_info(0))
    with pytest.raises(OSError, match=r'masks\.json is a FIFO'):
        CocoMasks(
            data_root=str(folder), data_prefix=dict(img_path='images'), ann_file='masks.json'
        ).full_init()
    with pytest.raises(OSError, match=r'labels/0\.png is a FIFO'):
        check_label_map(ImageRecord('a', (8, 8)), f'{folder}/labels/0.png', np.zeros((8, 8)), LabelRange(2))
    with pytest.raises(OSError, match=r'masks\.json is a FIFO'):
        is_done(folder / 'masks.json')
