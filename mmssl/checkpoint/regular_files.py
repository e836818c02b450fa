"""Reading a file without ever waiting for it or reading without end. Imports nothing outside Python."""

import os
import stat

_KINDS = {
    stat.S_IFIFO: 'a FIFO',
    stat.S_IFSOCK: 'a socket',
    stat.S_IFCHR: 'a character device',
    stat.S_IFBLK: 'a block device',
}


def special_file(mode: int) -> str:
    """Return what a file that is neither regular nor a folder is, in words; '' for those two.

    Args:
        mode: ``st_mode`` of :func:`os.stat`.
    """
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return ''
    return _KINDS.get(stat.S_IFMT(mode), 'a special file')


def read_regular(path: str, max_bytes: int | None = None) -> bytes:
    """Return the bytes of a regular file.

    Args:
        path: The file.
        max_bytes: Largest size to read; None for any.

    Raises:
        FileNotFoundError: There is no such file.
        IsADirectoryError: It is a folder.
        OSError: It is a FIFO, socket or device, a link to itself, or larger than ``max_bytes``.
    """
    # a FIFO without a writer blocks open() unless it is opened non-blocking
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, 'O_NONBLOCK', 0) | getattr(os, 'O_CLOEXEC', 0))
    except OSError as error:
        kind = _kind_of(path)
        if kind:
            raise _special(path, kind) from error
        raise
    with open(descriptor, 'rb') as file:
        status = os.fstat(descriptor)
        kind = special_file(status.st_mode)
        if kind:
            raise _special(path, kind)
        if max_bytes is None:
            return file.read()
        check_size(path, status.st_size, max_bytes)
        data = file.read(status.st_size + 1)  # read() reserves as much memory as it is asked for
        if len(data) > status.st_size:  # a file of /proc has no size, and another process may extend it
            data += file.read(max_bytes + 1 - len(data))
    check_size(path, len(data), max_bytes)
    return data


def refuse_special(path: str) -> None:
    """Check a file before something else opens it.

    Raises:
        OSError: It is a FIFO, socket or device.
    """
    kind = _kind_of(path)
    if kind:
        raise _special(path, kind)


def check_size(name: str, size: int, max_bytes: int) -> None:
    """Check a size before anything is read.

    Raises:
        OSError: The size is larger than ``max_bytes``.
    """
    if size > max_bytes:
        raise OSError(f'{name} has {size} bytes, more than the {max_bytes} that are read of an image file')


def _kind_of(path: str) -> str:
    try:
        return special_file(os.stat(path).st_mode)
    except OSError:
        return ''


def _special(path: str, kind: str) -> OSError:
    return OSError(f'{path} is {kind}, not a regular file')
