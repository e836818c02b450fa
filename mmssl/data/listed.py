"""Images in several folders, images that match a pattern, and images listed in a file."""

import csv
import glob
import io
import os
from collections.abc import Sequence
from typing import NamedTuple

from mmssl.data.archives import Archive, open_archive, split_archive
from mmssl.data.find_images import find_images, stands_for_train
from mmssl.data.random_access import is_file, open_stream
from mmssl.data.shards import TarShards
from mmssl.data.url_paths import common_folder, is_url, join_path
from mmssl.hints import nearest_path

# of the name of a class
_MAX_CLASS_BYTES = 1000
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
            label (.csv, .tsv). Paths in files are relative to the file. All of them may be URLs.
        prefix: Folder below each folder or archive, or ''. Of a list or a table, the images in this folder
            below the one that all have in common.
        suffixes: Lower-case suffixes of images with their dot.

    Raises:
        FileNotFoundError: A folder does not exist, or nothing matches the pattern.
        ValueError: There are no images.
    """
    suffix = os.path.splitext(data_root)[1].lower()
    if is_listing(data_root):
        return _below_prefix(_read_table(data_root, _TABLES.get(suffix)), prefix, data_root)
    roots = split_sources(data_root)
    parts = [_part(root, prefix, suffixes) for root in roots]
    return parts[0] if len(parts) == 1 else _join(parts)


def is_listing(data_root: str) -> bool:
    """Return True for a list file or a table."""
    return os.path.splitext(data_root)[1].lower() in (*_LISTS, *_TABLES) and is_file(data_root)


def split_sources(data_root: str) -> list[str]:
    """Return the folders, archives or files of a ``data_root`` with commas or patterns.

    Raises:
        FileNotFoundError: Nothing matches a pattern.
    """
    if os.path.lexists(data_root):
        return [data_root]
    sources: list[str] = []
    for part in data_root.split(','):
        if is_url(part):
            sources += _urls(part)
            continue
        if not glob.has_magic(part) or os.path.lexists(part):
            sources.append(part)
            continue
        matches = sorted(glob.glob(part, recursive=True))
        if not matches:
            raise FileNotFoundError(f'nothing matches the pattern {part}')
        sources += matches
    return sources


def _urls(part: str) -> list[str]:
    if '*' not in part:  # a question mark begins the query of a URL
        return [part]
    from mmssl.data.remote import urls_like

    matches = urls_like(part)
    if not matches:
        raise FileNotFoundError(f'nothing matches the pattern {part}')
    return matches


def check_sources(data: str) -> None:
    """Check that what ``--data`` names exists.

    Raises:
        FileNotFoundError: A folder does not exist, or nothing matches a pattern.
    """
    for source in split_sources(data):
        if is_url(source):
            from mmssl.data.remote import check_url

            check_url(source)
        elif not os.path.exists(source):
            raise FileNotFoundError(f'--data {source} does not exist{nearest_path(source)}')


def _part(root: str, prefix: str, suffixes: Sequence[str]) -> ImageList:
    if root.lower().endswith(tuple(suffixes)) and is_file(root):
        return ImageList(os.path.dirname(root) or '.', [os.path.basename(root)], [None])
    folder, names = find_images(root, prefix, suffixes)
    classes = class_folders(names)
    archive_path = None if any(classes) else split_archive(folder)
    if archive_path is not None:
        classes = sidecar_classes(open_archive(archive_path[0]), archive_path[1], names) or classes
    return ImageList(folder, names, classes)


def sidecar_classes(archive: Archive, folder: str, names: Sequence[str]) -> list[str | None] | None:
    """Return the classes of images in tar shards by their ``.cls`` files; None unless each image has one.

    Args:
        archive: The archive.
        folder: A folder in it, or ''.
        names: Paths of the images below the folder.
    """
    known = set(archive.names()) if isinstance(archive, TarShards) else set()
    paths = [os.path.split(join_path(folder, name)) for name in names]
    sidecars = [join_path(head, f'{base.partition(".")[0]}.cls') for head, base in paths]
    if not known.issuperset(sidecars):
        return None
    values = [archive.read(name, _MAX_CLASS_BYTES).decode().strip() for name in sidecars]
    digits = max(map(len, values)) if all(value.isdigit() for value in values) else 0
    return [value.zfill(digits) for value in values]


def _join(parts: Sequence[ImageList]) -> ImageList:
    """Join the images of several folders; an image that two of them have is read once."""
    classes: dict[str, str | None] = {}
    for part in parts:
        for name, class_name in zip(part.names, part.classes, strict=True):
            classes.setdefault(join_path(part.root, name), class_name)
    return _below_common_root(list(classes), list(classes.values()))


def _read_table(path: str, delimiter: str | None) -> ImageList:
    folder = os.path.dirname(path)
    with io.TextIOWrapper(open_stream(path), encoding='utf-8-sig', newline='') as file:
        lines = file.readlines()
    if delimiter is None:
        rows = [[line.strip('\r\n')] for line in lines]
    else:
        if lines and delimiter not in lines[0] and ';' in lines[0]:  # of spreadsheets in some languages
            delimiter = ';'
        rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True))
    rows = [row for row in rows if row and row[0].strip()]
    path_column, label_column, rows = _columns(path, rows, delimiter is not None)
    paths = [join_path(folder, row[path_column]) for row in rows]
    if not paths:
        raise ValueError(f'{path} is a file, neither a folder of images nor a list: it lists no images')
    labels = None if label_column is None else [row[label_column].strip() for row in rows]
    if labels and not all(labels):
        raise ValueError(f'{path}: {paths[labels.index("")]} has no label; give it one, or leave out its row')
    return _below_common_root(paths, labels)


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


def _below_common_root(paths: list[str], classes: Sequence[str | None] | None) -> ImageList:
    root = common_folder(paths)
    names = [path[len(root) :].lstrip('/') for path in paths]
    return ImageList(root or '.', names, class_folders(names) if classes is None else list(classes))


def _below_prefix(images: ImageList, prefix: str, source: str) -> ImageList:
    """Return the images of a list that are in a folder of their common one."""
    prefix = prefix.strip('/')
    if not prefix:
        return images
    selected = [index for index, name in enumerate(images.names) if name.startswith(f'{prefix}/')]
    if not selected:
        tops = sorted({name.split('/', 1)[0] for name in images.names if '/' in name})
        if stands_for_train(prefix, tops):
            return images
        raise FileNotFoundError(
            f'{source} has no image in a folder {prefix!r} of {images.root}, only in '
            f'{", ".join(tops[:5]) or "that one itself"}'
        )
    names = [images.names[index].removeprefix(f'{prefix}/') for index in selected]
    has_labels = images.classes != class_folders(images.names)
    classes = [images.classes[index] for index in selected] if has_labels else class_folders(names)
    return ImageList(f'{images.root}/{prefix}', names, classes)


def class_folders(names: Sequence[str]) -> list[str | None]:
    """Return the first folder of each path; None for a path without one."""
    return [name.split('/', 1)[0] if '/' in name else None for name in names]
