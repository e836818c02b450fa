"""Two runs in one work directory: the second is refused, and a dead process holds no lock."""

import os
import signal
import time

import pytest

from mmssl.cli import main
from mmssl.engine.work_dir import work_dir_transaction
from mmssl.engine.work_dir_lock import LOCK_NAME, WorkDirInUseError, work_dir_lock


@pytest.fixture
def holder(tmp_path):
    """A work directory and the process that holds its lock, which ends with the test."""
    work_dir = tmp_path / 'run'
    locked, set_locked = os.pipe()
    pid = os.fork()
    if not pid:
        with work_dir_lock(str(work_dir)):
            os.write(set_locked, b'.')
            time.sleep(600)
        os._exit(1)
    os.close(set_locked)
    assert os.read(locked, 1) == b'.'
    os.close(locked)
    yield work_dir, pid
    end(pid)


def end(pid):
    """Kill a child, unless that has been done."""
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def test_the_second_run_is_refused_by_name_unless_forced(holder):
    work_dir, pid = holder
    (work_dir / 'epoch_1.pth').write_bytes(b'x')
    expected = rf'run is in use by process {pid} on .*; wait .* --work-dir, .* --force'
    with (
        pytest.raises(WorkDirInUseError, match=expected),
        work_dir_transaction(str(work_dir)),
        work_dir_lock(str(work_dir)),
    ):
        pytest.fail('not refused')
    with work_dir_lock(str(work_dir), force=True):
        pass
    assert sorted(os.listdir(work_dir)) == [LOCK_NAME, 'epoch_1.pth']
    with pytest.raises(WorkDirInUseError), work_dir_lock(str(work_dir)):
        pytest.fail('the forced run has removed the lock of the first one')


def test_a_dead_process_holds_no_lock(holder):
    work_dir, pid = holder
    end(pid)
    assert (work_dir / LOCK_NAME).exists()
    with work_dir_lock(str(work_dir)):
        assert str(os.getpid()) in (work_dir / LOCK_NAME).read_text()
    assert not os.listdir(work_dir)


@pytest.mark.parametrize(
    ('launcher', 'variable'),
    [('pytorch', 'RANK'), ('slurm', 'SLURM_PROCID'), ('mpi', 'OMPI_COMM_WORLD_RANK')],
)
def test_the_first_rank_alone_holds_the_lock(holder, monkeypatch, launcher, variable):
    work_dir, _ = holder
    monkeypatch.setenv(variable, '1')
    with work_dir_lock(str(work_dir), launcher):
        pass
    monkeypatch.setenv(variable, '0')
    with pytest.raises(WorkDirInUseError), work_dir_lock(str(work_dir), launcher):
        pass


def test_a_failed_run_leaves_no_work_dir(tmp_path):
    work_dir = str(tmp_path / 'new')
    with pytest.raises(ValueError, match='wrong'), work_dir_transaction(work_dir), work_dir_lock(work_dir):
        raise ValueError('wrong')
    assert not os.path.exists(work_dir)


def test_the_command_refuses(holder, capsys, monkeypatch):
    pytest.importorskip('mmpretrain')
    work_dir, _ = holder
    monkeypatch.chdir(work_dir.parent)
    assert main(['train', 'smoke/mae.py', '--work-dir', str(work_dir)]) == 1
    error = capsys.readouterr().err
    assert 'is in use by process' in error and 'Traceback' not in error
    assert os.listdir(work_dir) == [LOCK_NAME]
