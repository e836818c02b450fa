"""Label maps: the image file of classes that belongs to each image, and what its values or colours mean."""

import os
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from mmssl.data.label_formats.class_table import TableRow, find_table, table_name
from mmssl.data.label_formats.files import LabelFolder, image_size
from mmssl.data.label_formats.map_pairs import find_pairs, is_other
from mmssl.data.label_formats.map_values import MapValues, load_map, scan_maps
from mmssl.data.label_formats.records import ImageLabels, LabelSet, sort_and_name
from mmssl.data.label_formats.voc import read_split_lists
from mmssl.data.label_values import BINARY_CLASSES, Color
from mmssl.errors import LabelError

IGNORE_INDEX = 255
# the most classes that are read without a list of names, and the least part of 0 to the maximum to occur
MAX_UNNAMED = 160
MIN_OCCUPIED = 0.25
FEW_CLASSES = 20


def read(folder: LabelFolder, ignore: Iterable[int] = ()) -> LabelSet:
    """Read images with label maps.

    The values or colours are named by a table of classes (``classes.txt``, ``classes.csv``, ``labelmap.txt``,
    ...), a name, value or colour per line. Without one, 0 and 255 are background and foreground, and class
    numbers are numbered. 255 is ignored unless it is a class, and so are classes named void or unlabelled.

    Args:
        folder: The files.
        ignore: More values to ignore.

    Raises:
        LabelError: A map has another size than its image, colours have no table, or values no class.
    """
    pairs = find_pairs(folder)
    _check_maps(folder, pairs)
    splits = read_split_lists(folder)
    images = []
    for path, mask in pairs.items():
        width, height = image_size(path)
        if image_size(mask) != (width, height):
            size = image_size(mask)
            raise LabelError(
                f'is {size[0]}x{size[1]}, its image {folder.below(path)} {width}x{height}; sizes must agree',
                mask,
            )
        stem = os.path.splitext(os.path.basename(path))[0]
        split = splits.get(stem) or folder.split_of(path) or folder.split_of(mask)
        images.append(ImageLabels(path, path, width, height, mask_file=mask, split=split, source=mask))
    values = scan_maps([image.mask_file for image in images if image.mask_file])
    table = find_table(folder)
    classes, label_map, notes = map_meaning(folder, values, table, set(ignore))
    others = [path for path in folder.images if path not in pairs and path not in set(pairs.values())]
    others = [
        path for path in others if not is_other(PurePosixPath(folder.below(path)).with_suffix('').parts)
    ]
    if others:
        notes.append(
            f'{len(others)} image files have no partner and are left out (the first is '
            f'{folder.below(others[0])})'
        )
    root = sort_and_name(images)
    form = (
        'of colours' if values.is_colored else 'with a palette' if values.has_palette else 'of class numbers'
    )
    sources = [f'{len(images)} label maps {form}', *([folder.below(table[0])] if table else [])]
    return LabelSet(folder.path, 'png', classes, images, root, label_map, sources, notes)


def _check_maps(folder: LabelFolder, pairs: Mapping[str, str]) -> None:
    if not pairs:
        raise LabelError(
            'no image has a label map of the same name; name images/a.jpg and masks/a.png alike', folder.root
        )


def map_meaning(
    folder: LabelFolder, values: MapValues, table: tuple[str, list[TableRow]] | None, ignore: set[int]
) -> tuple[list[str], dict[Any, int | None], list[str]]:
    """Return the classes, the label map and notes."""
    if values.is_colored:
        return _of_colors(folder, values, table)
    if table:
        return _of_named_values(values, table, ignore)
    return _of_values(folder, values, ignore)


def _of_colors(
    folder: LabelFolder, values: MapValues, table: tuple[str, list[TableRow]] | None
) -> tuple[list[str], dict[Any, int | None], list[str]]:
    colors = values.files
    if not table:
        listed = ', '.join(map(str, sorted(colors)[:4])) + (', ...' if len(colors) > 4 else '')
        raise LabelError(
            f'the label maps have {len(colors)} colours ({listed}) and no table says what they are; write '
            'classes.csv with the columns name,r,g,b',
            folder.root,
        )
    path, rows = table
    if any(row.color is None for row in rows):
        raise LabelError(
            f'the label maps have colours, but {table_name(path)} names none; write name,r,g,b in each line',
            path,
        )
    classes = [row.name for row in rows if not row.is_ignored]
    label_map = {row.color: None if row.is_ignored else classes.index(row.name) for row in rows}
    unknown = sorted(color for color in colors if color not in label_map)
    if unknown:
        others = f' (nor are {len(unknown) - 1} more)' if len(unknown) > 1 else ''
        raise LabelError(
            f'has the colour {unknown[0]}, which is not in {table_name(path)}{others}; add it there (void '
            'ignores it)',
            colors[unknown[0]],
        )
    return classes, label_map, []


def _of_named_values(
    values: MapValues, table: tuple[str, list[TableRow]], ignore: set[int]
) -> tuple[list[str], dict[Any, int | None], list[str]]:
    path, rows = table
    classes = [row.name for row in rows if not row.is_ignored]
    numbers = _row_values(values, rows)
    label_map: dict[Any, int | None] = {
        number: None if row.is_ignored or number in ignore else classes.index(row.name)
        for number, row in zip(numbers, rows, strict=True)
    }
    if len(rows) == 1 and set(values.files) <= {0, 1, 255}:
        classes = [BINARY_CLASSES[0], rows[0].name]
        label_map = {0: 0, 1: 1, 255: 1}
    elif len(rows) == 2 and 255 in values.files and set(values.files) <= {0, 255}:
        label_map = {0: 0, 255: 1}
    for number in ignore | {IGNORE_INDEX}:
        label_map.setdefault(number, None)
    unknown = sorted(number for number in values.files if number not in label_map)
    if unknown:
        raise LabelError(
            f'has the value {unknown[0]}, but {table_name(path)} names the {len(rows)} classes '
            f'{min(numbers)} to {max(numbers)}; add its name there (void to ignore it)',
            values.files[unknown[0]],
        )
    return classes, label_map, []


def _row_values(values: MapValues, rows: list[TableRow]) -> list[int]:
    """Return the value of each class: as stated, by its colour in the palette, or by its order."""
    stated = [row.value for row in rows]
    if all(value is not None for value in stated):
        return [value for value in stated if value is not None]
    used_first = sorted(values.palette, key=lambda index: (index not in values.files, index))
    by_color = {values.palette[index]: index for index in reversed(used_first)}
    used = {values.palette.get(value) for value in values.files}
    if values.palette and used <= {row.color for row in rows}:
        return [
            by_color.get(row.color, -1 - index) if row.color else -1 - index for index, row in enumerate(rows)
        ]
    return list(range(len(rows)))


def _of_values(
    folder: LabelFolder, values: MapValues, ignore: set[int]
) -> tuple[list[str], dict[Any, int | None], list[str]]:
    numbers = set(values.files) - ignore
    if len(numbers) < 2:
        raise LabelError(f'all label maps hold only {sorted(numbers)}; are they empty?', folder.root)
    if numbers <= {0, 1} or numbers == {0, IGNORE_INDEX}:
        label_map: dict[Any, int | None] = {0: 0, max(numbers): 1}
        return list(BINARY_CLASSES), {**label_map, **dict.fromkeys(ignore)}, []
    labels = numbers - {IGNORE_INDEX}
    count = max(labels) + 1
    if count > MAX_UNNAMED or (count > FEW_CLASSES and len(labels) < MIN_OCCUPIED * count):
        listed = ', '.join(map(str, sorted(labels)[:6])) + (', ...' if len(labels) > 6 else '')
        raise LabelError(
            f'the label maps hold {len(labels)} values ({listed}), which do not look like class numbers; '
            'name them in classes.txt, "value name" in each line',
            folder.root,
        )
    label_map = {number: number for number in range(count) if number not in ignore}
    note = 'the classes have no names; name them in classes.txt, a line each'
    ignored = dict.fromkeys({IGNORE_INDEX, *ignore} - label_map.keys())
    return [f'class_{number}' for number in range(count)], {**label_map, **ignored}, [note]


def read_classes(labels: LabelSet, image: ImageLabels) -> np.ndarray:
    """Return the label map of an image as indices of the classes, 255 for ignored pixels.

    Args:
        labels: The labels that the image is from.
        image: The image.

    Returns:
        (H, W) uint8.

    Raises:
        LabelError: There are more than 255 classes.
        BadImageError: The map cannot be read.
    """
    assert image.mask_file is not None
    if len(labels.classes) > IGNORE_INDEX:
        raise LabelError(f'{len(labels.classes)} classes are more than the 255 of a label map', labels.root)
    return read_mapped(image.mask_file, labels.label_map, IGNORE_INDEX)


def read_mapped(path: str, label_map: Mapping[Any, int | None], ignore_index: int) -> np.ndarray:
    """Return a label map as indices of classes.

    Args:
        path: The file.
        label_map: Value, or colour as (R, G, B) -> index of the class; None for pixels to ignore.
        ignore_index: Label of ignored pixels and of values that are not in ``label_map``.

    Returns:
        (H, W) uint8, or int32 if ``ignore_index`` is not of 8 bits.
    """
    array, _ = load_map(path, any(isinstance(key, tuple) for key in label_map))
    keys = {_number(key): label for key, label in label_map.items() if label is not None}
    numbers = np.array(sorted(keys))
    dtype = np.uint8 if 0 <= ignore_index <= 255 else np.int32
    classes = np.array([keys[number] for number in numbers.tolist()], dtype)
    position = np.searchsorted(numbers, array).clip(max=len(numbers) - 1)
    return np.where(numbers[position] == array, classes[position], dtype(ignore_index))


def _number(key: int | Color) -> int:
    return key[0] << 16 | key[1] << 8 | key[2] if isinstance(key, tuple) else key
