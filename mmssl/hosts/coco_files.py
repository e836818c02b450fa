"""COCO files of boxes as the toolboxes read them: checked, and completed where a default is clear.

mmdet keeps the last of two entries with the same id, drops boxes and objects silently, and fails on missing
keys without naming the file.
"""

import difflib
import itertools
import json
import math
import numbers
import os
from collections import Counter
from collections.abc import Iterable
from os import PathLike
from typing import Any

from mmssl.checkpoint.regular_files import read_regular
from mmssl.hosts.coco_boxes import BOX, beyond, left_out, listed
from mmssl.hosts.coco_segments import refuse_polygons_elsewhere


def read_json(path: str | PathLike) -> Any:
    """Read a JSON file in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Raises:
        OSError: The file does not exist, or is no regular file.
        ValueError: It is not JSON; the message names it.
    """
    if os.path.isdir(path):
        raise IsADirectoryError(f'{path} is a folder, not a JSON file')
    data = read_regular(os.fspath(path))
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not valid JSON: {error}') from None


def prepare_coco(content: Any) -> list[str]:
    """Check a COCO file and complete it in place.

    ``iscrowd`` is 0 by default and ``area`` that of the mask or else of the box; a missing box is that of the
    mask. Numbers and ids that are written as text are read as numbers.

    Args:
        content: The parsed file, with lists under 'images', 'annotations' and 'categories'.

    Returns:
        What was completed and which boxes are left out, in a line each.

    Raises:
        ValueError: An entry lacks what has no default, ids repeat or do not refer to an entry, a box is not
            four finite numbers, none of the boxes can be used, or they are corners. The message names the
            entry and the cure.
    """
    images = {entry['id']: entry for entry in entries_of(content, 'images')}
    for image in images.values():
        check_image(image)
    categories = {entry['id']: entry for entry in entries_of(content, 'categories')}
    for category in categories.values():
        if not isinstance(category.get('name'), str):
            raise ValueError(
                f'category {category["id"]} has the name {category.get("name")!r}; a text is needed'
            )
    completed: Counter[str] = Counter()
    annotations = _numbered(content)
    link(annotations, 'image_id', images, 'image', completed)
    if categories:
        link(annotations, 'category_id', categories, 'category', completed)
    for annotation in annotations:
        _complete_annotation(annotation, images[annotation['image_id']], completed)
    notes = [f'{count} annotations {text}' for text, count in completed.items()]
    notes += [f'boxes left out: {text}' for text in left_out(annotations, images)]
    notes += beyond(annotations, images)
    refuse_polygons_elsewhere(annotations)
    return notes


def _numbered(content: dict) -> list[dict]:
    """Return the annotations; if none of them has an id, they are numbered."""
    annotations: Any = content.get('annotations')
    plain = isinstance(annotations, list) and all(isinstance(entry, dict) for entry in annotations)
    if plain and not any('id' in entry for entry in annotations):
        for number, entry in enumerate(annotations, 1):
            entry['id'] = number
    return entries_of(content, 'annotations')


def first_repeated(values: Iterable) -> Any:
    """Return the first value that occurs more than once, or None."""
    counts = Counter(value for value in values if value is not None)
    return next((value for value, count in counts.items() if count > 1), None)


def entries_of(content: Any, section: str) -> list[dict]:
    """Return the entries of a section, each a dict with an id of its own."""
    entries = content.get(section) if isinstance(content, dict) else None
    if entries is None and section == 'categories':
        return []
    if not isinstance(entries, list):
        raise ValueError(f'{section!r} is no list, so this is no COCO file of boxes')
    for index, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise ValueError(f'entry {index} of {section} is {entry!r:.40}; a dict is needed')
        if 'id' in entry:
            entry['id'] = _whole(entry['id'])
        if isinstance(entry.get('id'), bool) or not isinstance(entry.get('id'), (int, str)):
            raise ValueError(
                f'entry {index} of {section} has the id {entry.get("id")!r}; a whole number is needed'
            )
    repeated = first_repeated(entry['id'] for entry in entries)
    if repeated is not None:
        raise ValueError(f'several {section} have the id {repeated}; every id must be unique')
    return entries


def check_image(image: dict) -> None:
    if not isinstance(image.get('file_name'), str) or not image['file_name']:
        raise ValueError(
            f'image {image["id"]} has the file_name {image.get("file_name")!r}; a path is needed'
        )
    for key in ('width', 'height'):
        value = finite_number(image.get(key))
        if value is None or not value >= 1 or value != int(value):
            raise ValueError(
                f'image {image["id"]} ({image["file_name"]}) has the {key} {image.get(key)!r}; its size in '
                'pixels is needed'
            )
        image[key] = int(value)


def check_evaluated_image(sample: Any, images: dict, file: str) -> None:
    """Check that an image of a test is the one of its id in the annotation file of a metric.

    Args:
        sample: Mapping with ``img_id`` and ``img_path``.
        images: Id -> image of the annotation file.
        file: Name of the annotation file, for the error.

    Raises:
        ValueError: The file has no such id, or another image under it.
    """
    path = sample.get('img_path')
    if not isinstance(path, str):
        return
    name, image = os.path.basename(path), images.get(sample.get('img_id'))
    stated = os.path.basename(str((image or {}).get('file_name', name)))
    if image is None or stated != name:
        where = 'has no such image' if image is None else f'names it {stated}'
        raise ValueError(
            f'the evaluated image {sample.get("img_id")} is {name}, but {file} of the metric {where}; give '
            'the evaluator and the data set the same ann_file'
        )


def link(annotations: list[dict], key: str, entries: dict, name: str, completed: Counter) -> None:
    """Check that every annotation refers to an entry; an id that differs only by its type is replaced.

    Args:
        annotations: The annotations, which are changed.
        key: Their key with the id of the entry.
        entries: Id -> entry.
        name: What an entry is, for messages.
        completed: Number of annotations by what was changed in them.

    Raises:
        ValueError: Some annotations refer to no entry.
    """
    by_text = {str(entry_id): entry_id for entry_id in entries}
    orphans = []
    for annotation in annotations:
        entry_id = annotation[key] = _whole(annotation.get(key))
        if isinstance(entry_id, (int, str)) and entry_id in entries:
            continue
        match = by_text.get(str(entry_id))
        if match is None:
            orphans.append(annotation)
        else:
            annotation[key] = match
            type_name = type(match).__name__
            completed[f'have a {key} that is not listed, except as {type_name}, which is used'] += 1
    if orphans:
        wrong = [annotation.get(key) for annotation in orphans]
        raise ValueError(
            f'{len(orphans)} annotations have a {key} that is not listed: {key} {wrong[0]!r} of annotation '
            f'{listed(annotation.get("id") for annotation in orphans)}; list the {name}, or remove them'
        )


def _whole(entry_id: Any) -> Any:
    """Return an id such as 3.0, as tables are exported, as a whole number."""
    return int(entry_id) if isinstance(entry_id, float) and entry_id.is_integer() else entry_id


def finite_number(value: Any) -> Any:
    """Return a finite number, also one that is written as text; None for anything else."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def _complete_annotation(annotation: dict, image: dict, completed: Counter) -> None:
    box: Any = annotation.get('bbox')
    if box is None and annotation.get('segmentation'):
        box = _mask_area_and_box(annotation, image)[1]
        completed['have no bbox: that of the mask is used'] += 1
    values: list[Any] = [finite_number(value) for value in box] if isinstance(box, (list, tuple)) else []
    if len(values) != 4 or None in values:
        raise ValueError(f'annotation {annotation["id"]} has the box {box!r}; it needs {BOX}, finite numbers')
    if any(isinstance(value, str) for value in box):
        completed['have boxes written as text, which are read as numbers'] += 1
    annotation['bbox'] = values
    for key in ('iscrowd', 'ignore'):
        if key in annotation or key == 'iscrowd':
            annotation[key] = flag(annotation, key, completed)
    area = finite_number(annotation.get('area'))
    if annotation.get('area') is not None and area is None:
        raise ValueError(
            f'annotation {annotation["id"]} has the area {annotation["area"]!r}; a finite number is needed'
        )
    if area is None or (area <= 0 < min(values[2:])):
        if annotation.get('segmentation'):
            area, _ = _mask_area_and_box(annotation, image)
        else:
            area = values[2] * values[3]
        completed['have no area: that of the mask, or else of the box, is used'] += 1
    annotation['area'] = area


def flag(annotation: dict, key: str, completed: Counter) -> int:
    value = annotation.get(key)
    if value is None:
        completed[f'have no {key}: 0 is used'] += 1
        return 0
    number = int(value) if isinstance(value, bool) else finite_number(value)
    if number not in (0, 1):
        raise ValueError(f'annotation {annotation["id"]} has {key}={value!r}; 0 or 1 is needed')
    return int(number)


def _mask_area_and_box(annotation: dict, image: dict) -> tuple[float, list[float]]:
    """Area and box of a mask: polygons, or run lengths."""
    try:
        from pycocotools import mask as coco

        segmentation = annotation['segmentation']
        size = image['height'], image['width']
        if isinstance(segmentation, list):
            code = coco.merge(coco.frPyObjects(segmentation, *size))
        elif isinstance(segmentation['counts'], list):
            code = coco.frPyObjects(segmentation, *size)
        else:
            code = segmentation
        return float(coco.area(code)), [float(value) for value in coco.toBbox(code)]
    except Exception as error:  # pycocotools fails on invalid masks in many ways
        text = (str(error) or type(error).__name__).splitlines()[0]
        raise ValueError(
            f'annotation {annotation["id"]} has a segmentation that cannot be read: {text}'
        ) from None


def compare_classes(content: dict, names: Iterable[str]) -> list[str]:
    """Compare the categories of a file with the classes of a run.

    Args:
        content: The parsed file.
        names: Class names in the order of the labels.

    Returns:
        Categories that are left out and classes without a category, in a line each.

    Raises:
        ValueError: No class is a category, two categories share a name, or a class is a misspelt category.
    """
    names = list(names)
    categories = content.get('categories') or []
    present = [category['name'] for category in categories]
    repeated = first_repeated(name for name in present if name in names)
    if repeated is not None:
        raise ValueError(f'several categories have the name {repeated!r}; every name must be unique')
    if not set(present) & set(names):
        raise ValueError(
            f'none of the {len(names)} classes ({listed(names)}) is one of its {len(present)} '
            f'categories ({listed(present)}); set metainfo=dict(classes=...) of the dataset to their names'
        )
    missing = [name for name in names if name not in present]
    ignored = {category['name']: category['id'] for category in categories if category['name'] not in names}
    refuse_misspelt(missing, ignored, 'category')
    notes = []
    if ignored:
        ids = set(ignored.values())
        objects = sum(annotation.get('category_id') in ids for annotation in content.get('annotations') or [])
        notes.append(
            f'{objects} objects of {len(ignored)} categories that are no class of this run are left out: '
            f'{listed(ignored)}'
        )
    if missing:
        notes.append(
            f'no category, so no object, of {len(missing)} of the {len(names)} classes: {listed(missing)}'
        )
    return notes


def refuse_misspelt(missing: Iterable[str], unused: Iterable[str], name: str) -> None:
    """Refuse a class without objects whose name is nearly that of objects which no class takes.

    Args:
        missing: Classes without objects.
        unused: Names of objects that are no class.
        name: What the latter are, for the message.

    Raises:
        ValueError: There is such a class.
    """
    for class_name, unused_name in itertools.product(missing, unused):
        if _nearly_same(class_name, unused_name):
            raise ValueError(
                f'the class {class_name!r} is no {name}, but {unused_name!r} is one and no class; '
                'write both the same in metainfo=dict(classes=...) of the dataset'
            )


def _nearly_same(first: str, second: str) -> bool:
    """Whether two names differ by case, a separator or, from four letters on, by a typing error."""
    first, second = (''.join(filter(str.isalnum, name.casefold())) for name in (first, second))
    if first == second:
        return True
    digits = [[letter for letter in name if letter.isdigit()] for name in (first, second)]
    if min(len(first), len(second)) < 4 or first[0] != second[0] or digits[0] != digits[1]:
        return False
    return difflib.SequenceMatcher(None, first, second).ratio() >= 0.8
