"""Reading files inside zip and LMDB archives by path: ``photos.zip/inner/a.jpg`` is a path like any other."""

import os
import struct
import zipfile
import zlib

_LOCAL_HEADER = struct.Struct('<4s22xHH')  # signature, ..., name length, extra length (APPNOTE.TXT 4.3.7)
_opened: dict = {}


class ZipArchive:
    """A zip file that forked processes can read at the same time.

    The directory is parsed once and entries are read by ``os.pread``. ``zipfile.ZipFile`` has one seek
    position, which forked processes share, and would parse the directory again in every worker.

    Args:
        path: The zip file.
    """

    def __init__(self, path: str):
        with zipfile.ZipFile(path) as archive:
            self._entries = {
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
        self._file = os.open(path, os.O_RDONLY | getattr(os, 'O_CLOEXEC', 0))
        self.path = path

    def names(self) -> list[str]:
        """Return the names of the files; encrypted ones are left out."""
        return list(self._entries)

    def read(self, name: str) -> bytes:
        """Return the bytes of a file; raise KeyError for an unknown name and OSError for a damaged entry."""
        offset, packed_size, size, method, checksum = self._entries[name]
        header = os.pread(self._file, _LOCAL_HEADER.size, offset)
        if len(header) < _LOCAL_HEADER.size or header[:4] != b'PK\x03\x04':
            raise OSError(f'{self.path} is damaged at the entry {name!r}')
        _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        packed = os.pread(self._file, packed_size, offset + _LOCAL_HEADER.size + name_length + extra_length)
        if method == zipfile.ZIP_STORED:
            data = packed
        elif method == zipfile.ZIP_DEFLATED:
            try:
                # at most one byte more than the directory states, so that a forged entry cannot fill the
                # memory
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, size + 1)
            except zlib.error as error:
                raise OSError(f'the entry {name!r} of {self.path} is damaged: {error}') from None
        else:
            raise OSError(
                f'the entry {name!r} of {self.path} is compressed by method {method}; '
                'repack the archive as stored or deflated'
            )
        if len(data) != size or zlib.crc32(data) != checksum:
            raise OSError(f'the entry {name!r} of {self.path} is damaged: its checksum does not match')
        return data


class LmdbArchive:
    """An LMDB whose keys are relative paths (UTF-8) and whose values are the files' bytes.

    Args:
        path: The database: a folder with ``data.mdb``, or a single file.
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
        self._environment = lmdb.open(
            path, subdir=os.path.isdir(path), readonly=True, lock=False, readahead=False, meminit=False
        )
        self.path = path
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

    def read(self, name: str) -> bytes:
        """Return the bytes of a key; raise KeyError for an unknown key."""
        with self._environment.begin() as transaction:
            data = transaction.get(name.encode())
        if data is None:
            raise KeyError(name)
        return data


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
            is_archive = head.lower().endswith(('.lmdb', '.mdb')) or zipfile.is_zipfile(head)
            return (head, '/'.join(reversed(inner))) if is_archive else None
        if os.path.isfile(os.path.join(head, 'data.mdb')):
            return head, '/'.join(reversed(inner))
        parent, name = os.path.split(head)
        if os.path.isdir(head) or parent == head:
            return None
        inner.append(name)
        head = parent
    return None


def open_archive(path: str) -> ZipArchive | LmdbArchive:
    """Return the archive at ``path``, opened at most once per process."""
    archive = _opened.get(path)
    # an LMDB environment must not be used after a fork; a zip may, see ZipArchive
    if isinstance(archive, LmdbArchive) and archive.process != os.getpid():
        archive.close()
        archive = None
    if archive is None:
        is_zip = os.path.isfile(path) and zipfile.is_zipfile(path)
        archive = _opened[path] = ZipArchive(path) if is_zip else LmdbArchive(path)
    return archive


def read_bytes(path: str) -> bytes:
    """Return the bytes of a file, on disk or inside an archive.

    Raises:
        FileNotFoundError: There is no such file.
        OSError: It cannot be read (a folder, no permission, a damaged archive).
    """
    try:
        with open(path, 'rb') as file:
            return file.read()
    except (FileNotFoundError, NotADirectoryError):
        archive_and_name = _split_open_archive(path) or split_archive(path)
        if not archive_and_name:
            raise
    archive, name = archive_and_name
    try:
        return open_archive(archive).read(name)
    except KeyError:
        raise FileNotFoundError(f'{archive} holds no {name!r}') from None


def _split_open_archive(path: str) -> tuple[str, str] | None:
    """Do what :func:`split_archive` does for archives that are open already, without reading the disk."""

    archive = next((archive for archive in _opened if path.startswith(archive + '/')), None)
    return (archive, path[len(archive) + 1 :]) if archive else None
