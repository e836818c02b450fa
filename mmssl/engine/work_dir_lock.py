"""Lock of a work directory: two runs in one would overwrite each other's checkpoints and logs."""

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from mmssl.engine.rank_watch import RANK_VARIABLES
from mmssl.errors import UserError

LOCK_NAME = '.mmssl.lock'
# locked files of this process; a worker that is forked would hold their locks beyond the death of the run
_descriptors: set[int] = set()


def _close_inherited() -> None:
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


if hasattr(os, 'register_at_fork'):
    os.register_at_fork(after_in_child=_close_inherited)


class WorkDirInUseError(UserError, OSError):
    """Another run that has not ended uses the work directory."""

    # the files in it are those of the other run
    keeps_work_dir = True


@contextlib.contextmanager
def work_dir_lock(work_dir: str, launcher: str = 'none', force: bool = False) -> Iterator[None]:
    """Hold the lock of a work directory, on the first rank.

    The lock is one of the operating system (``flock``), which a process that has died does not hold. Where a
    file system has no locks, nothing is locked.

    Args:
        work_dir: The work directory, which is created.
        launcher: Launcher of the run; of several ranks the first one holds the lock.
        force: Go on if another run holds the lock.

    Raises:
        WorkDirInUseError: Another run holds the lock.
        FileExistsError, NotADirectoryError: A file is in the place of the directory.
    """
    if int(os.environ.get(RANK_VARIABLES.get(launcher, ''), 0)) > 0:
        yield
        return
    path = Path(work_dir).absolute() / LOCK_NAME
    _make_directory(path.parent)
    descriptor = _lock(path, force)
    if descriptor is not None:
        _descriptors.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _descriptors:
            _descriptors.remove(descriptor)
            # before the lock is given up, so that no other run locks a file without a name
            with contextlib.suppress(OSError):
                path.unlink()
            os.close(descriptor)


def _make_directory(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        file = next(part for part in (path, *path.parents) if part.exists())
        raise type(error)(f'{file} is a file; give another --work-dir than {path}') from None


def _lock(path: Path, force: bool) -> int | None:
    """Return the open, locked file; None without locks, or if another run holds it and that is forced."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors='replace').strip() or 'another process'
            os.close(descriptor)
            if force:
                return None
            raise WorkDirInUseError(
                f'the work directory {path.parent} is in use by {holder}; wait for that run to end, give '
                'another --work-dir, or go on with --force, which mixes the files of both runs'
            ) from None
        except OSError:  # a file system without locks
            os.close(descriptor)
            return None
        if _is_current(descriptor, path):
            break
        os.close(descriptor)  # the run before has removed the file at this moment
    now = time.strftime('%Y-%m-%d %H:%M:%S')
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f'process {os.getpid()} on {socket.gethostname()}, started {now}\n'.encode(), 0)
    return descriptor


def _is_current(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
