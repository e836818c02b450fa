"""COCO files are looked at when mmdet indexes them; the host keeps the last of two entries with one id and says nothing."""

import functools
import math
from collections import Counter
from collections.abc import Iterable

from mmdet.datasets.api_wrappers import COCO


def check_coco(content: dict) -> None:
    """Look for what would give wrong numbers in silence.

    Args:
        content: of a COCO file of instances.

    Raises:
        ValueError: two images, annotations or categories with one id; an annotation of a category that is not listed; a box that is not
            four finite numbers. Boxes without area, images without objects and objects without an image are left to the data set.
    """
    images, annotations, categories = (content.get(key) or [] for key in ('images', 'annotations', 'categories'))
    for what, entries in (('images', images), ('annotations', annotations), ('categories', categories)):
        repeated = _repeated(entry.get('id') for entry in entries)
        if repeated is not None:
            raise ValueError(f'several {what} have the id {repeated}; give each an id of its own')
    known_categories = {category['id'] for category in categories}
    for annotation in annotations:
        if known_categories and annotation.get('category_id') not in known_categories:
            raise ValueError(f'annotation {annotation.get("id")} is of category {annotation.get("category_id")}, which is not listed')
        box = annotation.get('bbox')
        if box is not None and not (len(box) == 4 and all(map(math.isfinite, box))):
            raise ValueError(f'annotation {annotation.get("id")} has the box {box}; four finite numbers are needed')


def _repeated(ids: Iterable):
    ids = [number for number in ids if number is not None]
    return next((number for number, count in Counter(ids).items() if count > 1), None) if len(set(ids)) < len(ids) else None


def check_when_indexed() -> None:
    """Have mmdet's COCO look at every file before it makes its index, for training and for CocoMetric; more than once changes nothing."""
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

    create_index.looks = True
    host_init = COCO.__init__

    @functools.wraps(host_init)
    def init(self, annotation_file=None) -> None:
        self.file = annotation_file
        host_init(self, annotation_file)

    COCO.createIndex, COCO.__init__ = create_index, init
