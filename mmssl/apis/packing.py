"""Packing images into an archive that training reads at random: tar shards, Parquet, zip or LMDB."""

import contextlib
import io
import json
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mmssl.data.archives import LmdbArchive, ZipArchive, read_bytes
from mmssl.data.listed import ImageList, class_folders, list_images
from mmssl.data.parquet import ParquetTable
from mmssl.data.shards import TarShards, read_index, scan_tar, write_index
from mmssl.data.suffixes import IMAGE_SUFFIXES
from mmssl.data.zip_archive import complete_entries

Advance = Callable[[], object]
Shards = Sequence[tuple[int, range]]  # numbers and images
# formats of several files, which several processes may write
_SHARDED = ('tar', 'parquet')
# images of a transaction, and of a row group, which is read as a whole for one image
_BATCH = 256
_ROW_GROUP = 16
# folders above those of the classes
_PARTS = {'train', 'val', 'test'}


def pack(
    source: str,
    out: str,
    to: str = 'tar',
    shard_size: int = 10_000,
    progress: bool = False,
    rank: int = 0,
    world_size: int = 1,
) -> int:
    """Pack images, compare the checksum of each with its source, and return their number.

    Everything is written to ``OUT.partial``, which becomes ``OUT`` when all checksums match. An interrupted
    run continues there, at the last complete shard (tar, parquet), transaction (lmdb) or image (zip). Several
    processes, each with its ``rank``, take turns at the shards, and the last to finish compares the
    checksums; a zip file or an LMDB is written by the first one. They need no connection, but a common file
    system.

    Args:
        source: What ``data_root`` of :class:`mmssl.data.folder.ImageFolder` takes.
        out: The folder (tar, parquet, lmdb) or file (zip) to write.
        to: 'tar', 'parquet', 'zip' or 'lmdb'.
        shard_size: Images in each shard (tar, parquet).
        progress: Whether to show a progress bar.
        rank: Which of the processes this is.
        world_size: Number of processes.

    Returns:
        Number of images; 0 if other processes are left to finish.

    Raises:
        FileExistsError: ``out`` exists.
        OSError: A source cannot be read, or a checksum differs.

    Examples:
        >>> from mmssl.apis import pack
        >>> pack('photos/', 'shards', 'tar', shard_size=10_000)
    """
    from tqdm import tqdm

    if to not in _FORMATS:
        raise ValueError(f'to={to!r} is not one of {", ".join(_FORMATS)}')
    if shard_size < 1:
        raise ValueError(f'shard_size={shard_size} must be at least 1')
    if os.path.lexists(out) and world_size == 1:
        raise FileExistsError(f'{out} exists; remove it, or pack into another folder')
    images = _packed(list_images(source, '', IMAGE_SUFFIXES))
    partial = f'{out.rstrip("/")}.partial'
    write, open_packed = _FORMATS[to]
    count = len(images.names)
    if os.path.lexists(out):  # other processes may have finished
        return _check_packed(images, out, open_packed)
    if rank and to not in _SHARDED:
        return 0
    all_shards = [*enumerate(_shards(images, shard_size))]
    shards = all_shards[rank::world_size]
    if to in _SHARDED:
        _remove_further(partial, to, len(all_shards))
    with tqdm(total=2 * count, desc='packing', unit='image', disable=not progress or rank > 0) as bar:
        if shards:  # without any, another process may have renamed the folder already
            write(images, partial, shards, bar.update)
        with _alone(partial, world_size):
            if os.path.lexists(out):
                return _check_packed(images, out, open_packed)
            if to in _SHARDED and not all(_is_packed(images, partial, to, *shard) for shard in all_shards):
                return 0
            _verify(images, open_packed(partial), bar.update)
            os.replace(partial, out)
            Path(f'{partial}.lock').unlink(missing_ok=True)
    return count


class PackedImages(NamedTuple):
    """Images to pack.

    Attributes:
        root: The folder above all images.
        sources: Their paths below it.
        names: Their names in the archive, with the class as a folder.
        labels: The class of each; None if there are images without one.
    """

    root: str
    sources: list[str]
    names: list[str]
    labels: list[str] | None


def _packed(images: ImageList) -> PackedImages:
    """Return the names that images get in an archive: classes of a table become folders.

    Raises:
        ValueError: The name of a class cannot be a folder.
    """
    has_parts = {name.split('/', 1)[0] for name in images.names} <= _PARTS
    classes = images.classes
    names = images.names
    if classes == class_folders(names):
        if has_parts:
            classes = class_folders([name.split('/', 1)[1] for name in names])
    else:
        bad = next((name for name in classes if not name or '/' in name or name in ('.', '..')), None)
        if bad is not None:
            raise ValueError(f'the class {bad!r} cannot be the name of a folder in the archive; rename it')
        pairs = [name.split('/', 1) if has_parts else ('', name) for name in names]
        names = [
            '/'.join(filter(None, (part, label, rest)))
            for (part, rest), label in zip(pairs, classes, strict=True)
        ]
    labels = [label for label in classes if label is not None]
    return PackedImages(images.root, images.names, names, labels if len(labels) == len(names) else None)


@contextlib.contextmanager
def _alone(partial: str, world_size: int) -> Iterator[None]:
    """Wait for other processes that are in this block."""
    if world_size == 1:
        yield
        return
    with open(f'{partial}.lock', 'w') as file:
        with contextlib.suppress(ImportError):  # not on this system
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _check_packed(images: PackedImages, out: str, open_packed: Callable) -> int:
    """Return the number of images of a complete archive.

    Raises:
        FileExistsError: It is one of other images.
    """
    try:
        names = sorted(open_packed(out).names())
    except (OSError, ValueError, KeyError):
        names = []
    if names != sorted(images.names):
        raise FileExistsError(f'{out} exists; remove it, or pack into another folder')
    return len(names)


def _remove_further(folder: str, to: str, count: int) -> None:
    """Remove the shards after the last one, which an interrupted run of other settings may have left."""
    for path in Path(folder).glob(f'*.{to}*'):
        number = path.name.partition('.')[0]
        if not number.isdigit() or int(number) >= count:
            path.unlink(missing_ok=True)


def _is_packed(images: PackedImages, folder: str, to: str, number: int, indices: range) -> bool:
    """Return True if a shard holds its images."""
    shard = f'{folder}/{number:05}.{to}'
    if not os.path.exists(shard):
        return False
    if to == 'parquet':
        try:
            names = ParquetTable(shard).names()
        except OSError:  # damaged
            return False
    else:
        names = [member.name for member in read_index(shard) or ()]
    return names == [images.names[index] for index in indices]


def _source(images: PackedImages, index: int) -> bytes:
    return read_bytes(f'{images.root}/{images.sources[index]}')


def _verify(images: PackedImages, packed, advance: Advance) -> None:
    """Compare each packed image with its source."""
    for index, name in enumerate(images.names):
        try:
            is_equal = zlib.crc32(packed.read(name)) == zlib.crc32(_source(images, index))
        except KeyError:
            is_equal = False
        if not is_equal:
            raise OSError(
                f'{name} differs between {images.root} and {packed.path}: the source has changed, or was '
                f'packed before from another one; remove {packed.path} and pack again'
            )
        advance()
    if isinstance(packed, LmdbArchive):
        packed.close()


def _shards(images: PackedImages, size: int) -> list[range]:
    count = len(images.names)
    return [range(start, min(start + size, count)) for start in range(0, count, size)]


def _write_tars(images: PackedImages, folder: str, shards: Shards, advance: Advance) -> None:
    os.makedirs(folder, exist_ok=True)
    for number, indices in shards:
        if not _is_packed(images, folder, 'tar', number, indices):
            _write_tar(images, f'{folder}/{number:05}.tar', indices)
        for _ in indices:
            advance()


def _write_tar(images: PackedImages, shard: str, indices: range) -> None:
    checksums = {}
    with tarfile.open(f'{shard}.tmp', 'w', format=tarfile.PAX_FORMAT) as archive:
        for index in indices:
            data = _source(images, index)
            info = tarfile.TarInfo(images.names[index])
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            checksums[info.name] = zlib.crc32(data)
    members = [member._replace(checksum=checksums[member.name]) for member in scan_tar(f'{shard}.tmp')]
    os.replace(f'{shard}.tmp', shard)
    write_index(shard, members)


def _write_parquets(images: PackedImages, folder: str, shards: Shards, advance: Advance) -> None:
    os.makedirs(folder, exist_ok=True)
    for number, indices in shards:
        if not _is_packed(images, folder, 'parquet', number, indices):
            _write_parquet(images, f'{folder}/{number:05}.parquet', indices)
        for _ in indices:
            advance()


def _write_parquet(images: PackedImages, shard: str, indices: range) -> None:
    import pyarrow
    from pyarrow.parquet import ParquetWriter

    image = pyarrow.struct([('bytes', pyarrow.binary()), ('path', pyarrow.string())])
    fields = [('image', image)]
    features: dict[str, dict] = {'image': {'_type': 'Image'}}
    labels = images.labels
    classes = sorted(set(labels or ()))
    if labels:
        fields.append(('label', pyarrow.int64()))
        features['label'] = {'names': classes, '_type': 'ClassLabel'}
    metadata = {'huggingface': json.dumps({'info': {'features': features}})}
    schema = pyarrow.schema(fields, metadata=metadata)
    with ParquetWriter(f'{shard}.tmp', schema, compression='none') as writer:
        for start in range(indices.start, indices.stop, _ROW_GROUP):
            group = range(start, min(start + _ROW_GROUP, indices.stop))
            rows: dict[str, list] = {
                'image': [{'bytes': _source(images, index), 'path': images.names[index]} for index in group]
            }
            if labels:
                rows['label'] = [classes.index(labels[index]) for index in group]
            writer.write_table(pyarrow.table(rows, schema=schema))
    os.replace(f'{shard}.tmp', shard)


def _write_zip(images: PackedImages, path: str, shards: Shards, advance: Advance) -> None:
    """Write a zip, after the entries that an interrupted run has left."""
    entries = complete_entries(path, images.names)
    with zipfile.ZipFile(path, 'a', zipfile.ZIP_STORED) as archive:
        archive.infolist().extend(entries)
        for index, name in enumerate(images.names):
            if index >= len(entries):
                archive.writestr(zipfile.ZipInfo(name), _source(images, index))
            advance()


def _write_lmdb(images: PackedImages, path: str, shards: Shards, advance: Advance) -> None:
    try:
        import lmdb
    except ImportError:
        raise ImportError('the package lmdb is missing: pip install lmdb') from None
    os.makedirs(path, exist_ok=True)
    # the size of the address space, not of the file
    with lmdb.open(path, map_size=1 << 40, lock=False) as environment:
        _remove_others(images, environment)
        for indices in _shards(images, _BATCH):
            _write_transaction(images, environment, indices)
            for _ in indices:
                advance()
    Path(path, 'lock.mdb').unlink(missing_ok=True)


def _remove_others(images: PackedImages, environment) -> None:
    """Remove images that an interrupted run of another source may have left."""
    names = {name.encode() for name in images.names}
    with environment.begin(write=True) as transaction:
        others = [key for key in transaction.cursor().iternext(values=False) if key not in names]
        for key in others:
            transaction.delete(key)


def _write_transaction(images: PackedImages, environment, indices: Sequence[int]) -> None:
    with environment.begin(write=True) as transaction:
        for index in indices:
            key = images.names[index].encode()
            if len(key) > environment.max_key_size():
                raise OSError(
                    f'LMDB takes names of {environment.max_key_size()} bytes: {images.names[index]}'
                )
            if transaction.get(key) is None:
                transaction.put(key, _source(images, index))


_FORMATS: dict[str, tuple[Callable, Callable]] = {
    'tar': (_write_tars, TarShards),
    'parquet': (_write_parquets, ParquetTable),
    'zip': (_write_zip, ZipArchive),
    'lmdb': (_write_lmdb, LmdbArchive),
}
