"""Reading files inside archives by path: ``photos.zip/inner/a.jpg`` is a path like any other.

Archives are zip files, LMDBs, tar shards and Parquet tables; each has what :class:`Archive` names.
"""

import os
import struct
import subprocess
import sys
import zipfile
import zlib
from typing import Protocol

from mmssl.checkpoint.regular_files import check_size, read_regular
from mmssl.data.parquet import ParquetTable, has_images
from mmssl.data.shards import TarShards, holds_shards
from mmssl.data.suffixes import IMAGE_SUFFIXES

_LOCAL_HEADER = struct.Struct('<4s22xHH')  # signature, ..., name length, extra length (APPNOTE.TXT 4.3.7)
# an entry that is larger than the one and unpacks to more than so many times its size is no photograph
_BOMB_BYTES = 1 << 24
_BOMB_RATIO = 200
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


class ZipArchive:
    """A zip file that forked processes can read at the same time.

    The directory is parsed once and entries are read by ``os.pread``. ``zipfile.ZipFile`` has one seek
    position, which forked processes share, and would parse the directory again in every worker.

    Args:
        path: The zip file.

    Raises:
        OSError: The directory at the end of the file is damaged.
    """

    def __init__(self, path: str):
        try:
            self._entries = _zip_entries(path)
        except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
            raise OSError(f'{path} is a damaged zip file: {error}; copy it again') from None
        self._file = os.open(path, os.O_RDONLY | getattr(os, 'O_CLOEXEC', 0))
        self._size = os.fstat(self._file).st_size
        self.path = path

    def names(self) -> list[str]:
        """Return the names of the files; encrypted ones are left out."""
        return list(self._entries)

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """Return the bytes of a file.

        Args:
            name: Its name.
            max_bytes: Largest size to unpack; None for any.

        Raises:
            KeyError: There is no such name.
            OSError: The entry is damaged, too large, or unpacks to far more than an image could.
        """
        offset, packed_size, size, method, checksum = self._entries[name]
        label = f'the entry {name!r} of {self.path}'
        if max_bytes is not None:
            check_size(label, max(size, packed_size), max_bytes)
        if size > _BOMB_BYTES and size > _BOMB_RATIO * packed_size:
            raise OSError(
                f'{label} unpacks {packed_size} bytes to {size}, more than {_BOMB_RATIO}-fold; if it is an '
                'image, repack the archive as stored'
            )
        packed = self._read_packed(label, offset, packed_size)
        data = _unpack(label, packed, size, method)
        if len(data) != size or zlib.crc32(data) != checksum:
            raise OSError(f'{label} is damaged: its checksum does not match')
        return data

    def _read_packed(self, label: str, offset: int, packed_size: int) -> bytes:
        # os.pread reserves as much memory as it is asked for, so the sizes are checked before
        damaged = OSError(f'{label} is damaged: the archive ends before it, or has something else there')
        if not 0 <= offset <= self._size - _LOCAL_HEADER.size:
            raise damaged
        header = os.pread(self._file, _LOCAL_HEADER.size, offset)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = offset + _LOCAL_HEADER.size + name_length + extra_length
        if signature != b'PK\x03\x04' or start + packed_size > self._size:
            raise damaged
        return os.pread(self._file, packed_size, start)


def _zip_entries(path: str) -> dict[str, tuple[int, int, int, int, int]]:
    """Return offset, packed size, size, method and checksum of the files in a zip that are not encrypted."""
    with zipfile.ZipFile(path) as archive:
        return {
            info.filename: (
                info.header_offset,
                info.compress_size,
                info.file_size,
                info.compress_type,
                info.CRC,
            )
            for info in archive.infolist()
            if not info.is_dir() and not info.flag_bits & 1
        }


def _unpack(label: str, packed: bytes, size: int, method: int) -> bytes:
    if method == zipfile.ZIP_STORED:
        return packed
    if method != zipfile.ZIP_DEFLATED:
        raise OSError(f'{label} is compressed by method {method}; repack the archive as stored or deflated')
    try:
        # at most one byte more than the directory states, so that a forged entry cannot fill the memory
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
    except zlib.error as error:
        raise OSError(f'{label} is damaged: {error}') from None


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


def _is_zip(path: str) -> bool:
    """Return True for zip files that are archives of images, which an NPZ is not."""
    return not path.lower().endswith('.npz') and zipfile.is_zipfile(path)


def _shards_of(folder: str) -> str | None:
    """Return '.tar' or '.parquet' if a folder holds such shards and no images."""
    if not os.path.isdir(folder):
        return None
    suffix = next((each for each in _SHARD_SUFFIXES if holds_shards(folder, each, IMAGE_SUFFIXES)), None)
    return None if suffix == '.parquet' and not has_images(folder) else suffix


def open_archive(path: str) -> Archive:
    """Return the archive at ``path``, opened at most once per process."""
    archive = _opened.get(path)
    # an LMDB environment must not be used after a fork; a zip may, see ZipArchive
    if isinstance(archive, LmdbArchive) and archive.process != os.getpid():
        archive.close()
        archive = None
    if archive is None:
        archive = _opened[path] = _kind_of(path)(path)
    return archive


def _kind_of(path: str) -> type:
    suffix = os.path.splitext(path)[1].lower() if os.path.isfile(path) else _shards_of(path)
    if suffix == '.tar':
        return TarShards
    if suffix == '.parquet':
        return ParquetTable
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
    try:
        return read_regular(path, max_bytes)
    except (FileNotFoundError, NotADirectoryError):
        archive_and_name = _split_open_archive(path) or split_archive(path)
        if not archive_and_name:
            raise
    archive, name = archive_and_name
    try:
        return open_archive(archive).read(name, max_bytes)
    except KeyError:
        raise FileNotFoundError(f'{archive} holds no {name!r}') from None


def _split_open_archive(path: str) -> tuple[str, str] | None:
    """Do what :func:`split_archive` does for archives that are open already, without reading the disk."""

    archive = next((archive for archive in _opened if path.startswith(archive + '/')), None)
    return (archive, path[len(archive) + 1 :]) if archive else None
