"""The images of ``mmssl embed`` and those that its files of features name."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from mmssl.data.url_paths import absolute_path, join_path

LIST_SUFFIXES = ('.txt', '.lst')


def image_paths(data: str | os.PathLike | Iterable[str | os.PathLike]) -> list[str]:
    """List images, without reading any.

    Args:
        data: An image, or what ``data_root`` of :class:`mmssl.data.folder.ImageFolder` takes: a folder, an
            archive, a list file or table, a pattern, a URL; or several of these.

    Returns:
        Absolute paths, each once; those of a folder or archive are sorted.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: There are no images.
    """
    items = [data] if isinstance(data, (str, os.PathLike)) else list(data)
    paths = [path for item in items for path in _images_of(os.path.expanduser(os.fspath(item)))]
    if not paths:
        raise ValueError('there is no image in an empty list')
    return list(dict.fromkeys(map(absolute_path, paths)))


def _images_of(item: str) -> Sequence[str]:
    from mmssl.data.listed import list_images
    from mmssl.data.suffixes import IMAGE_SUFFIXES

    if os.path.isfile(item) and item.lower().endswith(LIST_SUFFIXES):
        return read_list(item)
    images = list_images(item, '', IMAGE_SUFFIXES)
    return [f'{images.root}/{name}' for name in images.names]


def read_list(path: str | os.PathLike) -> list[str]:
    """Read the paths of a list file as absolute ones; relative ones are relative to the list."""
    from mmssl.data.label_formats.files import read_names

    folder = os.path.dirname(os.path.abspath(path))
    return [join_path(folder, name) for name in read_names(str(path))]


def write_list(path: str | os.PathLike, paths: Sequence[str]) -> None:
    """Write a list file, a path per line, completely or not at all.

    Raises:
        ValueError: A path cannot be a line of it.
    """
    from mmssl.checkpoint import write_text

    for name in paths:
        if name.splitlines() != [name] or name != name.strip() or name.startswith('# '):
            raise ValueError(f'{name!r} cannot be a line of {path}: rename the file')
    Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    write_text(path, ''.join(f'{name}\n' for name in paths))


def rows_of_paths(paths: Sequence[str], rows: Sequence[str], source: str) -> list[int]:
    """Return the rows of images; images that are no rows are left out.

    Args:
        paths: Absolute paths to look up.
        rows: The paths of all rows.
        source: Where the paths come from, for the message.

    Raises:
        ValueError: None of them is the path of a row.
    """
    index = {absolute_path(name): row for row, name in enumerate(rows)}
    known = sorted({index[path] for path in paths if path in index})
    if paths and not known:
        raise ValueError(
            f'{source}: none of its {len(paths)} images, such as {paths[0]}, is among the features, whose '
            f'images are named like {rows[0]}'
        )
    return known


def read_picture(path: str) -> np.ndarray:
    """Return the pixels (H, W, 3), RGB, of an image that a file of features names.

    Raises:
        FileNotFoundError: The image has moved.
        BadImageError: It cannot be read.
    """
    from mmssl.data.pictures import read_rgb

    try:
        return read_rgb(path)
    except FileNotFoundError:
        raise FileNotFoundError(
            f'{path}, which the features name, does not exist; were the images moved?'
        ) from None


def write_sheet(
    out: str | os.PathLike,
    images: Sequence[tuple[Sequence[str], str, str]],
    title: str,
    subtitle: str = '',
    columns: int = 8,
) -> None:
    """Write a contact sheet.

    Args:
        out: PNG file.
        images: (paths of the images of a tile, from left to right, line, fainter line).
        title: Title of the sheet.
        subtitle: Line below the title.
        columns: Largest number of tiles per row.
    """
    from PIL import Image

    from mmssl.visualization.contact_sheet import TILE_SIZE, contact_sheet, draw_sample
    from mmssl.visualization.files import write_image

    tiles = []
    for paths, line, faint_line in images:
        width = TILE_SIZE // len(paths)
        tile = Image.new('RGB', (TILE_SIZE, width), 'white')
        for index, path in enumerate(paths):
            image = draw_sample(read_picture(path), {}, size=width - 2 * (len(paths) > 1))
            tile.paste(image, (index * width + (width - image.width) // 2, (width - image.height) // 2))
        tiles.append((tile, line, faint_line))
    write_image(contact_sheet(tiles, title, subtitle, columns), out)
