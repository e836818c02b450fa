"""Tar shards in the layout of WebDataset, read at random by an index of the members."""

import json
import os
import tarfile
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from mmssl.checkpoint.regular_files import check_size
from mmssl.data.random_access import RandomAccessFile, is_folder, open_stream, size_of_file
from mmssl.data.url_paths import is_url

INDEX_SUFFIX = '.index.json'


class Member(NamedTuple):
    """A file in a tar.

    Attributes:
        name: Its name.
        offset: Where its bytes begin.
        size: Number of bytes.
        checksum: CRC-32 of the bytes; None if the shard has no index written by mmssl.
    """

    name: str
    offset: int
    size: int
    checksum: int | None


class TarShards:
    """A tar, or a folder of tars, that forked processes can read at the same time.

    Shards that ``mmssl pack`` has written have an index beside them, ``00000.index.json``; the headers of
    others are read once. A name that several shards have is preceded by the name of the shard.

    Args:
        path: A tar, or a folder with some.

    Raises:
        OSError: A shard is damaged or truncated.
    """

    def __init__(self, path: str):
        self.path = path
        self._shards = shard_files(path, '.tar') if is_folder(path) else [path]
        self._files: dict[int, RandomAccessFile] = {}
        members = [read_index(shard) or _scan(shard) for shard in self._shards]
        self._entries: dict[str, tuple[int, Member]] = {}
        is_unique = len({member.name for shard in members for member in shard}) == sum(map(len, members))
        for number, shard in enumerate(members):
            stem = os.path.splitext(os.path.basename(self._shards[number]))[0]
            for member in shard:
                self._entries[member.name if is_unique else f'{stem}/{member.name}'] = number, member

    def names(self) -> list[str]:
        """Return the names of the files."""
        return list(self._entries)

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """Return the bytes of a file.

        Args:
            name: Its name.
            max_bytes: Largest size to read; None for any.

        Raises:
            KeyError: There is no such name.
            OSError: The file is damaged or too large.
        """
        number, member = self._entries[name]
        label = f'the entry {name!r} of {self._shards[number]}'
        if max_bytes is not None:
            check_size(label, member.size, max_bytes)
        file = self._files.get(number)
        if file is None:
            file = self._files[number] = RandomAccessFile(self._shards[number])
        data = file.read_at(member.offset, member.size)
        if len(data) != member.size or (member.checksum is not None and zlib.crc32(data) != member.checksum):
            raise OSError(f'{label} is damaged: its checksum does not match')
        return data


def shard_files(folder: str, suffix: str) -> list[str]:
    """Return the shards of a folder, sorted by name."""
    if is_url(folder):
        from mmssl.data.remote import entries_of

        names = entries_of(folder)
    else:
        names = sorted(os.listdir(folder))
    return [f'{folder}/{name}' for name in names if name.lower().endswith(suffix) and name[0] != '.']


def holds_shards(folder: str, suffix: str, others: tuple[str, ...]) -> bool:
    """Return True if a folder holds shards and no image among its first files.

    Args:
        folder: The folder.
        suffix: '.tar' or '.parquet'.
        others: Endings of images.
    """
    if is_url(folder):
        from mmssl.data.remote import entries_of

        names = [name.lower() for name in entries_of(folder)]
        return any(name.endswith(suffix) for name in names) and not any(
            name.endswith(others) for name in names
        )
    is_holding = False
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                name = entry.name.lower()
                if number > 1000 or name.endswith(others):
                    break
                is_holding = is_holding or (name.endswith(suffix) and name[0] != '.')
            else:
                return is_holding
    except OSError:
        return False
    return is_holding and not name.endswith(others)


def _read_text(path: str) -> str:
    if is_url(path):
        from mmssl.data.remote import read_url

        return read_url(path).decode()
    with open(path, encoding='utf-8') as file:
        return file.read()


def _scan(shard: str) -> list[Member]:
    """Return the members of a tar without an index, those of a tar behind a URL from the cache."""
    if not is_url(shard):
        return scan_tar(shard)
    from mmssl.data.remote import cached_bytes, version_of

    content = cached_bytes(
        f'{shard}@{version_of(shard)}#members', lambda: json.dumps(scan_tar(shard)).encode()
    )
    return [Member(*member) for member in json.loads(content)]


def index_path(shard: str) -> str:
    """Return the path of a shard's index."""
    return os.path.splitext(shard)[0] + INDEX_SUFFIX


def read_index(shard: str) -> list[Member] | None:
    """Return the members of a shard by its index; None without an index of a file of this size."""
    try:
        content = json.loads(_read_text(index_path(shard)))
        if content['size'] != size_of_file(shard):
            return None
        return [Member(*member) for member in content['members']]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def scan_tar(shard: str) -> list[Member]:
    """Return the members of a tar by its headers.

    Raises:
        OSError: The tar is damaged or truncated.
    """
    size = size_of_file(shard)
    try:
        with open_stream(shard) as stream, tarfile.open(fileobj=stream, mode='r:') as archive:
            members = [
                Member(info.name.removeprefix('./'), info.offset_data, info.size, None)
                for info in archive
                if info.isreg() and not info.issparse()
            ]
    except tarfile.TarError as error:
        raise OSError(f'{shard} is a damaged tar, or a compressed one: {error}; copy it again') from None
    if members and members[-1].offset + members[-1].size > size:
        raise OSError(f'{shard} is a truncated tar; copy it again')
    return members


def write_index(shard: str, members: Sequence[Member]) -> None:
    """Write the index of a shard."""
    content = dict(size=os.path.getsize(shard), members=members)
    temporary = f'{index_path(shard)}.tmp'
    with open(temporary, 'w', encoding='utf-8') as file:
        json.dump(content, file, ensure_ascii=False)
    os.replace(temporary, index_path(shard))
