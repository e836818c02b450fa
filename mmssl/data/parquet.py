"""Parquet files with a column of images, in the layout of Hugging Face's data sets."""

import json
import os
from typing import Any

from mmssl.checkpoint.regular_files import check_size
from mmssl.data.random_access import is_folder, open_ranges
from mmssl.data.shards import shard_files

_LABELS = ('label', 'labels')


class ParquetTable:
    """The images of a Parquet file, or of a folder of them.

    Images are structs of ``bytes`` and ``path``, or bytes. An image is named by its path if all paths differ,
    else by its row; labels stand before it as a folder unless the path has one: ``cat/000000012``.

    Args:
        path: A Parquet file, or a folder with some.

    Raises:
        ImportError: The package pyarrow is missing.
        OSError: A file is damaged, or has no column of images.
    """

    # rows need not have a suffix
    holds_only_images = True

    def __init__(self, path: str):
        try:
            import pyarrow.parquet
        except ImportError:
            raise ImportError(
                f'{path} is Parquet and the package pyarrow is missing: pip install pyarrow'
            ) from None
        self.path = path
        self._paths = shard_files(path, '.parquet') if is_folder(path) else [path]
        self._parquet = pyarrow.parquet
        self._tables: dict[int, Any] = {}
        self._process = os.getpid()
        self._group: tuple[int, int, Any] | None = None
        rows: list[tuple[int, int, int]] = []
        names: list[str] = []
        for number in range(len(self._paths)):
            names += self._names_of(number, rows)
        self._entries = dict(zip(names, rows, strict=True))

    def _names_of(self, number: int, rows: list[tuple[int, int, int]]) -> list[str]:
        """Add file, row group and row of a file's images to ``rows`` and return their names."""
        table = self._table(number)
        self.column, is_struct = _image_column(table.schema_arrow, self._paths[number])
        first = len(rows)
        for group in range(table.num_row_groups):
            rows += [(number, group, row) for row in range(table.metadata.row_group(group).num_rows)]
        paths = (
            table.read([f'{self.column}.path'], use_threads=False)[self.column].to_pylist()
            if is_struct
            else []
        )
        paths = [(entry or {}).get('path') for entry in paths]
        if not paths or None in paths or len(set(paths)) < len(paths):
            paths = [f'{first + row:09}' for row in range(len(rows) - first)]
        if any('/' in name for name in paths):
            return paths
        labels = _labels(table)
        return [f'{label}/{name}' for label, name in zip(labels, paths, strict=True)] if labels else paths

    def _table(self, number: int) -> Any:
        if self._process != os.getpid():  # a forked process needs file positions of its own
            self._tables, self._group, self._process = {}, None, os.getpid()
        if number not in self._tables:
            try:
                self._tables[number] = self._parquet.ParquetFile(open_ranges(self._paths[number]))
            except (ImportError, ConnectionError):
                raise
            except Exception as error:  # pyarrow's errors are of several types
                raise OSError(
                    f'{self._paths[number]} is a damaged Parquet file: {error}; copy it again'
                ) from None
        return self._tables[number]

    def names(self) -> list[str]:
        """Return the names of the images."""
        return list(self._entries)

    def read(self, name: str, max_bytes: int | None = None) -> bytes:
        """Return the bytes of an image; raise KeyError for an unknown name, OSError above ``max_bytes``."""
        number, group, row = self._entries[name]
        table = self._table(number)
        if self._group is None or self._group[:2] != (number, group):
            try:
                column = table.read_row_group(group, [self.column], use_threads=False)[self.column]
            except ConnectionError:
                raise
            except Exception as error:
                raise OSError(f'the row group {group} of {self._paths[number]} is damaged: {error}') from None
            self._group = number, group, column
        value = self._group[2][row].as_py()
        data = value['bytes'] if isinstance(value, dict) else value
        if data is None:
            raise OSError(f'the row {name!r} of {self.path} has no bytes')
        if max_bytes is not None:
            check_size(f'the entry {name!r} of {self.path}', len(data), max_bytes)
        return data


def has_images(folder: str) -> bool:
    """Return False if the first Parquet file of a folder has no column of images, such as one of features."""
    try:
        from pyarrow.parquet import read_schema
    except ImportError:
        return True  # what opens the file says that the package is missing
    path = shard_files(folder, '.parquet')[0]
    try:
        _image_column(read_schema(open_ranges(path)), path)
    except ConnectionError:
        raise
    except Exception:
        return False
    return True


def _image_column(schema: Any, path: str) -> tuple[str, bool]:
    """Return the name of the column of images, and whether it holds structs."""
    import pyarrow

    for field in schema:
        if pyarrow.types.is_struct(field.type) and {'bytes', 'path'} <= {sub.name for sub in field.type}:
            return field.name, True
    for field in schema:
        if pyarrow.types.is_binary(field.type) or pyarrow.types.is_large_binary(field.type):
            return field.name, False
    raise OSError(f'{path} has no column of images, of bytes or of structs with bytes and path')


def _labels(table: Any) -> list[str] | None:
    """Return the names of the classes of the rows, or None without labels."""
    name = next((name for name in _LABELS if name in table.schema_arrow.names), None)
    if name is None:
        return None
    values = table.read([name], use_threads=False)[name].to_pylist()
    metadata = json.loads((table.schema_arrow.metadata or {}).get(b'huggingface', b'{}'))
    classes = metadata.get('info', {}).get('features', {}).get(name, {}).get('names')
    if not all(isinstance(value, (int, str)) for value in values):
        return None
    if classes:
        return [str(classes[value]) for value in values]
    digits = max((len(str(value)) for value in values), default=1)
    return [f'{value:0{digits}}' if isinstance(value, int) else value for value in values]
