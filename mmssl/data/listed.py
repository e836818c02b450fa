"""Images that lie in several folders, match a pattern, or are listed in a file."""

import csv
import glob
import os
from collections.abc import Sequence
from typing import NamedTuple

from mmssl.data.find_images import find_images
from mmssl.hints import nearest_path

_LISTS = ('.txt', '.lst')
_TABLES = {'.csv': ',', '.tsv': '\t'}
_PATH_COLUMNS = ('path', 'file', 'filename', 'image', 'img_path')
_LABEL_COLUMNS = ('label', 'class', 'category')


class ImageList(NamedTuple):
    """Images of a data set.

    Attributes:
        root: The folder above all images.
        names: Their paths below it.
        classes: Class of each image by its class folder or the table; None for an image outside of any.
    """

    root: str
    names: list[str]
    classes: list[str | None]


def list_images(data_root: str, prefix: str, suffixes: Sequence[str]) -> ImageList:
    """Find the images of a data set.

    Args:
        data_root: A folder or an archive; several of them with commas between; a pattern such as
            ``photos/*/2024``; a file with a path in each line (.txt); or a table with the columns path and
            label (.csv, .tsv). Paths in files are relative to the file.
        prefix: Folder below each folder or archive, or ''.
        suffixes: Lower-case suffixes of images with their dot.

    Raises:
        FileNotFoundError: A folder does not exist, or nothing matches the pattern.
        ValueError: There are no images.
    """
    suffix = os.path.splitext(data_root)[1].lower()
    if os.path.isfile(data_root) and (suffix in _LISTS or suffix in _TABLES):
        return _read_table(data_root, _TABLES.get(suffix))
    roots = split_sources(data_root)
    parts = [_part(root, prefix, suffixes) for root in roots]
    return parts[0] if len(parts) == 1 else _join(parts)


def split_sources(data_root: str) -> list[str]:
    """Return the folders, archives or files of a ``data_root`` with commas or patterns.

    Raises:
        FileNotFoundError: Nothing matches a pattern.
    """
    if os.path.lexists(data_root):
        return [data_root]
    sources: list[str] = []
    for part in data_root.split(','):
        if not glob.has_magic(part) or os.path.lexists(part):
            sources.append(part)
            continue
        matches = sorted(glob.glob(part, recursive=True))
        if not matches:
            raise FileNotFoundError(f'nothing matches the pattern {part}')
        sources += matches
    return sources


def check_sources(data: str) -> None:
    """Check that what ``--data`` names exists.

    Raises:
        FileNotFoundError: A folder does not exist, or nothing matches a pattern.
    """
    for source in split_sources(data):
        if not os.path.exists(source):
            raise FileNotFoundError(f'--data {source} does not exist{nearest_path(source)}')


def _part(root: str, prefix: str, suffixes: Sequence[str]) -> ImageList:
    if os.path.isfile(root) and root.lower().endswith(tuple(suffixes)):
        return ImageList(os.path.dirname(root) or '.', [os.path.basename(root)], [None])
    folder, names = find_images(root, prefix, suffixes)
    return ImageList(folder, names, [name.split('/', 1)[0] if '/' in name else None for name in names])


def _join(parts: Sequence[ImageList]) -> ImageList:
    """Join the images of several folders; an image that two of them have is read once."""
    classes: dict[str, str | None] = {}
    for part in parts:
        for name, class_name in zip(part.names, part.classes, strict=True):
            classes.setdefault(os.path.normpath(f'{part.root}/{name}'), class_name)
    return _below_common_root(list(classes), list(classes.values()))


def _read_table(path: str, delimiter: str | None) -> ImageList:
    folder = os.path.dirname(path)
    with open(path, encoding='utf-8-sig', newline='') as file:
        if delimiter is None:
            rows = [[line.strip('\r\n')] for line in file]
        else:
            rows = list(csv.reader(file, delimiter=delimiter))
    rows = [row for row in rows if row and row[0].strip()]
    path_column, label_column, rows = _columns(path, rows, delimiter is not None)
    paths = [os.path.normpath(os.path.join(folder, row[path_column])) for row in rows]
    if not paths:
        raise ValueError(f'{path} is a file, neither a folder of images nor a list: it lists no images')
    if label_column is None:
        return _below_common_root(paths, [None] * len(paths))
    return _below_common_root(paths, [row[label_column] for row in rows])


def _columns(path: str, rows: list[list[str]], is_table: bool) -> tuple[int, int | None, list[list[str]]]:
    """Return the columns of paths and of labels, and the rows below the header."""
    if not is_table or not rows:
        return 0, None, rows
    header = [name.strip().lower() for name in rows[0]]
    paths = [index for index, name in enumerate(header) if name in _PATH_COLUMNS]
    labels = [index for index, name in enumerate(header) if name in _LABEL_COLUMNS]
    body = rows[1:] if paths else rows
    width = len(header)
    odd = next((row for row in body if len(row) != width), None)
    if odd is not None:
        raise ValueError(f'{path}: the row {odd!r} has {len(odd)} columns, and the first has {width}')
    if not paths:
        return 0, 1 if width > 1 else None, body
    return paths[0], labels[0] if labels else None, body


def _below_common_root(paths: list[str], classes: list[str | None]) -> ImageList:
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if len(paths) else ''
    names = [os.path.relpath(path, root) if root else path for path in paths]
    return ImageList(root or '.', names, classes)
