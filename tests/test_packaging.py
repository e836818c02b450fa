"""The wheel: its files are the tree's, and it trains from a folder of its own."""

import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

CARRIED = (
    'mmssl',
    'configs',
    'tools',
    'setup.cfg',
    'pyproject.toml',
    'model-index.yml',
    'LICENSE',
    'README.md',
)
TOOLBOX_PREFIXES = ('mm', 'onedl')


def pip(*arguments, cwd=None):
    done = subprocess.run(
        [sys.executable, '-m', 'pip', *map(str, arguments)], capture_output=True, text=True, cwd=cwd
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope='module')
def wheel(repo_root, tmp_path_factory):
    """Built from a copy, so that no build folder is left in, or read from, the checkout."""
    source, out = tmp_path_factory.mktemp('source'), tmp_path_factory.mktemp('wheel')
    for name in CARRIED:
        path = repo_root / name
        if path.is_dir():
            shutil.copytree(path, source / name, symlinks=True)
        elif path.exists():
            shutil.copy(path, source / name)
    pip('wheel', '--no-deps', '--no-build-isolation', '--no-index', '-w', out, source)
    built = list(out.glob('*.whl'))
    assert len(built) == 1
    return built[0]


@pytest.fixture(scope='module')
def target(wheel, tmp_path_factory):
    """A folder with the wheel in it and nothing else."""
    folder = tmp_path_factory.mktemp('target')
    pip('install', '--no-deps', '--no-index', '--no-compile', '--target', folder, wheel)
    return folder


def python(target, cwd, *arguments, timeout=300):
    """Run Python outside the checkout, with only the target on PYTHONPATH."""
    env = {**os.environ, 'PYTHONPATH': str(target)}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=env,
        timeout=timeout,
    )


def files_below(folder):
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob('*')
        if path.is_file() and '__pycache__' not in path.parts and path.suffix != '.pyc'
    }


def test_wheel_has_every_file_of_the_tree_and_no_other(wheel, repo_root):
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if '.dist-info/' not in name}
    expected = {f'mmssl/{name}' for name in files_below(repo_root / 'mmssl') if not name.startswith('.mim/')}
    expected |= {
        f'mmssl/.mim/{folder}/{name}'
        for folder in ('configs', 'tools')
        for name in files_below(repo_root / folder)
    }
    expected.add('mmssl/.mim/model-index.yml')
    assert inside == expected


def test_metadata_asks_for_no_toolbox_unless_an_extra_does(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith('.dist-info/METADATA'))
        lines = archive.read(name).decode().splitlines()
        assert any(entry.endswith('LICENSE') for entry in archive.namelist())
    required = [line.partition(': ')[2] for line in lines if line.startswith('Requires-Dist')]
    plain = [line for line in required if 'extra ==' not in line]
    assert sorted(plain) == [
        'numpy>=1.26',
        'pillow',
        'safetensors>=0.4',
        'scipy>=1.11',
        'torch>=2.6',
        'tqdm',
    ]
    assert 'Requires-Python: <3.13,>=3.10' in lines
    assert {'onedl', 'det', 'seg', 'openmmlab', 'demo', 'lmdb', 'bench', 'test', 'all'} <= {
        line.partition(': ')[2] for line in lines if line.startswith('Provides-Extra')
    }


def test_no_extra_mixes_the_two_flavours(repo_root):
    config = configparser.ConfigParser()
    config.read(repo_root / 'setup.cfg')
    for extra, text in config['options.extras_require'].items():
        toolboxes = [
            line
            for line in text.split()
            if line.startswith(TOOLBOX_PREFIXES) and not line.startswith('mmssl')
        ]
        assert len({line.startswith('onedl') for line in toolboxes}) < 2, extra
    assert 'openmmlab' not in config['options.extras_require']['all']


def test_links_are_relative_and_lead_into_the_tree(repo_root):
    for name in ('configs', 'tools', 'model-index.yml'):
        link = repo_root / 'mmssl' / '.mim' / name
        assert link.is_symlink() and os.readlink(link) == f'../../{name}'
        assert link.exists()


def test_model_index_imports_every_metafile(repo_root):
    import yaml

    patterns = yaml.safe_load((repo_root / 'model-index.yml').read_text())['Import']
    imported = {path for pattern in patterns for path in repo_root.glob(pattern)}
    assert imported == set((repo_root / 'configs').rglob('metafile.yml'))


def test_config_root_of_the_installed_wheel(target, tmp_path):
    done = python(
        target,
        tmp_path,
        '-c',
        'import mmssl; from mmssl.config import paths; print(mmssl.__file__, paths.config_root())',
    )
    assert done.stdout.split() == [f'{target}/mmssl/__init__.py', f'{target}/mmssl/.mim/configs'], done.stderr


def test_config_root_without_symbolic_links(repo_root, tmp_path):
    # as git on Windows checks them out: text files that hold the path
    shutil.copytree(repo_root / 'mmssl', tmp_path / 'mmssl', symlinks=True)
    (tmp_path / 'configs').mkdir()
    link = tmp_path / 'mmssl' / '.mim' / 'configs'
    link.unlink()
    link.write_text('../../configs')
    done = python(tmp_path, tmp_path, '-c', 'from mmssl.config import paths; print(paths.config_root())')
    assert done.stdout.strip() == str(tmp_path / 'configs'), done.stderr


def test_trains_three_iterations_from_the_wheel(target, tmp_path):
    images = tmp_path / 'images'
    images.mkdir()
    draw = np.random.default_rng(0)
    for index in range(20):
        Image.fromarray(draw.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(images / f'{index}.jpg')
    config, work_dir = tmp_path / 'mine.py', tmp_path / 'out'
    config.write_text("_base_ = 'mmssl::smoke/mae.py'\n")
    done = python(
        target,
        tmp_path,
        '-m',
        'mmssl.cli',
        'train',
        config,
        '--data',
        images,
        '--work-dir',
        work_dir,
        '--no-validate',
        '--cfg-options',
        'train_cfg.max_iters=3',
    )
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-3000:]
    steps = re.findall(r'\[(\d)/3\].* loss: ([\d.]+)', log)
    assert [step for step, _ in steps] == ['1', '2', '3'], log[-3000:]
    assert all(0 < float(loss) < 10 for _, loss in steps)
    assert (work_dir / (work_dir / 'last_checkpoint').read_text().strip()).is_file()


def test_tools_of_the_wheel_run(target, tmp_path):
    # what `mim train mmssl ...` calls
    done = python(target, tmp_path, target / 'mmssl' / '.mim' / 'tools' / 'train.py', '--help')
    assert done.returncode == 0, done.stderr
    assert 'CONFIG' in done.stdout or 'config' in done.stdout
