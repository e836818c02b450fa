"""Reading bytes of a file at any offset: on disk by ``os.pread``, behind a URL through the cache."""

import io
import os
from typing import IO

from mmssl.data.url_paths import is_url


class RandomAccessFile:
    """An open file that forked processes can read at the same time, since it has no position.

    Args:
        path: A path or a URL.
    """

    def __init__(self, path: str):
        self.path = path
        self._descriptor = -1
        if is_url(path):
            from mmssl.data.remote import size_of

            self.size = size_of(path)
        else:
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, 'O_CLOEXEC', 0))
            self.size = os.fstat(self._descriptor).st_size

    def read_at(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from ``offset`` on, fewer at the end of the file."""
        if self._descriptor < 0:
            from mmssl.data.remote import read_range

            return read_range(self.path, offset, size)
        return os.pread(self._descriptor, size, offset)


def open_stream(path: str) -> IO[bytes]:
    """Open a file, or one behind a URL, for reading in order, with skips."""
    if is_url(path):
        from mmssl.data.remote import open_url

        return open_url(path)
    return open(path, 'rb')


def open_ranges(path: str) -> IO[bytes] | str:
    """Return what pyarrow reads a file from: the path of one on disk, ranges of one behind a URL."""
    if not is_url(path):
        return path
    from mmssl.data.remote import RangeFile

    return io.BufferedReader(RangeFile(path), buffer_size=1)


def size_of_file(path: str) -> int:
    """Return the number of bytes of a file or of one behind a URL."""
    if is_url(path):
        from mmssl.data.remote import size_of

        return size_of(path)
    return os.path.getsize(path)


def is_file(path: str) -> bool:
    """Return True for a file on disk or behind a URL."""
    if is_url(path):
        from mmssl.data import remote

        return remote.is_file(path)
    return os.path.isfile(path)


def is_folder(path: str) -> bool:
    """Return True for a folder on disk or behind a URL."""
    if is_url(path):
        from mmssl.data import remote

        return remote.is_folder(path)
    return os.path.isdir(path)
