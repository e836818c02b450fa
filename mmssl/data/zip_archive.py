"""Zip files that forked processes read at the same time."""

import os
import struct
import zipfile
import zlib
from collections.abc import Sequence
from typing import BinaryIO

from mmssl.checkpoint.regular_files import check_size
from mmssl.data.random_access import RandomAccessFile, open_stream

# with the method, the checksum and both sizes
_STORED_HEADER = struct.Struct('<4s4xH4xIIIHH')
_LOCAL_HEADER = struct.Struct('<4s22xHH')  # signature, ..., name length, extra length (APPNOTE.TXT 4.3.7)
# the extra field of a local header may be longer than that in the directory
_EXTRA_BYTES = 64
# an entry that is larger than the one and unpacks to more than so many times its size is no photograph
_BOMB_BYTES = 1 << 24
_BOMB_RATIO = 200


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
        self._file = RandomAccessFile(path)
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
        packed = self._read_packed(label, name, offset, packed_size)
        data = _unpack(label, packed, size, method)
        if len(data) != size or zlib.crc32(data) != checksum:
            raise OSError(f'{label} is damaged: its checksum does not match')
        return data

    def _read_packed(self, label: str, name: str, offset: int, packed_size: int) -> bytes:
        # os.pread reserves as much memory as it is asked for, so the sizes are checked before
        damaged = OSError(f'{label} is damaged: the archive ends before it, or has something else there')
        if not 0 <= offset <= self._file.size - _LOCAL_HEADER.size - packed_size:
            raise damaged
        # header and data in one request
        expected = _LOCAL_HEADER.size + len(name.encode()) + _EXTRA_BYTES + packed_size
        data = self._file.read_at(offset, expected)
        signature, name_length, extra_length = _LOCAL_HEADER.unpack_from(data)
        start = _LOCAL_HEADER.size + name_length + extra_length
        if signature != b'PK\x03\x04' or offset + start + packed_size > self._file.size:
            raise damaged
        if start + packed_size > len(data):
            return self._file.read_at(offset + start, packed_size)
        return data[start : start + packed_size]


def _zip_entries(path: str) -> dict[str, tuple[int, int, int, int, int]]:
    """Return offset, packed size, size, method and checksum of the files in a zip that are not encrypted."""
    with open_stream(path) as stream, zipfile.ZipFile(stream) as archive:
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


def complete_entries(path: str, names: Sequence[str]) -> list[zipfile.ZipInfo]:
    """Return the entries at the start of an unfinished zip, without compression, and cut off what follows.

    Args:
        path: The file; an absent one has no entries.
        names: Names that the first entries must have.
    """
    if not os.path.exists(path):
        return []
    entries: list[zipfile.ZipInfo] = []
    with open(path, 'r+b') as file:
        end = 0
        for name in names:
            entry = _entry_at(file, end)
            if entry is None or entry.filename != name:
                break
            entries.append(entry)
            end = file.tell()
        file.truncate(end)
    return entries


def _entry_at(file: BinaryIO, offset: int) -> zipfile.ZipInfo | None:
    """Return the entry whose local header is at an offset; None for anything else or a part of one."""
    file.seek(offset)
    header = file.read(_STORED_HEADER.size)
    if len(header) < _STORED_HEADER.size:
        return None
    signature, method, checksum, packed, size, name_length, extra_length = _STORED_HEADER.unpack(header)
    if signature != b'PK\x03\x04' or method != zipfile.ZIP_STORED or packed != size:
        return None
    name = file.read(name_length)
    file.seek(extra_length, os.SEEK_CUR)
    data = file.read(size)
    if len(data) != size or zlib.crc32(data) != checksum:
        return None
    try:
        entry = zipfile.ZipInfo(name.decode())
    except UnicodeDecodeError:
        return None
    entry.external_attr = 0o600 << 16  # as ZipFile.writestr has it
    entry.header_offset, entry.CRC = offset, checksum
    entry.compress_size = entry.file_size = size
    return entry
