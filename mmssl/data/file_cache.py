"""A folder of files that were read from elsewhere: bounded in size, shared by processes."""

import contextlib
import hashlib
import os
import re
import time
import zlib
from collections.abc import Iterator

DEFAULT_SIZE = '10GB'
_UNITS = {'': 1, 'K': 1 << 10, 'M': 1 << 20, 'G': 1 << 30, 'T': 1 << 40}
_CHECKSUM_BYTES = 4
_TOTAL = 'total'
_TEMPORARY = '.tmp'
# what is removed when the limit is reached, so that this happens seldom
_FILLED_AGAIN_TO = 0.8
# a temporary file that is older belongs to a process that was killed
_ABANDONED_SECONDS = 3600


class FileCache:
    """Bytes by key in a folder that several processes use at the same time.

    Beyond its size the entries that were read longest ago are removed. An entry is written under a temporary
    name and carries a checksum: a process that is killed leaves no part of one, and a damaged one is none.

    Args:
        folder: The folder; the first entry creates it.
        max_bytes: Largest size of all entries together; 0 caches nothing.
    """

    def __init__(self, folder: str, max_bytes: int):
        self.folder = folder
        self.max_bytes = max_bytes

    def get(self, key: str) -> bytes | None:
        """Return the bytes of a key, or None."""
        path = self._path(key)
        try:
            with open(path, 'rb') as file:
                content = file.read()
            os.utime(path)  # the order in which entries are removed
        except OSError:
            return None
        checksum, data = content[:_CHECKSUM_BYTES], content[_CHECKSUM_BYTES:]
        return data if zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, 'little') == checksum else None

    def put(self, key: str, data: bytes) -> None:
        """Store the bytes of a key, unless they alone exceed the size.

        Raises:
            OSError: The folder cannot be written to.
        """
        size = len(data) + _CHECKSUM_BYTES
        if size > self.max_bytes:
            return
        path = self._path(key)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = f'{path}.{os.getpid()}.{time.monotonic_ns()}{_TEMPORARY}'
        try:
            with open(temporary, 'wb') as file:
                file.write(zlib.crc32(data).to_bytes(_CHECKSUM_BYTES, 'little'))
                file.write(data)
            with self._locked():
                self._make_room(size)
                os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _path(self, key: str) -> str:
        name = hashlib.sha256(key.encode('utf-8', errors='surrogateescape')).hexdigest()
        return os.path.join(self.folder, name[:2], name)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with open(os.path.join(self.folder, 'lock'), 'w') as lock:
            with contextlib.suppress(ImportError):  # not on Windows
                import fcntl

                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make_room(self, size: int) -> None:
        """Add ``size`` to the total, and remove entries if it exceeds the limit."""
        total_file = os.path.join(self.folder, _TOTAL)
        try:
            with open(total_file, encoding='ascii') as file:
                total = int(file.read())
        except (OSError, ValueError):
            total = self.max_bytes  # unknown: count
        # before the entry appears: a process that is killed between leaves a total that is too large, which
        # only means that entries are counted earlier
        if total + size > self.max_bytes:
            total = self._remove_oldest(size)
        with open(total_file, 'w', encoding='ascii') as file:
            file.write(str(total + size))

    def _remove_oldest(self, size: int) -> int:
        """Remove entries if there is no room for ``size`` more, and return the size of those that remain."""
        entries = sorted(self._entries())
        total = sum(entry[1] for entry in entries)
        if total + size <= self.max_bytes:
            return total
        limit = min(int(_FILLED_AGAIN_TO * self.max_bytes), self.max_bytes - size)
        for _, entry_size, path in entries:
            if total <= limit:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            total -= entry_size
        return total

    def _entries(self) -> Iterator[tuple[float, int, str]]:
        """Yield time, size and path of each entry; remove what processes that were killed have left."""
        for folder, _, names in os.walk(self.folder):
            if folder == self.folder:
                continue
            for name in names:
                path = os.path.join(folder, name)
                try:
                    status = os.stat(path)
                    if not name.endswith(_TEMPORARY):
                        yield status.st_mtime, status.st_size, path
                    elif time.time() - status.st_mtime > _ABANDONED_SECONDS:
                        os.unlink(path)
                except OSError:
                    continue


def parse_size(text: str) -> int:
    """Return a size in bytes: '10GB', '500M', '0'.

    Raises:
        ValueError: It is none.
    """
    match = re.fullmatch(r'(\d+(?:\.\d+)?)\s*([KMGT]?)I?B?', text.strip().upper())
    if not match:
        raise ValueError(f'{text!r} is no size; give for example 10GB, 500M or 0')
    return int(float(match.group(1)) * _UNITS[match.group(2)])
