"""Work directories: a run that fails before its first step leaves no files, a later one its traceback."""

import contextlib
import logging
import os
import shutil
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmssl.engine.work_dir_lock import WorkDirInUseError


class WorkDirTransaction:
    """The run that uses a work directory.

    Attributes:
        runner: mmengine's runner, to be set as soon as it exists.
    """

    def __init__(self) -> None:
        self.runner: Any = None

    @property
    def started(self) -> bool:
        """True after the first step of training."""
        return bool(getattr(self.runner, 'started', False))

    def keeps_files(self, error: BaseException) -> bool:
        """Return True if the files of the run must outlive this error."""
        if isinstance(error, WorkDirInUseError):
            return True
        if self.runner is None:
            return False
        return self.started or self.runner.rank > 0 or getattr(error, 'keeps_work_dir', False)


@contextlib.contextmanager
def work_dir_transaction(work_dir: str) -> Iterator[WorkDirTransaction]:
    """Remove what a run has written if it fails before its first step is done.

    Args:
        work_dir: The work directory; it need not exist yet.

    Yields:
        The transaction, whose ``runner`` is to be set.
    """
    root = Path(work_dir).absolute()
    created = [path for path in (root, *root.parents) if not path.exists()]
    before = set(root.iterdir()) if root.is_dir() else set()
    transaction = WorkDirTransaction()
    try:
        yield transaction
    except BaseException as error:
        if not transaction.keeps_files(error) and int(os.environ.get('RANK', 0)) == 0:
            _close_logs_below(root)
            _restore(root, created, before)
        raise


def _restore(root: Path, created: list[Path], before: set[Path]) -> None:
    """Remove the folders that did not exist, or else the entries that the existing folder did not have."""
    if created:
        shutil.rmtree(root, ignore_errors=True)
        with contextlib.suppress(OSError):
            for parent in created[1:]:
                parent.rmdir()
        return
    for entry in set(root.iterdir()) - before:
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _close_logs_below(root: Path) -> None:
    """Detach mmengine's loggers, which may be used again, from the log files that are about to be removed."""
    from mmengine.logging import MMLogger

    for logger in MMLogger._instance_dict.values():
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).is_relative_to(root):
                with contextlib.suppress(OSError):  # a full disk
                    handler.close()
                logger.removeHandler(handler)


@contextlib.contextmanager
def silent_log_errors() -> Iterator[None]:
    """Print no traceback for each log line that a full disk refuses; the next checkpoint reports it."""
    before = logging.raiseExceptions
    logging.raiseExceptions = False
    try:
        yield
    finally:
        logging.raiseExceptions = before


def write_traceback(error: Exception, folder: str | os.PathLike) -> Path | None:
    """Write the traceback of a failed run beside its log.

    Returns:
        The file, or None if it cannot be written.
    """
    path = Path(folder) / f'error_rank{os.environ.get("RANK", 0)}.txt'
    try:
        path.write_text(''.join(traceback.format_exception(error)), encoding='utf-8')
    except OSError:
        return None
    return path
