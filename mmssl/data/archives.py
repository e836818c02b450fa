"""Reading files inside archives by path: ``photos.zip/inner/a.jpg`` is a path like any other.

Archives are zip files, LMDBs, tar shards and Parquet tables; each has what :class:`Archive` names.
"""

import contextlib
import os
import subprocess
import sys
import zipfile
from typing import Protocol

from mmssl.checkpoint.regular_files import check_size, read_regular
from mmssl.data.parquet import ParquetTable, has_images
from mmssl.data.random_access import is_file, is_folder
from mmssl.data.shards import TarShards, holds_shards
from mmssl.data.suffixes import IMAGE_SUFFIXES
from mmssl.data.url_paths import is_url, split_scheme
from mmssl.data.zip_archive import ZipArchive

# reads every page of an LMDB; a page beyond the end of the file ends the process by SIGBUS
_READ_ALL_PAGES = """
import os, sys, lmdb
path = sys.argv[1]
environment = lmdb.open(path, subdir=os.path.isdir(path), readonly=True, lock=False)
with environment.begin(buffers=True) as transaction:
    for _, value in transaction.cursor():
        bytes(value[:1]), bytes(value[-1:])
"""
_SHARD_SUFFIXES = ('.tar', '.parquet')
_ARCHIVE_SUFFIXES = ('.lmdb', '.mdb', *_SHARD_SUFFIXES)
_opened: dict = {}


class Archive(Protocol):
    """Files by name that several processes can read at random.

    Attributes:
        path: The archive.
    """

    path: str

    def names(self) -> list[str]:
        """Return the names of the files."""

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """Return the bytes of a file; raise KeyError for an unknown name."""


class LmdbArchive:
    """An LMDB whose keys are relative paths (UTF-8) and whose values are the files' bytes.

    Args:
        path: The database: a folder with ``data.mdb``, or a single file.

    Raises:
        ImportError: The package lmdb is missing.
        OSError: It is no LMDB, or the file is truncated.
    """

    def __init__(self, path: str):
        try:
            import lmdb
        except ImportError:
            raise ImportError(
                f'{path} is an LMDB and the package lmdb is missing: pip install lmdb'
            ) from None
        # no lock and no readahead: many readers of single images in random order, on disks that may be
        # read-only
        try:
            self._environment = lmdb.open(
                path, subdir=os.path.isdir(path), readonly=True, lock=False, readahead=False, meminit=False
            )
        except lmdb.Error as error:
            raise OSError(f'{path} is no complete LMDB: {error}; copy it again') from None
        self.path = path
        self._check_length()
        self.process = os.getpid()

    def close(self) -> None:
        """Close the environment."""
        self._environment.close()

    def names(self) -> list[str]:
        """Return all keys that are valid UTF-8."""
        names = []
        with self._environment.begin() as transaction:
            for key in transaction.cursor().iternext(values=False):
                try:
                    names.append(bytes(key).decode())
                except UnicodeDecodeError:
                    continue
        return names

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """Return the bytes of a key; raise KeyError for an unknown key and OSError above ``max_bytes``."""
        with self._environment.begin(buffers=True) as transaction:
            data = transaction.get(name.encode())
            if data is None:
                raise KeyError(name)
            if max_bytes is not None:
                check_size(f'the entry {name!r} of {self.path}', len(data), max_bytes)
            return bytes(data)

    def _check_length(self) -> None:
        """Refuse a truncated file, whose missing pages would end this process by SIGBUS."""
        file = os.path.join(self.path, 'data.mdb') if os.path.isdir(self.path) else self.path
        page_size, last_page = self._environment.stat()['psize'], self._environment.info()['last_pgno']
        size, stated = os.path.getsize(file), page_size * (last_page + 1)
        if size >= stated:
            return
        # pages at the end that were freed before they were written may be absent, so another process tries
        command = [sys.executable, '-c', _READ_ALL_PAGES, self.path]
        if subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False).returncode:
            self.close()
            raise OSError(
                f'{self.path} is a truncated LMDB: {size} of {stated} bytes are there; copy it again'
            )


def split_archive(path: str) -> tuple[str, str] | None:
    """Split a path at the archive it leads through.

    Args:
        path: A path such as ``data/photos.zip/inner/a.jpg``.

    Returns:
        The archive's path and the name inside it ('' for the archive itself); None if no part of the path is
        an archive.
    """
    if is_url(path):
        return _split_url(path)
    head = path.rstrip('/')
    inner: list[str] = []
    while head:
        if os.path.isfile(head):
            is_archive = head.lower().endswith(_ARCHIVE_SUFFIXES) or _is_zip(head)
            return (head, '/'.join(reversed(inner))) if is_archive else None
        if os.path.isfile(os.path.join(head, 'data.mdb')) or _shards_of(head):
            return head, '/'.join(reversed(inner))
        parent, name = os.path.split(head)
        if os.path.isdir(head) or parent == head:
            return None
        inner.append(name)
        head = parent
    return None


def _split_url(url: str) -> tuple[str, str] | None:
    scheme, rest = split_scheme(url.rstrip('/'))
    parts = rest.split('/')
    for count in range(len(parts), 0, -1):
        head = scheme + '/'.join(parts[:count])
        suffix = os.path.splitext(parts[count - 1])[1].lower()
        if suffix in ('.zip', *_ARCHIVE_SUFFIXES) and is_file(head):
            return head, '/'.join(parts[count:])
        with contextlib.suppress(PermissionError):  # to list the folders above
            if suffix not in IMAGE_SUFFIXES and _shards_of(head):
                return head, '/'.join(parts[count:])
    return None


def _is_zip(path: str) -> bool:
    """Return True for zip files that are archives of images, which an NPZ is not."""
    return not path.lower().endswith('.npz') and zipfile.is_zipfile(path)


def _shards_of(folder: str) -> str | None:
    """Return '.tar' or '.parquet' if a folder holds such shards and no images."""
    if not is_folder(folder):
        return None
    suffix = next((each for each in _SHARD_SUFFIXES if holds_shards(folder, each, IMAGE_SUFFIXES)), None)
    return None if suffix == '.parquet' and not has_images(folder) else suffix


def open_archive(path: str, check: bool = False) -> Archive:
    """Return the archive at ``path``, opened at most once per process.

    Args:
        path: The archive.
        check: Open it again if its files have changed since, as where the images of a data set are listed.
    """
    archive, opened_files = _opened.get(path, (None, None))
    files = _files_of(path) if check or archive is None else opened_files
    # an LMDB environment must not be used after a fork; a zip may, see ZipArchive
    forked = isinstance(archive, LmdbArchive) and archive.process != os.getpid()
    if forked or files != opened_files:
        if isinstance(archive, LmdbArchive):
            archive.close()
        archive = None
    if archive is None:
        archive = _kind_of(path)(path)
        _opened[path] = archive, files
    return archive


def _files_of(path: str) -> list[tuple]:
    """Return what changes when a file of an archive does: size, time and inode, or the version of a URL."""
    if is_url(path):
        from mmssl.data.remote import files_below, version_of

        names = [path] if is_file(path) else [f'{path}/{name}' for name in files_below(path)]
        return [(name, version_of(name)) for name in names]
    names = [path] if os.path.isfile(path) else sorted(os.path.join(path, name) for name in os.listdir(path))
    states = [(name, os.stat(name)) for name in names if os.path.isfile(name)]
    return [(name, state.st_size, state.st_mtime_ns, state.st_ino) for name, state in states]


def _kind_of(path: str) -> type:
    suffix = os.path.splitext(path)[1].lower() if is_file(path) else _shards_of(path)
    if suffix == '.tar':
        return TarShards
    if suffix == '.parquet':
        return ParquetTable
    if is_url(path):
        if suffix == '.zip':
            return ZipArchive
        raise ValueError(f'{path}: an LMDB is read from disk only; copy it, or pack images with --to tar')
    return ZipArchive if os.path.isfile(path) and zipfile.is_zipfile(path) else LmdbArchive


def read_bytes(path: str, max_bytes: int | None = None) -> bytes:
    """Return the bytes of a file, on disk or inside an archive.

    Args:
        path: The file.
        max_bytes: Largest size to read or unpack; None for any.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read (a folder, a FIFO or device, no permission, a damaged archive) or is too
            large.
    """
    opened = _split_open_archive(path)
    if opened:
        # a name that it does not hold may be a file beside shards
        with contextlib.suppress(KeyError):
            return open_archive(opened[0]).read(opened[1], max_bytes)
    try:
        return _read_file(path, max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        archive_and_name = split_archive(path)
        if not archive_and_name:
            raise
    return _read_entry(*archive_and_name, max_bytes)


def _read_file(path: str, max_bytes: int | None) -> bytes:
    if is_url(path):
        from mmssl.data.remote import read_url

        return read_url(path, max_bytes)
    return read_regular(path, max_bytes)


def _read_entry(archive: str, name: str, max_bytes: int | None) -> bytes:
    try:
        return open_archive(archive).read(name, max_bytes)
    except KeyError:
        raise FileNotFoundError(f'{archive} holds no {name!r}') from None


def _split_open_archive(path: str) -> tuple[str, str] | None:
    """Do what :func:`split_archive` does for archives that are open already, without reading the disk."""
    # the longest: a shard may be open, and the folder of all shards
    archive = max((each for each in _opened if path.startswith(f'{each}/')), key=len, default=None)
    return (archive, path[len(archive) + 1 :]) if archive else None
