"""What all tests share: one thread a process, the real test data, commands in a subprocess."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

# before torch is imported anywhere; commands in a subprocess inherit it
os.environ.setdefault('OMP_NUM_THREADS', '1')
# commands run in other folders
if os.environ.get('MMSSL_DATA'):
    os.environ['MMSSL_DATA'] = os.path.abspath(os.environ['MMSSL_DATA'])

ROOT = Path(__file__).resolve().parents[1]
# files that take longest come first, so that no worker is left alone with one of them at the end
# before them those that fork processes which learn: autograd refuses that once a test before has started its
# threads
LONGEST = (
    'test_sam_two_processes',
    'test_rfcn_detector',
    'test_sync_bn',
    'test_moby',
    'test_moco',
    'test_dino',
    'test_mocov3',
    'test_swav',
    'test_all_configs',
    'test_distributed',
    'test_mmcv_ext',
    'test_all_models',
    'test_docs',
    'test_evaluation_commands',
    'test_train',
    'test_hosts',
    'test_resume',
    'test_fsdp',
    'test_segmentation_commands',
    'test_rfcn_launchers',
    'test_resume_processes',
    'test_convert_command',
    'test_deform_ps_roi',
    'test_ps_roi',
    'test_demo',
    'test_doctor',
    'test_packaging',
)


def pytest_configure(config):
    """pytest-xdist would begin with the files of the most tests and end with those of a single long one."""
    if hasattr(config.option, 'loadscopereorder'):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """The files in LONGEST, then the others; the order within a file stays."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope='session')
def repo_root() -> Path:
    """The checkout that the tests stand in."""
    return ROOT


@pytest.fixture(scope='session')
def data_root() -> Path:
    """Folder of real test images."""
    value = os.environ.get('MMSSL_DATA')
    if not value:
        pytest.skip('MMSSL_DATA is unset: it names the folder of real test images')
    path = Path(value).resolve()
    if not path.is_dir():
        pytest.fail(f'MMSSL_DATA={value} is no folder')
    return path


@pytest.fixture(scope='session')
def run_cli():
    """``run_cli('train', config, ..., cwd=folder)`` runs ``mmssl train ...`` as a person would and returns the CompletedProcess."""

    def run(*arguments, cwd=None, env=None, timeout=300) -> subprocess.CompletedProcess:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
        return subprocess.run(
            [sys.executable, '-m', 'mmssl.cli', *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=cwd,
            env={**os.environ, 'PYTHONPATH': path, **(env or {})},
            timeout=timeout,
        )

    return run


@pytest.fixture(scope='session')
def warm_cli(tmp_path_factory):
    """As ``run_cli``, in a fork of a process that has imported the libraries: seconds less a command; see ``warm.py``.

    ``ranks=2`` starts as many processes as torchrun would, ``program=path`` runs that file in place of
    ``mmssl``.
    """
    logs = tmp_path_factory.mktemp('warm')
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    server = subprocess.Popen(
        [sys.executable, str(ROOT / 'tests/warm.py')],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, 'PYTHONPATH': path},
    )

    def run(
        *arguments, cwd=None, env=None, timeout=300, ranks=1, program=None
    ) -> subprocess.CompletedProcess:
        command = list(map(str, arguments))
        if ranks > 1 and not program:
            command[1:1] = ['--launcher', 'pytorch']
        files = {name: str(logs / name) for name in ('stdout', 'stderr')}
        request = {
            'arguments': command,
            'cwd': str(cwd or os.getcwd()),
            'env': env or {},
            'ranks': ranks,
            'program': program and str(program),
            **files,
        }
        server.stdin.write(json.dumps(request) + '\n')
        server.stdin.flush()
        pid = json.loads(server.stdout.readline())['pid']
        clock = threading.Timer(timeout, os.killpg, (pid, signal.SIGKILL))
        clock.start()
        status = json.loads(server.stdout.readline())['status']
        clock.cancel()
        out, err = (Path(files[name]).read_text(errors='replace') for name in ('stdout', 'stderr'))
        return subprocess.CompletedProcess(command, status, out, err)

    yield run
    server.stdin.close()
    server.wait(30)


@pytest.fixture(scope='session')
def demo_data(tmp_path_factory) -> Path:
    """The demo data, made once for all workers; to be read only."""
    from mmssl.data.demo import make_demo_data

    root = tmp_path_factory.getbasetemp()
    if os.environ.get('PYTEST_XDIST_WORKER'):
        root = root.parent
    with open(root / 'demo.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return make_demo_data(root / 'demo')


@pytest.fixture(scope='session')
def with_demo(demo_data):
    """``with_demo(folder)`` gives a folder the ``data/demo`` that a command would otherwise make there first, and returns the folder."""

    def link(folder: Path) -> Path:
        (folder / 'data').mkdir(exist_ok=True)
        (folder / 'data/demo').symlink_to(demo_data, target_is_directory=True)
        return folder

    return link


@pytest.fixture(scope='module', autouse=True)
def no_scope_from_before():
    """A module of tests begins without a default scope, whatever ran before it in this process set."""
    registry = sys.modules.get('mmengine.registry')
    if registry is not None:
        registry.DefaultScope._instance_dict.clear()
