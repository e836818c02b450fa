"""Checks of detection annotations for errors that would give wrong numbers without a message.

mmdet keeps the last of two entries with the same id, numbers the classes in the order of the file instead of
the config's, and drops objects of unknown names silently.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element

from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import print_log

from mmssl.hosts.coco_files import compare_classes, finite_number, listed, refuse_misspelt


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
    try:
        notes = compare_classes(coco.dataset, names)
    except ValueError as error:
        raise ValueError(f'{file}: {error}') from None
    for note in notes:
        log(f'{file}: {note}')
    categories = coco.dataset['categories']
    ids = {category['name']: category['id'] for category in categories}
    ordered = [category['name'] for category in categories if category['name'] in names]
    if ordered != [name for name in names if name in ids]:
        log(f'{file}: classes are numbered in the order of the config, which is not that of the file')
    missing = [name for name in names if name not in ids]
    for index, name in enumerate(missing, _first_free_id(ids.values())):
        ids[name] = index
        coco.cats[index] = dict(id=index, name=name, supercategory='')
        categories.append(coco.cats[index])
    return [ids[name] for name in names]


def _first_free_id(ids: Iterable) -> int:
    return max((category_id for category_id in ids if isinstance(category_id, int)), default=0) + 1


def check_xml_names(object_counts: Counter, names: Sequence[str], file: str, flat_boxes: int) -> None:
    """Compare the names of the objects in XML files with the classes, and log what is left out.

    Args:
        object_counts: Number of objects of each name.
        names: Class names.
        file: The list of images, for messages.
        flat_boxes: Number of boxes without area that were left out.

    Raises:
        ValueError: There are objects, but none of them belongs to a class or has an area; or a class is a
            misspelt name of objects.
    """
    unknown = Counter({name: count for name, count in object_counts.items() if name not in names})
    if object_counts and len(unknown) == len(object_counts):
        raise ValueError(
            f'{file}: none of the {len(names)} classes ({listed(names)}) is the name of an object; there '
            f'are {listed(object_counts)}. Set metainfo=dict(classes=...) of the dataset to these names'
        )
    known = object_counts.total() - unknown.total()
    if known and flat_boxes == known:
        raise ValueError(
            f'{file}: none of the {known} boxes has an area; they are xmin, ymin, xmax, ymax in whole pixels'
        )
    try:
        missing = [name for name in names if name not in object_counts]
        refuse_misspelt(missing, filter(None, unknown), 'name of an object')
    except ValueError as error:
        raise ValueError(f'{file}: {error}') from None
    if unknown:
        log(
            f'{file}: {unknown.total()} objects of other names than the classes are left out: '
            f'{listed(unknown)}'
        )
    if flat_boxes:
        log(f'{file}: {flat_boxes} boxes without area are left out')


def check_xml_objects(root: Element, names: Sequence[str]) -> None:
    """Check the objects of a PASCAL VOC file.

    Spaces and line breaks around the names of objects are removed.

    Args:
        root: The root of the file, which is changed.
        names: Class names; objects of other names may lack a box.

    Raises:
        ValueError: An object has no name, box or corner, or a corner or 'difficult' is no finite number; or a
            box is outside of any object, so that nothing would read it. The message says which.
    """
    objects = root.findall('object')
    inside = sum(_num_boxes(entry) for entry in objects)
    if inside != _num_boxes(root):
        raise ValueError(
            f'{_num_boxes(root) - inside} of its boxes are in no <object> directly below <annotation>, and '
            'tags have no namespace'
        )
    for number, entry in enumerate(objects, 1):
        name, difficult = entry.find('name'), entry.find('difficult')
        if name is None:
            raise ValueError(f'object {number} has no name')
        name.text = (name.text or '').strip()
        if name.text not in names:
            continue
        if difficult is not None and finite_number((difficult.text or '').strip()) not in (0, 1):
            raise ValueError(
                f'object {number} ({name.text}) has difficult={difficult.text!r}; 0 or 1 is needed'
            )
        for corner in ('xmin', 'ymin', 'xmax', 'ymax'):
            text = entry.findtext(f'bndbox/{corner}')
            if finite_number(text) is None:
                raise ValueError(
                    f'object {number} ({name.text}) has {corner}={text!r}; a number of pixels is needed'
                )


def _num_boxes(node: Element) -> int:
    return sum(str(child.tag).rpartition('}')[2] == 'bndbox' for child in node.iter())


def log(text: str) -> None:
    print_log(text, logger='current')
