"""Workers of data loaders: one that dies or fails is named with the file that it was reading."""

import contextlib
import os
import re
import signal
import threading
import time
import traceback
import weakref
from collections.abc import Iterator

import torch
from torch._C import _error_if_any_worker_fails
from torch.utils.data import get_worker_info
from torch.utils.data._utils.signal_handling import _set_SIGCHLD_handler

from mmssl.config.error_text import explain
from mmssl.errors import SampleError, UserError, WorkerError

# torch's message about a dead worker
_DEAD_WORKER = r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(?: is killed by signal: (\w[\w ]*\w))?'
# seconds until the end of a process is known whose pipe has broken
_DEATH_SECONDS = 2.0
_boards: 'weakref.WeakSet[WorkerBoard]' = weakref.WeakSet()


class WorkerBoard:
    """Shared memory in which every worker notes its process, its sample, and whether it is reading it.

    Args:
        dataset: The data set that the workers read.
        workers: Number of workers.
    """

    def __init__(self, dataset, workers: int):
        self.dataset = dataset
        # (workers, 3): process id, index of the sample, whether it is being read
        self.notes = torch.zeros(workers, 3, dtype=torch.int64).share_memory_()
        _boards.add(self)

    def start(self, worker: int) -> None:
        """Note that a worker has started; called in it."""
        self.notes[worker] = torch.tensor([os.getpid(), -1, 0])

    def begin(self, worker: int, index: int) -> None:
        """Note that a worker begins to read a sample; called in it."""
        self.notes[worker, 1] = index
        self.notes[worker, 2] = 1

    def end(self, worker: int) -> None:
        """Note that a worker has read its sample; called in it."""
        self.notes[worker, 2] = 0

    def ended_while_reading(self) -> list[int]:
        """Return the processes that are gone although they had not finished reading their sample."""
        return [pid for pid, _, busy in self.notes.tolist() if pid and busy and not _exists(pid)]

    def describe(self, process: int, ending: str) -> str | None:
        """Return what the worker in a process was doing when it ended; None for other processes."""
        for worker, (pid, index, busy) in enumerate(self.notes.tolist()):
            if pid == process:
                if index < 0:
                    moment = 'before its first sample'
                elif busy:
                    moment = f'while it read {sample_name(self.dataset, index)}'
                else:
                    moment = f'after it had read {sample_name(self.dataset, index)}'
                return f'worker {worker} of the data loader (process {pid}) {ending} {moment}'
        return None


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


class StartWorker:
    """A data loader's ``worker_init_fn`` that registers the worker and shields it from SIGTERM.

    Slurm and others send SIGTERM to every process of a job. The run still needs its batches to finish the
    step, so a worker ends only when its own run ends it.

    Args:
        board: The board of the loader.
        inner: The loader's own ``worker_init_fn``.
    """

    def __init__(self, board: WorkerBoard, inner=None):
        self.board = board
        self.inner = inner

    def __call__(self, worker: int) -> None:
        if self.inner is not None:
            self.inner(worker)
        self.board.start(worker)
        if hasattr(signal, 'sigwaitinfo'):
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_obey_parent, args=(os.getppid(),), daemon=True, name='sigterm').start()


def _obey_parent(parent: int) -> None:
    while True:
        sender = signal.sigwaitinfo({signal.SIGTERM}).si_pid
        if sender == parent or os.getppid() != parent:
            os._exit(0)


def sample_name(dataset, index: int) -> str:
    """Return the file of a sample, or its index where the data set does not give one."""
    try:
        info = dataset.get_data_info(index)
        path = info.get('img_path') or info.get('filename') if isinstance(info, dict) else None
    except Exception:  # perhaps the reason why the worker died
        path = None
    return str(path) if isinstance(path, (str, os.PathLike)) else f'sample {index}'


def fetch(dataset, board: WorkerBoard | None, index: int):
    """Return ``dataset[index]``, noted on the board.

    Raises:
        SampleError: The sample failed with a message that names no file; other errors are raised unchanged.
    """
    worker = get_worker_info() if board is not None else None
    if board is not None and worker is not None:
        board.begin(worker.id, index)
    try:
        return dataset[index]
    except (FileNotFoundError, PermissionError, UserError):
        raise
    except Exception as error:
        name = sample_name(dataset, index)
        if name in str(error):
            raise
        raise SampleError(f'{name}: {explain(error)}') from error
    finally:
        if board is not None and worker is not None:
            board.end(worker.id)


class _DeathHandler:
    """Handler of SIGCHLD that raises a WorkerError for a dead worker, at most once.

    torch's handler raises a RuntimeError at every signal, also while the first is being dealt with.
    """

    def __init__(self):
        self.raised = False

    def __call__(self, signum, frame) -> None:
        if self.raised:
            return
        try:
            _error_if_any_worker_fails()
        except RuntimeError as error:
            self.raised = True
            raise _worker_error(re.search(_DEAD_WORKER, str(error))) from error


@contextlib.contextmanager
def named_worker_deaths() -> Iterator[None]:
    """Replace torch's errors about dead workers by one that names the worker and its file.

    Raises:
        WorkerError: A worker has died.
    """
    handles_signal = threading.current_thread() is threading.main_thread() and hasattr(signal, 'SIGCHLD')
    before = None
    if handles_signal:
        _set_SIGCHLD_handler()  # torch sets its own only once, then no data loader replaces ours
        before = signal.signal(signal.SIGCHLD, _DeathHandler())
    try:
        yield
    except Exception as error:
        death = _find_death(error)
        if death is None:
            raise
        before = signal.SIG_DFL  # torch's would raise again for the other workers, wherever the program is
        if death is error:
            raise
        raise death from error
    finally:
        if handles_signal:
            signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)


def _find_death(error: BaseException) -> WorkerError | None:
    """Return the error about a dead worker that is, or is behind, another error; None if there is none.

    It is raised wherever the signal finds the program, so that other errors may have come on top of it.
    """
    link: BaseException | None = error
    message = None
    while link is not None:
        if isinstance(link, WorkerError):
            return link
        if message is None and isinstance(link, RuntimeError):
            message = re.search(_DEAD_WORKER, str(link))
        link = link.__cause__ or link.__context__
    if message is not None:
        return _worker_error(message)
    if not isinstance(error, (ConnectionError, EOFError)):
        return None
    # the pipe of a dead process breaks before its end is known
    deadline = time.monotonic() + _DEATH_SECONDS
    while time.monotonic() < deadline:
        try:
            _error_if_any_worker_fails()
        except RuntimeError as late:
            return _worker_error(re.search(_DEAD_WORKER, str(late)))
        # torch does not know of a worker whose end something else has waited for
        ended = _ended_workers(error)
        if ended:
            return _worker_error(re.search(_DEAD_WORKER, ended))
        time.sleep(0.1)
    return None


def _ended_workers(error: BaseException) -> str:
    """Return torch's message about a worker that has ended by itself; '' if there is none.

    The iterator whose pipe has broken stands in the frames of the error, also where it has been shut down
    since.
    """
    frames = [frame.f_locals.get('self') for frame, _ in traceback.walk_tb(error.__traceback__)]
    workers = [worker for each in frames for worker in getattr(each, '_workers', ())]
    for worker in workers:
        exit_code = getattr(worker, 'exitcode', None) or 0
        if exit_code == -signal.SIGKILL or exit_code > 0:
            killed = ' is killed by signal: Killed' if exit_code < 0 else ''
            return f'DataLoader worker (pid {worker.pid}){killed}'
    ended = [process for board in _boards for process in board.ended_while_reading()]
    return f'DataLoader worker (pid {ended[0]})' if ended else ''


def _worker_error(message: re.Match | None) -> WorkerError:
    """Return the error for torch's message about dead workers."""
    if message is None:
        return WorkerError('a worker of a data loader has died')
    processes = message.group(1)
    ending = f'was killed ({message.group(2)})' if message.group(2) else 'died'
    known = [board.describe(int(process), ending) for process in processes.split(',') for board in _boards]
    workers = '; '.join(filter(None, known)) or f'a worker of a data loader (process {processes}) {ending}'
    return WorkerError(
        f'{workers}. Workers are killed most often because memory runs out: use fewer of them (num_workers) '
        'or a smaller batch. The last checkpoint is whole: go on with --resume'
    )
