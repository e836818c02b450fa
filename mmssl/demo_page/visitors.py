"""What visitors leave behind: their files and their memory."""

import contextlib
import ctypes
import gc
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

# seconds after which the images of a visitor who does nothing are forgotten
IDLE_SECONDS = 3600
# visitors whose images are kept; the one who has been idle for the longest time is forgotten for a new one
MAX_VISITORS = 32


def remove_upload(path: str) -> None:
    """Remove an upload that has been read; other files than those of this page are left alone."""
    if _is_temporary(path):
        with contextlib.suppress(OSError):
            os.remove(path)


def take_upload(path: str) -> str:
    """Move an upload to a folder of its own, since equal files of two visitors have the same path.

    Returns:
        The new path.
    """
    if not _is_temporary(path):
        return path
    folder = tempfile.mkdtemp(prefix='upload-', dir=os.environ['GRADIO_TEMP_DIR'])
    return shutil.move(path, folder)


def all_uploads(page: Any) -> list[str]:
    """Return the paths of all uploads, some of which may have been removed.

    Args:
        page: ``gradio.Blocks``.
    """
    taken = Path(os.environ['GRADIO_TEMP_DIR']).glob('upload-*/*')
    return [*page.upload_file_set, *map(str, taken)]


def _is_temporary(path: str) -> bool:
    """Return True for an upload, and False for a sample and any other file."""
    folder = os.environ.get('GRADIO_TEMP_DIR')
    if not folder:
        return False
    file = Path(path).resolve()
    return file.is_relative_to(Path(folder).resolve()) and file.parent.name != 'samples'


def forget_visitor(page: Any, session_hash: str | None) -> None:
    """Drop the state of a visitor who has left, with the files in it.

    Args:
        page: ``gradio.Blocks``.
        session_hash: The visitor.
    """
    holder = page.state_holder
    session = holder.session_data.pop(session_hash, None)
    holder.time_last_used.pop(session_hash, None)
    if session is None:
        return
    for value in session.state_data.values():
        forget_value(value)
    session.state_data.clear()
    del session
    release_memory()


def forget_value(value: Any) -> None:
    """Remove the file that a state names."""
    if isinstance(value, str) and Path(value).parent.name.startswith('upload-'):
        remove_upload(value)


def release_memory() -> None:
    """Return freed memory to the system, which the C library otherwise keeps."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
