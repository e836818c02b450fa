"""README and docs: parsers accept the commands, cheap ones run; links, pictures and names exist."""

import argparse
import ast
import configparser
import contextlib
import functools
import importlib
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in (
        ROOT / 'README.md',
        ROOT / 'README_zh-CN.md',
        ROOT / 'CONTRIBUTING.md',
        ROOT / 'CHANGELOG.md',
        ROOT / 'CODE_OF_CONDUCT.md',
        ROOT / 'SECURITY.md',
        *(ROOT / 'configs').glob('*/README.md'),
        *(page for page in (ROOT / 'docs').rglob('*.md') if '_build' not in page.parts),
    )
)
FENCE = re.compile(r'^```(\w*)\n(.*?)^```', re.M | re.S)
PLACEHOLDER = re.compile(r'(?:.*/)?[A-Z][A-Z0-9_]+(?:\.\.\.|\.py|\.pth)?')


class Command(NamedTuple):
    """A command of a page, in words."""

    page: str
    words: tuple[str, ...]

    @property
    def text(self) -> str:
        return ' '.join(self.words)


def blocks(page, language):
    return [
        body for name, body in FENCE.findall((ROOT / page).read_text(encoding='utf-8')) if name == language
    ]


def shell(page):
    """Blocks of shell commands: those marked bash, and unmarked ones that begin with a known program."""
    return blocks(page, 'bash') + [
        body for body in blocks(page, '') if re.match(r'(mmssl|python|pip|make|tools/\w+\.sh) ', body)
    ]


def split(line):
    """The commands of a line of a shell, without settings of the environment, redirections and comments."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars='&|;<>')
    lexer.whitespace_split, lexer.commenters = True, '#'
    words, commands = [], []
    for word in [*lexer, ';']:
        if word in ('&&', '||', '|', ';'):
            commands.append(words)
            words = []
        else:
            words.append(word)
    for words in filter(None, commands):
        if words[:2] == ['git', 'clone']:
            words = words[:2]  # <this repository>
        if '>' in words:
            words = words[: words.index('>')]
        while words and re.fullmatch(r'[A-Z_]+=.*', words[0]):
            words = words[1:]
        if words:
            yield tuple(words)


def commands(page):
    for body in shell(page):
        for line in body.replace('\\\n', ' ').splitlines():
            yield from (Command(page, words) for words in split(line))
    for line in re.findall(
        r'`(python tools/[^`\[]+)`', FENCE.sub('', (ROOT / page).read_text(encoding='utf-8'))
    ):
        yield from (Command(page, words) for words in split(line))


ALL = [command for page in PAGES for command in commands(page)]


class Parsed(BaseException):
    """The arguments of a program were taken."""


def quietly(parse, command):
    """Parse; a refusal is a failure that tells the page and the parser's own words."""
    try:
        return parse()
    except SystemExit as error:
        pytest.fail(f'{command.page}: {command.text}: refused with status {error.code}')


def is_placeholder(word):
    return bool(PLACEHOLDER.fullmatch(word))


@functools.cache
def config(name):
    from mmssl.config.load import load_config

    return load_config(str(ROOT / name) if (ROOT / name).is_file() else name)


def local_files(page):
    """Files that a page writes out: Python blocks whose first line is a comment with the name."""
    return {
        found.group(1): body for body in blocks(page, 'python') if (found := re.match(r'# (\w+\.py)\n', body))
    }


def check_config(name, options, command):
    if is_placeholder(name) or name in local_files(command.page) or name.startswith('work_dirs/'):
        return
    cfg = config(name)  # the nearest name is in its error
    for option in options or ():
        key, equals, _ = option.partition('=')
        assert equals, f'{command.page}: {option} is no KEY=VALUE'
        node = cfg
        for part in key.split('.')[:-1]:
            assert part in node, f'{command.page}: {name} has no {part!r} of {key}'
            node = node[part]


def check_mmssl(command, name, arguments):
    from mmssl.cli import COMMANDS, command_parser

    assert name in COMMANDS or name in ('--help', 'help'), f'{command.page}: no command {name}'
    if name not in COMMANDS:
        return
    args = quietly(lambda: command_parser(name).parse_args(list(arguments)), command)
    for argument in ('config', 'diff', 'base'):
        if getattr(args, argument, None):
            check_config(getattr(args, argument), getattr(args, 'cfg_options', ()), command)
    model = getattr(args, 'model', None)
    if model and not is_placeholder(model) and model.endswith('.py'):
        check_config(model, getattr(args, 'cfg_options', ()), command)


def check_program(command, path, arguments, monkeypatch):
    """A program under tools/: its own parser, and nothing behind it."""

    def stop(parser, args=None, namespace=None):
        real(parser, args, namespace)
        raise Parsed

    real = argparse.ArgumentParser.parse_args
    monkeypatch.setattr(argparse.ArgumentParser, 'parse_args', stop)
    monkeypatch.setattr(sys, 'argv', [path, *arguments])
    monkeypatch.setattr(sys, 'path', [str((ROOT / path).parent), *sys.path])
    with contextlib.suppress(Parsed):
        quietly(lambda: runpy.run_path(str(ROOT / path), run_name='__main__'), command)
        pytest.fail(f'{command.page}: {path} took no arguments')
    for word in arguments:
        if word.endswith('.py') and not is_placeholder(word) and '*' not in word:
            assert (ROOT / word).is_file(), f'{command.page}: {word} is not there'


def check_launcher(command, script, arguments):
    """tools/dist_*.sh take CONFIG [CHECKPOINT] N, tools/slurm_*.sh PARTITION JOB CONFIG [CHECKPOINT]."""
    assert (ROOT / 'tools' / script).is_file(), f'{command.page}: no tools/{script}'
    kind, name = script.removesuffix('.sh').split('_')
    first = {'dist': 0, 'slurm': 2}[kind]
    count = 1 if name == 'train' else 2
    own, rest = list(arguments[first : first + count]), list(arguments[first + count :])
    if kind == 'dist':
        assert rest.pop(0).isdigit(), f'{command.page}: {command.text}: the number of processes is missing'
    check_mmssl(command, name, [*own, *rest])


def extras():
    parser = configparser.ConfigParser()
    parser.read(ROOT / 'setup.cfg')
    return set(parser['options.extras_require'])


def check_pip(command, arguments):
    from packaging.requirements import Requirement

    assert arguments[0] == 'install', command
    words = list(arguments[1:])
    while words:
        word = words.pop(0)
        if word == '-c':
            assert (ROOT / words.pop(0)).is_file(), command
        elif word == '-e' or word.startswith('.['):
            target = words.pop(0) if word == '-e' else word
            found = re.fullmatch(r'\.(?:\[([\w,]+)\])?', target)
            assert found, command
            assert set(filter(None, (found.group(1) or '').split(','))) <= extras(), command
        else:
            assert not word.startswith('-'), f'{command.page}: {command.text}: no rule for {word}'
            wanted = Requirement(word)
            assert wanted.name != 'mmssl' or wanted.extras <= extras(), command


def check_make(command, arguments):
    text = (ROOT / 'Makefile').read_text()
    for word in arguments:
        name = word.split('=')[0]
        assert re.search(rf'^{name}(:| \?=)', text, re.M), f'{command.page}: the Makefile has no {name}'


def check_python(command, arguments, monkeypatch):
    if arguments[0] == '-m':
        assert arguments[1] == 'pytest', f'{command.page}: no rule for python -m {arguments[1]}'
        for word in arguments[2:]:
            assert word.startswith('-') or (ROOT / word.split('::')[0]).exists(), (
                f'{command.page}: {word} is not there'
            )
    elif arguments[0] in ('tools/train.py', 'tools/test.py'):
        check_mmssl(command, Path(arguments[0]).stem, arguments[1:])
    else:
        known = re.fullmatch(r'tools/[\w/]+\.py', arguments[0]) and (ROOT / arguments[0]).is_file()
        assert known, f'{command.page}: no rule for {command.text}'
        check_program(command, arguments[0], arguments[1:], monkeypatch)


def check(command, monkeypatch):
    """Check one command; a program without a rule fails."""
    program, *arguments = command.words
    if program == 'mmssl':
        check_mmssl(command, arguments[0], arguments[1:])
    elif re.fullmatch(r'tools/(dist|slurm)_\w+\.sh', program):
        check_launcher(command, Path(program).name, arguments)
    elif program == 'python':
        check_python(command, arguments, monkeypatch)
    elif program == 'pip':
        check_pip(command, arguments)
    elif program == 'make':
        check_make(command, arguments)
    elif program == 'pre-commit':
        assert arguments == ['install'] and (ROOT / '.pre-commit-config.yaml').is_file(), command
    elif command.words not in (('git', 'clone'), ('cd', 'mmssl'), ('source', '.venv/bin/activate')):
        pytest.fail(f'{command.page}: no rule covers {command.text!r}')


@pytest.mark.parametrize('page', [page for page in PAGES if any(True for _ in commands(page))])
def test_commands_are_what_the_parsers_take(page):
    for command in commands(page):
        with pytest.MonkeyPatch.context() as patch:
            check(command, patch)


@pytest.mark.parametrize(
    'line',
    [
        'mmssl tran CONFIG',
        'mmssl train CONFIG --dada DIR',
        'mmssl train configs/mae/no.py',
        'tools/dist_train.sh CONFIG --data DIR',
        'mmssl train configs/smoke/mae.py --cfg-options modell.x.y=1',
        "pip install -e '.[nothing]'",
        'make nothing',
        'rm -rf /',
        'python tools/demo.py --no',
    ],
)
def test_a_wrong_command_is_found(line, monkeypatch):
    (words,) = split(line)
    with pytest.raises((pytest.fail.Exception, AssertionError, OSError, ValueError)):
        check(Command('page', words), monkeypatch)


# what a documented command becomes to run in seconds on the demo data; in order
SUBSTITUTES = (
    (r'configs/mae/\S+\.py', 'configs/smoke/mae.py'),
    (r'configs/gcn/\S+\.py', 'configs/smoke/gcn.py'),
    (r'configs/rfcn/\S+\.py', 'configs/smoke/rfcn.py'),
    (r'IMAGE(\.\.\.)?', 'data/demo/photos/coffee.jpg'),
    (r'--model vit_b --checkpoint \S+', '--model smoke/sam.py --checkpoint random --points-per-side 4'),
    (r'\bCHECKPOINT\b', 'random'),
    (r'--out DIR', '--out out'),
    (r'batch_size=64', 'batch_size=16'),
)
# command -> (what is replaced first, the file that it makes)
MAE, GCN = 'work_dirs/mae', 'work_dirs/gcn'
MAE_CONFIG = 'configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'
RUN = {
    'mmssl demo-data data/demo': ({}, 'data/demo/demo_data.json'),
    'mmssl check-data configs/smoke/mae.py': ({}, None),
    'mmssl train configs/smoke/mae.py': ({}, f'{MAE}/iter_10.pth'),
    'mmssl report work_dirs/mae': ({}, f'{MAE}/report.html'),
    'mmssl knn configs/smoke/mae.py work_dirs/mae/iter_10.pth --data data/demo/imagenet': (
        {'--data': '--max-train 200 --max-val 60 --data'},
        None,
    ),
    f'mmssl reconstruct {MAE_CONFIG} CHECKPOINT IMAGE... --out picture.png': (
        {'CHECKPOINT': f'{MAE}/iter_10.pth'},
        'picture.png',
    ),
    'mmssl embedding CONFIG CHECKPOINT --data DIR --out map.png': (
        {'CONFIG': 'smoke/mae.py', 'DIR': 'data/demo/imagenet', '--out': '--max-images 60 --out'},
        'map.png',
    ),
    'mmssl train configs/gcn/gcn_resnet50_4xb4-40000i_voc12aug-512x512.py --data DIR': (
        {'DIR': 'data/demo/scenes'},
        f'{GCN}/iter_10.pth',
    ),
    'mmssl test CONFIG CHECKPOINT --data DIR --out masks/ --show-dir pictures/': (
        {'CONFIG': 'smoke/gcn.py', 'CHECKPOINT': f'{GCN}/iter_10.pth', 'DIR': 'data/demo/scenes'},
        'masks',
    ),
    'mmssl visualize detections CONFIG CHECKPOINT IMAGE --out boxes.png': (
        {'CONFIG': 'smoke/rfcn.py'},
        'boxes.png',
    ),
    'mmssl segment IMAGE... --auto --model vit_b --checkpoint sam_vit_b_01ec64.pth --out masks': (
        {'--out masks': '--out all'},
        'all/annotations.json',
    ),
    'mmssl print-config CONFIG --diff BASE': (
        {'CONFIG': 'smoke/mae.py', 'BASE': 'mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'},
        None,
    ),
    'mmssl completion bash': ({}, None),
    'mmssl train my_method_config.py': ({}, 'work_dirs/my_method_config/iter_10.pth'),
    'mmssl knn my_method_config.py work_dirs/my_method_config/iter_10.pth --data data/demo/imagenet': (
        {'--data': '--max-train 60 --max-val 20 --data'},
        None,
    ),
}


@pytest.fixture(scope='module')
def folder(tmp_path_factory, with_demo):
    path = with_demo(tmp_path_factory.mktemp('docs'))
    for name, body in local_files('docs/adding.md').items():
        (path / name).write_text(body)
    return path


@pytest.mark.parametrize('text', RUN)
def test_cheap_commands_run_on_the_demo_data(text, folder, warm_cli):
    assert text in {command.text for command in ALL}, 'no page has this command any more'
    first, made = RUN[text]
    for word, other in first.items():
        text = text.replace(word, other)
    for pattern, other in SUBSTITUTES:
        text = re.sub(pattern, other, text)
    done = warm_cli(*shlex.split(text)[1:], cwd=folder, env={'PYTHONPATH': f'{folder}:{ROOT}'})
    assert done.returncode == 0, done.stderr[-3000:]
    assert made is None or (folder / made).exists(), done.stdout[-2000:]


@pytest.mark.filterwarnings('ignore:.*random weights')
def test_python_runs_on_the_demo_data(folder, monkeypatch, capsys):
    """The first block of the page about Python, as it stands."""
    monkeypatch.chdir(folder)
    exec(compile(blocks('docs/python.md', 'python')[0], 'docs/python.md', 'exec'), {})
    assert 'mae_vit-base-p16_8xb512-amp-coslr-300e_in1k' in capsys.readouterr().out
    assert list(Path('segmented').rglob('*.png'))


def prose(page):
    """A page without blocks of code, and without code in lines."""
    return re.sub(r'`[^`\n]*`', '', FENCE.sub('', (ROOT / page).read_text(encoding='utf-8')))


def anchors(path):
    """Those of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r'^#+ (.*)$', FENCE.sub('', path.read_text(encoding='utf-8')), re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


@pytest.mark.parametrize('page', PAGES)
def test_links_and_pictures_are_there(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', prose(page)):
        if re.match(r'\w+:', target):
            assert target.startswith(('https://', 'http://')), f'{page}: {target}'
            continue
        name, _, anchor = target.partition('#')
        path = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert path.exists(), f'{page}: {target} is not there'
        if anchor:
            if (
                path.parent.name == 'configs' and path.parent.parent.name == 'docs'
            ):  # its text is the README's
                path = ROOT / 'configs' / path.stem / 'README.md'
            assert anchor in anchors(path), f'{page}: {target}: there is no such heading'


def parts():
    from mmengine.registry import Registry

    from mmssl import registry

    found = set()
    for own in vars(registry).values():
        if isinstance(own, Registry) and own.scope == 'mmssl':
            own.import_from_location()
            own.import_pending()
            found |= set(own.module_dict)
    return found


@pytest.mark.filterwarnings('ignore:.*deprecated and will be removed in mmssl')  # the changelog names them
def test_names_of_ours_exist():
    registered = parts()
    for page in PAGES:
        if page.startswith('docs/trials/'):  # misspelt on purpose
            continue
        text = (ROOT / page).read_text(encoding='utf-8')
        for name in set(re.findall(r'(?<![\w./])mmssl\.([A-Za-z_][\w.]*\w)', text)):
            first, *rest = name.split('.')
            if (first in registered and not rest) or name.endswith('.py') or f'class {name}(' in text:
                continue
            node, path = None, ['mmssl', first, *rest]
            for count in range(len(path), 0, -1):
                with contextlib.suppress(ImportError):
                    node = importlib.import_module('.'.join(path[:count]))
                    break
            for part in path[count:]:
                assert hasattr(node, part), f'{page}: there is no mmssl.{name}'
                node = getattr(node, part)


def test_tests_named_on_the_page_of_promises_exist():
    known = {
        name
        for path in (ROOT / 'tests').rglob('*.py')
        for name in [path.stem, *re.findall(r'def (test_\w+)', path.read_text(encoding='utf-8'))]
    }
    text = (ROOT / 'docs/reliability.md').read_text(encoding='utf-8')
    assert set(re.findall(r'\btest_\w+', text)) <= known
    paths = re.findall(r'`((?:tests|tools|docs)/[\w./-]+)`', text)
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize('page', [page for page in PAGES if blocks(page, 'python')])
def test_python_is_python_and_configs_are_configs(page, tmp_path):
    from mmssl.config.load import load_config

    for number, body in enumerate(blocks(page, 'python')):
        if body.startswith('_base_'):
            (tmp_path / f'{number}.py').write_text(body)
            assert load_config(str(tmp_path / f'{number}.py')).model
        else:
            assert ast.parse(body).body, f'{page}: an empty block'


def test_own_segmentation_data_builds(tmp_path, with_demo, monkeypatch):
    """The config for a folder of images and label maps, with such a folder."""
    from mmengine.registry import DATASETS, init_default_scope

    from mmssl.config.load import load_config

    body = next(body for body in blocks('docs/own-data.md', 'python') if 'SegmentationFolder' in body)
    monkeypatch.chdir(with_demo(tmp_path))
    Path('mine.py').write_text(body.replace('data/parts', 'data/own'))
    Path('data/own').mkdir()
    for name in ('images', 'labels'):
        Path('data/own', name).symlink_to(Path('data/demo/scenes', name).resolve())
    Path('data/own/classes.txt').write_text('back\nzero\none\n')
    cfg = load_config('mine.py')
    init_default_scope(cfg.default_scope)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        data = DATASETS.build(loader.dataset)
        assert len(data) and data.metainfo['classes'] == ('back', 'zero', 'one')
    assert cfg.val_dataloader.dataset.pipeline[-1].type == 'PackSegInputs'


def test_the_site_has_every_config_folder_and_every_package():
    named = {path.stem for path in (ROOT / 'docs/configs').glob('*.md')} - {'index'}
    assert named == {path.parent.name for path in (ROOT / 'configs').glob('*/README.md')}
    api = {path.stem for path in (ROOT / 'docs/api').glob('*.md')} - {'index', 'package'}
    packages = {path.parent.name for path in (ROOT / 'mmssl').glob('*/__init__.py')}
    assert api == packages - {'commands', 'demo_page'}
    tree = (ROOT / 'docs/api/index.md').read_text()
    assert all(re.search(rf'^{name}$', tree, re.M) for name in api)


def test_both_readmes_have_the_same_systems():
    english, chinese = (
        set(re.findall(r'\]\((configs/[\w-]+/README\.md)\)', (ROOT / name).read_text(encoding='utf-8')))
        for name in ('README.md', 'README_zh-CN.md')
    )
    assert english == chinese
    assert (
        '](README_zh-CN.md)' in (ROOT / 'README.md').read_text()
        and '](README.md)' in (ROOT / 'README_zh-CN.md').read_text()
    )


def test_citation_and_versions_agree():
    import yaml

    from mmssl import __version__

    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert {'cff-version', 'message', 'title', 'authors', 'version', 'license'} <= set(citation)
    assert (citation['version'], citation['license'], citation['type']) == (
        __version__,
        'Apache-2.0',
        'software',
    )
    assert f'## {__version__}' in (ROOT / 'CHANGELOG.md').read_text()


def test_pre_commit_runs_what_make_lint_runs():
    import yaml

    hooks = [
        hook
        for repo in yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
        for hook in repo['hooks']
    ]
    lint = re.search(r'^lint:.*\n((?:\t.*\n)+)', (ROOT / 'Makefile').read_text(), re.M).group(1)
    assert {hook['entry'].split()[0] for hook in hooks} == set(re.findall(r'-m (\w+)', lint))


def test_the_readme_lists_every_command():
    from mmssl.cli import COMMANDS

    text = (ROOT / 'README.md').read_text()
    table = text.partition('\n## Commands\n')[2].partition('\n## ')[0]
    assert [name for name in COMMANDS if not re.search(rf'^\|.*`{name}\b', table, re.M)] == []
