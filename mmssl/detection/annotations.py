"""Annotation files are looked at when mmdet reads them; the host keeps the last of two entries with one id, numbers classes in the order of
the file whatever the config says, leaves objects of other names out, and says nothing."""

import functools
import math
from collections import Counter
from collections.abc import Iterable, Sequence

from mmdet.datasets import XMLDataset
from mmdet.datasets.api_wrappers import COCO
from mmengine.logging import print_log


def check_coco(content: dict) -> None:
    """Look for what would give wrong numbers in silence.

    Args:
        content: of a COCO file of instances.

    Raises:
        ValueError: two images, annotations or categories with one id; an annotation of a category that is not
            listed; a box that is not four finite numbers. Boxes without area, images without objects and
            objects without an image are left to the data set.
    """
    images, annotations, categories = (
        content.get(key) or [] for key in ('images', 'annotations', 'categories')
    )
    for what, entries in (('images', images), ('annotations', annotations), ('categories', categories)):
        repeated = _repeated(entry.get('id') for entry in entries)
        if repeated is not None:
            raise ValueError(f'several {what} have the id {repeated}; give each an id of its own')
    known_categories = {category['id'] for category in categories}
    for annotation in annotations:
        if known_categories and annotation.get('category_id') not in known_categories:
            raise ValueError(
                f'annotation {annotation.get("id")} is of category {annotation.get("category_id")}, which is not listed'
            )
        box = annotation.get('bbox')
        if box is not None and not (len(box) == 4 and all(map(math.isfinite, box))):
            raise ValueError(
                f'annotation {annotation.get("id")} has the box {box}; four finite numbers are needed'
            )


def _repeated(ids: Iterable):
    ids = [number for number in ids if number is not None]
    return (
        next((number for number, count in Counter(ids).items() if count > 1), None)
        if len(set(ids)) < len(ids)
        else None
    )


def category_ids(coco: COCO, names: Sequence[str]) -> list[int]:
    """Ids of the categories of classes, in the order of the classes, so that label i is class i in every file.

    A class without a category in the file gets one without objects, and is named in the log, as are
    categories that are no class.

    Args:
        coco: with its index.
        names: of the classes.

    Raises:
        ValueError: no class is a category of the file, or two categories have one name.
    """
    file, categories = getattr(coco, 'file', None) or 'annotation file', coco.dataset.get('categories') or []
    given = [category['name'] for category in categories]
    repeated = _repeated(name for name in given if name in names)
    if repeated is not None:
        raise ValueError(
            f'{file}: several categories have the name {repeated!r}; give each a name of its own'
        )
    if not set(given) & set(names):
        raise ValueError(
            f'{file}: none of the {len(names)} classes ({_some(names)}) is one of its {len(given)} categories '
            f'({_some(given)}); set metainfo=dict(classes=...) of the dataset to their names'
        )
    ids = {category['name']: category['id'] for category in categories}
    missing, others = (
        [name for name in names if name not in ids],
        [name for name in given if name not in names],
    )
    if others:
        objects = sum(
            annotation.get('category_id') in {ids[name] for name in others}
            for annotation in coco.dataset.get('annotations', [])
        )
        print_log(
            f'{file}: {objects} objects of {len(others)} categories that are no class of this run are left out: {_some(others)}',
            logger='current',
        )
    if missing:
        print_log(
            f'{file}: no category, so no object, of {len(missing)} of the {len(names)} classes: {_some(missing)}',
            logger='current',
        )
        free = max(ids.values()) + 1
        for number, name in enumerate(missing, free):
            ids[name] = number
            category = dict(id=number, name=name, supercategory='')
            coco.dataset['categories'].append(category)
            coco.cats[number] = category
    if [name for name in given if name in names] != [name for name in names if name in given]:
        print_log(
            f'{file}: classes are numbered in the order of the config, which is not that of the file',
            logger='current',
        )
    return [ids[name] for name in names]


def check_xml_names(seen: Counter, names: Sequence[str], file: str, flat: int) -> None:
    """Compare the names of objects in XML files with the classes.

    Args:
        seen: name to number of objects.
        names: of the classes.
        file: that lists the images.
        flat: number of boxes that were left out.

    Raises:
        ValueError: there are objects, and none of them is of a class.
    """
    others = Counter({name: count for name, count in seen.items() if name not in names})
    if seen and len(others) == len(seen):
        raise ValueError(
            f'{file}: none of the {len(names)} classes ({_some(names)}) is the name of an object; there are {_some(seen)}. '
            'Set metainfo=dict(classes=...) of the dataset to these names'
        )
    if others:
        print_log(
            f'{file}: {others.total()} objects of other names than the classes are left out: {_some(others)}',
            logger='current',
        )
    if flat:
        print_log(f'{file}: {flat} boxes without area are left out', logger='current')


def _some(names: Iterable) -> str:
    names = list(map(str, names))
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')


def check_when_indexed() -> None:
    """Have mmdet's COCO look at every file before it makes its index, for training and for CocoMetric, and its XMLDataset at names and
    boxes; more than once changes nothing."""
    host = COCO.createIndex
    if getattr(host, 'looks', False):
        return

    @functools.wraps(host)
    def create_index(self) -> None:
        if isinstance(self.dataset, dict) and 'annotations' in self.dataset:
            try:
                check_coco(self.dataset)
            except ValueError as error:
                raise ValueError(f'{getattr(self, "file", None) or "annotation file"}: {error}') from None
        host(self)

    vars(create_index)['looks'] = True
    host_init = COCO.__init__

    @functools.wraps(host_init)
    def init(self, annotation_file=None) -> None:
        self.file = annotation_file
        host_init(self, annotation_file)

    host_ids = COCO.get_cat_ids

    @functools.wraps(host_ids)
    def get_cat_ids(self, cat_names=(), sup_names=(), cat_ids=()):
        if (
            type(self) is COCO
            and cat_names
            and not isinstance(cat_names, str)
            and not sup_names
            and not cat_ids
        ):
            return category_ids(self, cat_names)
        return host_ids(self, cat_names, sup_names, cat_ids)

    COCO.createIndex, COCO.__init__, COCO.get_cat_ids = create_index, init, get_cat_ids
    _check_xml()


def _check_xml() -> None:
    host_load, host_parse, host_objects = (
        XMLDataset.load_data_list,
        XMLDataset.parse_data_info,
        XMLDataset._parse_instance_info,
    )

    @functools.wraps(host_load)
    def load_data_list(self) -> list[dict]:
        self._names, self._flat = Counter(), 0
        data_list = host_load(self)
        check_xml_names(self._names, self._metainfo['classes'], self.ann_file, self._flat)
        return data_list

    @functools.wraps(host_parse)
    def parse_data_info(self, img_info: dict) -> dict:
        try:
            return host_parse(self, img_info)
        except (
            ValueError,
            AttributeError,
            SyntaxError,
        ) as error:  # a number that is none, a node that is missing, no XML
            raise ValueError(f'{img_info.get("xml_path")}: {error}') from None

    @functools.wraps(host_objects)
    def parse_instance_info(self, raw_ann_info, *args, **kwargs) -> list[dict]:
        if hasattr(self, '_names'):
            self._names.update(node.text for node in raw_ann_info.iterfind('object/name'))
        instances = host_objects(self, raw_ann_info, *args, **kwargs)
        if self.test_mode:
            return instances
        kept = [
            found
            for found in instances
            if found['bbox'][2] > found['bbox'][0] and found['bbox'][3] > found['bbox'][1]
        ]
        self._flat = getattr(self, '_flat', 0) + len(instances) - len(kept)
        return kept

    XMLDataset.load_data_list, XMLDataset.parse_data_info = load_data_list, parse_data_info
    XMLDataset._parse_instance_info = parse_instance_info
