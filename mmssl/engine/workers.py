"""What the workers of a data loader are doing, so that one that dies or fails is named with the file that it was reading."""

import contextlib
import os
import re
import signal
import threading
import time
import weakref
from collections.abc import Iterator

import torch
from torch._C import _error_if_any_worker_fails
from torch.utils.data import get_worker_info

from mmssl.config.error_text import explain
from mmssl.errors import SampleError, UserError, WorkerError

# how torch says it
_DEAD_WORKER = r'DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)(?: is killed by signal: (\w[\w ]*\w))?'
_boards: 'weakref.WeakSet[Board]' = weakref.WeakSet()


class Board:
    """A note of every worker in memory that all processes share: its process, its sample, and whether it is at work on that.

    Args:
        dataset: the data set that the workers read.
        workers: how many there are.
    """

    def __init__(self, dataset, workers: int):
        self.dataset = dataset
        self.notes = torch.zeros(workers, 3, dtype=torch.int64).share_memory_()
        _boards.add(self)

    def start(self, worker: int) -> None:
        """In a worker that starts."""
        self.notes[worker] = torch.tensor([os.getpid(), -1, 0])

    def begin(self, worker: int, index: int) -> None:
        """In a worker, before a sample."""
        self.notes[worker, 1] = index
        self.notes[worker, 2] = 1

    def end(self, worker: int) -> None:
        """In a worker, after it."""
        self.notes[worker, 2] = 0

    def describe(self, process: int, how: str) -> str | None:
        """The worker of this process, how it ended and what it was doing; None where it is none of these."""
        for worker, (pid, index, busy) in enumerate(self.notes.tolist()):
            if pid == process:
                what = (
                    'before its first sample'
                    if index < 0
                    else f'while it read {name_of(self.dataset, index)}'
                    if busy
                    else f'after it had read {name_of(self.dataset, index)}'
                )
                return f'worker {worker} of the data loader (process {pid}) {how} {what}'
        return None


class StartWorker:
    """A data loader's ``worker_init_fn``: what it was before, a note on the board, and an ear for SIGTERM.

    Slurm and others send SIGTERM to every process of a job. The run still needs its batches to the end of the
    step, so a worker goes on unless it is its own run that ends it.

    Args:
        board: of the loader.
        inner: the function that the loader had.
    """

    def __init__(self, board: Board, inner=None):
        self.board, self.inner = board, inner

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


def name_of(dataset, index: int) -> str:
    """The file of a sample, or its number where the data set does not tell."""
    try:
        info = dataset.get_data_info(index)
        path = info.get('img_path') or info.get('filename') if isinstance(info, dict) else None
    except Exception:  # it was perhaps this that killed the worker
        path = None
    return str(path) if isinstance(path, (str, os.PathLike)) else f'sample {index}'


def fetch(dataset, board: Board | None, index: int):
    """``dataset[index]``, noted on the board.

    Raises:
        SampleError: a failure whose message names no file; others as they are.
    """
    worker = get_worker_info() if board is not None else None
    if board is not None and worker is not None:
        board.begin(worker.id, index)
    try:
        return dataset[index]
    except Exception as error:
        name = name_of(dataset, index)
        if (
            isinstance(error, (FileNotFoundError, PermissionError))
            or isinstance(error, UserError)
            or name in str(error)
        ):
            raise
        raise SampleError(f'{name}: {explain(error)}') from error
    finally:
        if board is not None and worker is not None:
            board.end(worker.id)


@contextlib.contextmanager
def dead_workers_named() -> Iterator[None]:
    """Turn the error of torch about a dead worker into words for a person.

    Raises:
        WorkerError: with the number of the worker, its process and its file.
    """
    try:
        yield
    except WorkerError:
        raise
    except Exception as error:
        # torch's handler would raise once more, wherever that finds the program
        main = threading.current_thread() is threading.main_thread()
        handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL) if main else None
        found = _dead_worker(error)
        if found is None:
            if main:
                signal.signal(signal.SIGCHLD, handler or signal.SIG_DFL)
            raise
        how = f'was killed ({found.group(2)})' if found.group(2) else 'died'
        told = [
            board.describe(int(process), how) for process in found.group(1).split(',') for board in _boards
        ]
        what = '; '.join(filter(None, told)) or f'a worker of a data loader (process {found.group(1)}) {how}'
        raise WorkerError(
            f'{what}. Workers are killed most often where memory runs out: take fewer of them (num_workers) or a smaller '
            'batch. The last checkpoint is whole: go on with --resume'
        ) from error


def _dead_worker(error: BaseException) -> re.Match | None:
    """What torch says about a dead worker: the error rises wherever the news finds the program, below others or after them."""
    one: BaseException | None = error
    while one is not None:
        found = re.search(_DEAD_WORKER, str(one)) if isinstance(one, RuntimeError) else None
        if found:
            return found
        one = one.__cause__ or one.__context__
    if not isinstance(error, (ConnectionError, EOFError)):
        return None
    for _ in range(20):  # the pipe of a dead process breaks before its end is known
        try:
            _error_if_any_worker_fails()
        except RuntimeError as late:
            return re.search(_DEAD_WORKER, str(late))
        time.sleep(0.1)
    return None
