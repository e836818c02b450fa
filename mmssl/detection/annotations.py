"""Checks of detection annotations for errors that would give wrong numbers without a message.

mmdet keeps the last of two entries with the same id, numbers the classes in the order of the file instead of
the config's, and drops objects of unknown names silently.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import print_log

MAX_LISTED = 5


def check_coco(content: dict) -> None:
    """Check ids, categories and boxes of a COCO file.

    Boxes without area, images without objects and objects without an image are left to the dataset.

    Args:
        content: The parsed file, with lists under 'images', 'annotations' and 'categories'.

    Raises:
        ValueError: Two images, annotations or categories share an id; an annotation refers to a category
            that is not listed; a box is not four finite numbers.
    """
    for key in ('images', 'annotations', 'categories'):
        repeated = _first_repeated(entry.get('id') for entry in content.get(key) or [])
        if repeated is not None:
            raise ValueError(f'several {key} have the id {repeated}; every id must be unique')
    known_categories = {category['id'] for category in content.get('categories') or []}
    for annotation in content.get('annotations') or []:
        category = annotation.get('category_id')
        if known_categories and category not in known_categories:
            raise ValueError(
                f'annotation {annotation.get("id")} is of category {category}, which is not listed'
            )
        box = annotation.get('bbox')
        if box is not None and not (len(box) == 4 and all(map(math.isfinite, box))):
            raise ValueError(
                f'annotation {annotation.get("id")} has the box {box}; four finite numbers are needed'
            )


def category_ids(coco: COCO, names: Sequence[str]) -> list[int]:
    """Return the category id of each class, so that label i is class i whatever the order of the file.

    A class without a category in the file gets a new category without objects. Such classes are logged, and
    so are the categories that are not a class.

    Args:
        coco: Indexed annotations; new categories are added to them.
        names: Class names in the order of the labels.

    Raises:
        ValueError: No class is a category of the file, or two categories share a name.
    """
    file = getattr(coco, 'file', None) or 'annotation file'
    categories = coco.dataset.get('categories') or []
    file_names = [category['name'] for category in categories]
    repeated = _first_repeated(name for name in file_names if name in names)
    if repeated is not None:
        raise ValueError(f'{file}: several categories have the name {repeated!r}; every name must be unique')
    if not set(file_names) & set(names):
        raise ValueError(
            f'{file}: none of the {len(names)} classes ({_listed(names)}) is one of its {len(file_names)} '
            f'categories ({_listed(file_names)}); set metainfo=dict(classes=...) of the dataset to their '
            'names'
        )
    ids = {category['name']: category['id'] for category in categories}
    _log_ignored_categories(file, coco, {name: ids[name] for name in file_names if name not in names})
    missing = [name for name in names if name not in ids]
    if missing:
        _log(
            f'{file}: no category, so no object, of {len(missing)} of the {len(names)} classes: '
            f'{_listed(missing)}'
        )
        for index, name in enumerate(missing, max(ids.values()) + 1):
            ids[name] = index
            coco.cats[index] = dict(id=index, name=name, supercategory='')
            coco.dataset['categories'].append(coco.cats[index])
    if [name for name in file_names if name in names] != [name for name in names if name in file_names]:
        _log(f'{file}: classes are numbered in the order of the config, which is not that of the file')
    return [ids[name] for name in names]


def check_xml_names(object_counts: Counter, names: Sequence[str], file: str, flat_boxes: int) -> None:
    """Compare the names of the objects in XML files with the classes, and log what is left out.

    Args:
        object_counts: Number of objects of each name.
        names: Class names.
        file: The list of images, for messages.
        flat_boxes: Number of boxes without area that were left out.

    Raises:
        ValueError: There are objects, but none of them belongs to a class.
    """
    unknown = Counter({name: count for name, count in object_counts.items() if name not in names})
    if object_counts and len(unknown) == len(object_counts):
        raise ValueError(
            f'{file}: none of the {len(names)} classes ({_listed(names)}) is the name of an object; there '
            'are '
            f'{_listed(object_counts)}. Set metainfo=dict(classes=...) of the dataset to these names'
        )
    if unknown:
        _log(
            f'{file}: {unknown.total()} objects of other names than the classes are left out: '
            f'{_listed(unknown)}'
        )
    if flat_boxes:
        _log(f'{file}: {flat_boxes} boxes without area are left out')


def _first_repeated(values: Iterable):
    """Return the first value that occurs more than once, or None."""
    counts = Counter(value for value in values if value is not None)
    return next((value for value, count in counts.items() if count > 1), None)


def _log_ignored_categories(file: str, coco: COCO, ignored: dict[str, int]) -> None:
    if not ignored:
        return
    ids = set(ignored.values())
    objects = sum(annotation.get('category_id') in ids for annotation in coco.dataset.get('annotations', []))
    _log(
        f'{file}: {objects} objects of {len(ignored)} categories that are no class of this run are left out: '
        f'{_listed(ignored)}'
    )


def _listed(names: Iterable) -> str:
    names = list(map(str, names))
    return ', '.join(names[:MAX_LISTED]) + (', ...' if len(names) > MAX_LISTED else '')


def _log(text: str) -> None:
    print_log(text, logger='current')
