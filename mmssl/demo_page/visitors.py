"""The visitors of the page: what each of them has open, and what they leave behind."""

import contextlib
import ctypes
import gc
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

# seconds after which the images of a visitor who does nothing are forgotten
IDLE_SECONDS = 3600
# visitors whose images are kept; the one who has been idle for the longest time is forgotten for a new one
MAX_VISITORS = 32
_LONGEST_NAME = 100


class UnknownVisitorError(Exception):
    """The visitor has left, or was forgotten after some time."""


class _Visitor:
    def __init__(self, session: Any, now: float):
        self.session = session
        self.last_used = now
        self.lock = threading.Lock()


class Visitors:
    """Sessions by visitor.

    Args:
        start: Creates the session of a new visitor, from the visitor's id.
        finish: Called with the id of a visitor who has left or was forgotten.
        limit: Largest number of visitors.
        idle_seconds: Time after which a visitor who does nothing is forgotten.
        clock: Returns the time in seconds.
    """

    def __init__(
        self,
        start: Callable[[str], Any],
        finish: Callable[[str], None] | None = None,
        limit: int = MAX_VISITORS,
        idle_seconds: float = IDLE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._start = start
        self._finish = finish
        self._limit = limit
        self._idle_seconds = idle_seconds
        self._clock = clock
        self._visitors: dict[str, _Visitor] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._visitors)

    def __contains__(self, visitor: str) -> bool:
        return visitor in self._visitors

    def enter(self) -> str:
        """Admit a new visitor and return an id that nobody can guess."""
        visitor = secrets.token_urlsafe(18)
        session = self._start(visitor)
        with self._lock:
            oldest = sorted(self._visitors, key=lambda name: self._visitors[name].last_used)
            too_many = oldest[: max(0, len(oldest) + 1 - self._limit)]
            self._visitors[visitor] = _Visitor(session, self._clock())
        for name in too_many:
            self.leave(name)
        return visitor

    @contextlib.contextmanager
    def session(self, visitor: str) -> Iterator[Any]:
        """Lend the session of a visitor, to one request at a time.

        Raises:
            UnknownVisitorError: There is no such visitor.
        """
        known = self._visitors.get(visitor)
        if known is None:
            raise UnknownVisitorError(visitor)
        with known.lock:
            if known.session is None:  # left while this request was waiting
                raise UnknownVisitorError(visitor)
            known.last_used = self._clock()
            yield known.session
            known.last_used = self._clock()

    def leave(self, visitor: str) -> None:
        """Forget a visitor, with the images."""
        with self._lock:
            known = self._visitors.pop(visitor, None)
        if known is None:
            return
        with known.lock:  # a request in progress still has the session
            known.session = None
        if self._finish is not None:
            self._finish(visitor)
        release_memory()

    def forget_idle(self) -> None:
        """Forget the visitors who have done nothing for too long."""
        earliest = self._clock() - self._idle_seconds
        for name in [name for name, known in list(self._visitors.items()) if known.last_used < earliest]:
            self.leave(name)


@contextlib.contextmanager
def upload_path(folder: Path, name: str) -> Iterator[Path]:
    """Give a path for an upload, in a folder of its own that is removed afterwards.

    Args:
        folder: Folder of all uploads.
        name: Name of the file as the visitor knows it.
    """
    own = tempfile.mkdtemp(prefix='upload-', dir=folder)
    try:
        yield Path(own) / file_name(name)
    finally:
        shutil.rmtree(own, ignore_errors=True)


def file_name(name: str) -> str:
    """Return a name without folders and control characters, which keeps its suffix."""
    last = PurePosixPath(name.replace('\\', '/')).name
    printable = ''.join(character for character in last if character.isprintable())
    if printable.strip('. ') == '':
        return 'image'
    stem, suffix = os.path.splitext(printable)
    suffix = suffix[:16]
    longest = _LONGEST_NAME - len(suffix)
    while len(stem.encode()) > longest:
        stem = stem[:-1]
    return stem + suffix


def all_uploads(folder: Path) -> list[str]:
    """Return the paths of the uploads that are there."""
    return [str(path) for path in folder.glob('upload-*/*')]


def release_memory() -> None:
    """Return freed memory to the system, which the C library otherwise keeps."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
