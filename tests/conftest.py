"""What all tests share: one thread a process, the real test data, commands in a subprocess."""

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
        return subprocess.run([sys.executable, '-m', 'mmssl.cli', *map(str, arguments)], capture_output=True, text=True, cwd=cwd,
                              env={**os.environ, 'PYTHONPATH': path, **(env or {})}, timeout=timeout)

    return run


@pytest.fixture(scope='session')
def warm_cli(tmp_path_factory):
    """As ``run_cli``, in a fork of a process that has imported the libraries: seconds less a command; see ``warm.py``."""
    logs = tmp_path_factory.mktemp('warm')
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH')]))
    server = subprocess.Popen([sys.executable, str(ROOT / 'tests/warm.py')], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                              env={**os.environ, 'PYTHONPATH': path})

    def run(*arguments, cwd=None, timeout=300) -> subprocess.CompletedProcess:
        command = list(map(str, arguments))
        files = {name: str(logs / name) for name in ('stdout', 'stderr')}
        server.stdin.write(json.dumps({'arguments': command, 'cwd': str(cwd or os.getcwd()), **files}) + '\n')
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


@pytest.fixture(scope='module', autouse=True)
def no_scope_from_before():
    """A module of tests begins without a default scope, whatever ran before it in this process set."""
    registry = sys.modules.get('mmengine.registry')
    if registry is not None:
        registry.DefaultScope._instance_dict.clear()
