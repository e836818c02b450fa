"""Fixtures of all tests: the real test data, commands in a subprocess, functions in two processes."""

import fcntl
import gc
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import finished_runs
import pytest
import ranks

# before torch is imported anywhere; commands in a subprocess inherit it
os.environ.setdefault('OMP_NUM_THREADS', '1')
# before Triton is imported anywhere: without a GPU its kernels run in its interpreter, on CPU tensors
if not os.path.exists('/dev/nvidiactl'):
    os.environ.setdefault('TRITON_INTERPRET', '1')
# commands run in other folders
if os.environ.get('MMSSL_DATA'):
    os.environ['MMSSL_DATA'] = os.path.abspath(os.environ['MMSSL_DATA'])

ROOT = Path(__file__).resolve().parents[1]
# variables of torchrun; mmssl and mmengine set some of them themselves
OF_LAUNCHERS = ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT')


# collecting the tests makes millions of objects that stay: looking through them takes half of the time
gc.disable()


def pytest_collection_finish():
    """Leave what the imports have made out of later garbage collections, here and in forks."""
    gc.freeze()
    gc.enable()


def pytest_configure(config):
    """Keep the order below: pytest-xdist would start the files with most tests first."""
    if hasattr(config.option, 'loadscopereorder'):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items):
    """Mark the users of ``two_ranks``; order the files: those that fork, those marked slow, the rest.

    Files that fork come first because autograd refuses to run in a fork of a process in which it has
    started threads. Slow files come next so that no worker is left alone with one of them at the end.
    """
    order = {}
    for item in items:
        if 'two_ranks' in item.fixturenames:
            item.add_marker('processes')
        rank = 0 if item.get_closest_marker('processes') else 1 if item.get_closest_marker('slow') else 2
        order[item.path] = min(rank, order.get(item.path, 2))
    items.sort(key=lambda item: order[item.path])


@pytest.fixture(scope='session')
def repo_root() -> Path:
    """Root of the checkout."""
    return ROOT


@pytest.fixture(scope='session')
def data_root() -> Path:
    """Folder of real test images."""
    value = os.environ.get('MMSSL_DATA')
    if not value:
        pytest.skip('MMSSL_DATA is unset: it names the folder of real test images')
    path = Path(value).resolve()
    if not path.is_dir():
        pytest.fail(f'MMSSL_DATA={value} is not a folder')
    return path


@pytest.fixture(scope='session')
def run_cli():
    """``run_cli('train', config, ..., cwd=folder)`` runs ``mmssl train ...`` in a process of its own.

    Returns the CompletedProcess.
    """

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
def two_ranks(tmp_path_factory):
    """``two_ranks(function, *arguments)`` calls ``function(rank, *arguments)`` in two gloo processes.

    Returns both results; see :func:`ranks.run`.
    """

    def run(function, *arguments, **options):
        return ranks.run(tmp_path_factory.mktemp, function, *arguments, **options)

    return run


@pytest.fixture(scope='session')
def warm_cli(tmp_path_factory):
    """Like ``run_cli``, in a fork of a process that has imported the libraries, which saves seconds.

    See ``warm.py``.

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
    """The demo data, made once for all workers. Tests must not change it."""
    for name in ('skimage', 'sklearn'):
        pytest.importorskip(name, reason='the demo data is generated from images in it')
    from mmssl.data.demo import make_demo_data

    root = tmp_path_factory.getbasetemp()
    if os.environ.get('PYTEST_XDIST_WORKER'):
        root = root.parent
    with open(root / 'demo.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return make_demo_data(root / 'demo')


@pytest.fixture(scope='session')
def with_demo(demo_data):
    """``with_demo(folder)`` links the demo data into a folder, as ``data/demo``, and returns the folder."""

    def link(folder: Path) -> Path:
        (folder / 'data').mkdir(exist_ok=True)
        (folder / 'data/demo').symlink_to(demo_data, target_is_directory=True)
        return folder

    return link


@pytest.fixture
def forget_runs():
    """No logger or visualizer of a test before writes for the runs of this one."""
    finished_runs.forget()


@pytest.fixture(autouse=True)
def no_rank_left_behind():
    """Restore the variables of launchers: a run in a later test would take itself for a rank."""
    before = {name: os.environ.get(name) for name in OF_LAUNCHERS}
    yield
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope='module', autouse=True)
def no_scope_from_before():
    """Start every test module without the default scope and the log files of the modules before it."""
    registry = sys.modules.get('mmengine.registry')
    if registry is not None:
        registry.DefaultScope._instance_dict.clear()
    loggers = sys.modules.get('mmengine.logging')
    for logger in loggers.MMLogger._instance_dict.values() if loggers is not None else ():
        for handler in logger.handlers[:]:
            if isinstance(handler, logging.FileHandler):  # of a finished run, whose folder is gone
                logger.removeHandler(handler)
