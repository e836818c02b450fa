"""Files behind URLs (``s3://``, ``gs://``, ``https://``, ...), read by fsspec through a local cache."""

import functools
import hashlib
import io
import logging
import os
import posixpath
import secrets
import time
from collections.abc import Callable
from typing import Any

from mmssl.checkpoint.regular_files import check_size
from mmssl.data.file_cache import DEFAULT_SIZE, FileCache, parse_size
from mmssl.data.url_paths import split_scheme
from mmssl.errors import RemoteError

_ATTEMPTS = 4
_FIRST_WAIT = 0.5
# what the file systems say of a file's version beside its size, which is that of many other images
_VERSION_FIELDS = (
    'ETag',
    'etag',
    'mtime',
    'LastModified',
    'Last-Modified',
    'last_modified',
    'modify',
    'modificationTime',
    'last_write_time',
    'server_modified',
    'updated',
    'created',
    'generation',
    'VersionId',
    'checksum',
    'Content-MD5',
    'Digest',
    'md5Hash',
    'content_hash',
    'sha',
    'blob_id',
    'CRC',
    'date_time',
)
_versions: dict[str, tuple[int, str]] = {}


def is_file(url: str) -> bool:
    """Return True if a URL is that of a file, whose version is then asked for again."""
    _versions.pop(url, None)
    return bool(_call(url, lambda system, path: system.isfile(path)))


def is_folder(url: str) -> bool:
    """Return True if there is anything below a URL."""
    return bool(_call(url, lambda system, path: system.isdir(path)))


def entries_of(url: str) -> list[str]:
    """Return the names in a folder; none if there is no such folder."""
    try:
        return sorted(
            posixpath.basename(name.rstrip('/'))
            for name in _call(url, lambda system, path: system.ls(path, detail=False))
        )
    except (FileNotFoundError, NotADirectoryError):
        return []


def files_below(url: str) -> list[str]:
    """Return the sorted paths of all files below a folder, relative to it, and note their versions."""

    def find(system: Any, path: str) -> dict[str, dict]:
        system.invalidate_cache()
        return system.find(path, detail=True)

    root = url.rstrip('/')
    base = _call(root, lambda system, path: path).rstrip('/')
    names = []
    for path, info in _call(root, find).items():
        name = path[len(base) :].lstrip('/') if path.startswith(base) else path.lstrip('/')
        if info.get('type', 'file') == 'file' and name:
            names.append(name)
            _note_version(f'{root}/{name}', info)
    return sorted(names)


def urls_like(pattern: str) -> list[str]:
    """Return the URLs that match a pattern, sorted."""
    urls = _call(pattern, lambda system, path: sorted(map(system.unstrip_protocol, system.glob(path))))
    for url in urls:
        _versions.pop(url, None)
    return urls


def size_of(url: str) -> int:
    """Return the number of bytes of a file."""
    return _version(url)[0]


def version_of(url: str) -> str:
    """Return what changes when the file does, as far as its file system tells: size, time, ETag."""
    return _version(url)[1]


def read_url(url: str, max_bytes: int | None = None) -> bytes:
    """Return the bytes of a file.

    Args:
        url: Its URL.
        max_bytes: Largest size to read; None for any.

    Raises:
        FileNotFoundError: There is no such file.
        RemoteError: It cannot be read after several attempts.
        OSError: It is larger than ``max_bytes``.
    """
    size, version = _version(url)
    if max_bytes is not None:
        check_size(url, size, max_bytes)
    return cached_bytes(f'{url}@{version}', lambda: _call(url, lambda system, path: system.cat_file(path)))


def read_range(url: str, offset: int, size: int) -> bytes:
    """Return ``size`` bytes of a file from an offset on, fewer at its end.

    Raises:
        FileNotFoundError, RemoteError: As :func:`read_url`.
    """
    total, version = _version(url)
    end = min(offset + size, total)
    if offset >= end:
        return b''
    return cached_bytes(
        f'{url}@{version}#{offset}-{end}',
        lambda: _call(url, lambda system, path: system.cat_file(path, start=offset, end=end)),
    )


def open_url(url: str) -> Any:
    """Open a file for reading in order, with skips; nothing of it is cached."""
    return _call(url, lambda system, path: system.open(path, 'rb'))


class RangeFile(io.RawIOBase):
    """A file behind a URL that is read in few large pieces, each of which is cached.

    Args:
        url: Its URL.
    """

    def __init__(self, url: str):
        super().__init__()
        self.url = url
        self._size = size_of(url)
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        self._position = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        )
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Read up to ``len(buffer)`` bytes."""
        data = read_range(self.url, self._position, len(buffer))
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


def cached_bytes(key: str, read: Callable[[], bytes]) -> bytes:
    """Return the bytes of a key of the cache; read them if they are not there."""
    cache = _cache()
    data = cache.get(key)
    if data is None:
        data = read()
        try:
            cache.put(key, data)
        except OSError as error:
            _warn_once(f'{cache.folder}: {error.strerror or error}; images behind URLs are not cached')
    return data


def _cache() -> FileCache:
    folder = os.environ.get('MMSSL_CACHE_DIR') or os.path.join(
        os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache'), 'mmssl', 'remote'
    )
    return _cache_of(folder, os.environ.get('MMSSL_CACHE_SIZE') or DEFAULT_SIZE)


@functools.lru_cache(maxsize=4)
def _cache_of(folder: str, size: str) -> FileCache:
    try:
        return FileCache(folder, parse_size(size))
    except ValueError as error:
        raise RemoteError(f'MMSSL_CACHE_SIZE: {error}') from None


@functools.cache
def _warn_once(message: str) -> None:
    from mmengine.logging import print_log

    print_log(message, logger='current', level=logging.WARNING)


def _note_version(url: str, info: dict) -> tuple[int, str] | None:
    """Note the version of a file; None if its size is unknown."""
    if info.get('size') is None:
        return None
    fields = [str(info[field]) for field in _VERSION_FIELDS if info.get(field) is not None]
    # a file of which only the size is known may have changed whenever its source is opened
    known = ' '.join(fields) or secrets.token_hex(8)
    version = int(info['size']), hashlib.sha256(f'{info["size"]} {known}'.encode()).hexdigest()[:16]
    _versions[url] = version
    return version


def _version(url: str) -> tuple[int, str]:
    """Return size and version of a file, asked for once after its source was opened."""
    known = _versions.get(url)
    if known is not None:
        return known
    info = _call(url, lambda system, path: system.info(path))
    if info.get('type') == 'directory':
        raise IsADirectoryError(f'{url} is a folder')
    noted = _note_version(url, info)
    if noted is None:
        raise RemoteError(f'{url}: the server does not state its size; download it')
    return noted


def _call(url: str, function: Callable[[Any, str], Any]) -> Any:
    """Call a function with the file system and the path of a URL; repeat it after failures of the network.

    Raises:
        FileNotFoundError, PermissionError: There is no such file, or no permission.
        RemoteError: It failed several times.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_FIRST_WAIT * 2 ** (attempt - 1))
        try:
            return function(*_file_system(url))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise FileNotFoundError(f'{url} does not exist') from None
        except PermissionError as error:
            raise PermissionError(f'{url}: permission denied: {error}') from None
        except (ImportError, RemoteError):
            raise
        except Exception as error:  # the file systems have errors of their own
            reason = ' '.join(str(error).split()) or type(error).__name__
    raise RemoteError(
        f'{url} cannot be read, in {_ATTEMPTS} attempts: {reason}; what is cached and saved stays, the same '
        'command continues'
    )


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL and the path in it."""
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ImportError(f"{url} is read by fsspec, which is missing: pip install 'mmssl[remote]'") from None
    scheme = split_scheme(url)[0]
    try:
        return url_to_fs(url)
    except ImportError as error:
        raise ImportError(f'{url}: pip install the package of {scheme}: {error}') from None
    except ValueError as error:
        raise RemoteError(f'{url}: {error}') from None


def check_url(url: str, option: str = '--data') -> None:
    """Check that there is something behind a URL.

    Raises:
        FileNotFoundError: There is not.
    """
    if not (is_file(url) or is_folder(url)):
        raise FileNotFoundError(f'{option} {url} does not exist')
