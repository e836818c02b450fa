"""Checks of the labels of one image: class indices, boxes, masks, label maps."""

import io
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from mmssl.checkpoint.regular_files import read_regular
from mmssl.data.checks.records import ImageRecord
from mmssl.hosts.coco_segments import check_segment


class LabelRange(NamedTuple):
    """Labels that a data set may contain.

    Attributes:
        num_classes: Labels are 0 to ``num_classes - 1``; None if the number of classes is unknown.
        ignore_index: Label of pixels without a class; None if the labels are not of pixels.
    """

    num_classes: int | None
    ignore_index: int | None = None

    def contains(self, label: int) -> bool:
        """Return True for a valid label."""
        return 0 <= label < (self.num_classes or math.inf)

    def errors(self, labels: Iterable[int]) -> tuple[str, ...]:
        """Describe the labels that are out of range, each once."""
        invalid = sorted({label for label in labels if not self.contains(label)})
        if self.num_classes is None:
            return tuple(f'label {label} is below 0' for label in invalid)
        ignored = '' if self.ignore_index is None else f', nor the ignored {self.ignore_index}'
        return tuple(
            f'label {label} is none of the {self.num_classes} classes, 0 to {self.num_classes - 1}{ignored}'
            for label in invalid
        )


def check_image_labels(record: ImageRecord, info: dict, valid: LabelRange) -> ImageRecord:
    """Check the class indices of a whole image."""
    labels = [int(label) for label in np.atleast_1d(info['gt_label'])]
    return record._replace(counts=dict(Counter(labels)), errors=valid.errors(labels))


def check_boxes(
    record: ImageRecord, info: dict, valid: LabelRange, classes: Sequence[str] = (), masks: bool = False
) -> ImageRecord:
    """Check the boxes and labels of a detection data set.

    Args:
        record: The record to complete; its size is known.
        info: Entry of mmdet's data set.
        valid: Valid labels.
        classes: Names of the classes, to which the names in a PASCAL VOC file are compared.
        masks: Whether the masks of the objects are read too.
    """
    assert record.size is not None
    instances = [instance for instance in info['instances'] if not instance.get('ignore_flag')]
    labels = [int(instance['bbox_label']) for instance in instances]
    errors, warnings = list(valid.errors(labels)), list[str]()
    width, height = record.size
    stated = info.get('width'), info.get('height')
    if None not in stated and stated != record.size:
        text = f'the annotations say {stated[0]}x{stated[1]}, the file is {width}x{height}'
        (errors if all(stated) else warnings).append(text)  # some tools write 0x0
    for number, instance in enumerate(info['instances'] if masks else (), 1):
        try:
            check_segment(instance.get('mask'), (height, width))
        except ValueError as error:
            errors.append(f'object {number} has {error}')
    for instance in instances:
        left, top, right, bottom = map(float, instance['bbox'])
        if not all(map(math.isfinite, (left, top, right, bottom))):
            errors.append(f'box {instance["bbox"]} is not finite')
        elif right <= left or bottom <= top:
            warnings.append('box without area')
        elif left < -1 or top < -1 or right > width + 1 or bottom > height + 1:
            warnings.append('box beyond the image')
    if info.get('xml_path'):
        objects = ElementTree.parse(info['xml_path']).iterfind('object/name')
        unknown = {(element.text or '').strip() for element in objects} - set(classes)
        warnings += [f'objects named {name!r}, which is not a class' for name in sorted(unknown)]
    return record._replace(
        counts=dict(Counter(labels)), objects=len(labels), errors=tuple(errors), warnings=tuple(warnings)
    )


def check_masks(record: ImageRecord, info: dict) -> ImageRecord:
    """Check the sizes and areas of an image's instance masks."""
    assert record.size is not None
    width, height = record.size
    masks = info['read_masks'](info)
    errors: tuple[str, ...] = ()
    if masks.shape[1:] != (height, width):
        errors = (f'masks of {masks.shape[2]}x{masks.shape[1]} for an image of {width}x{height}',)
    warnings = tuple('mask without pixels' for mask in masks if not mask.any())
    return record._replace(objects=len(masks), errors=errors, warnings=warnings)


def check_label_map(record: ImageRecord, path: str, labels: np.ndarray, valid: LabelRange) -> ImageRecord:
    """Check a label map against its image.

    Args:
        record: The record to complete; its size is known.
        path: File of the label map.
        labels: (H, W) label map as the config's transform loads it.
        valid: Valid labels.
    """
    assert record.size is not None
    width, height = record.size
    with Image.open(io.BytesIO(read_regular(path))) as image:
        if labels.dtype == np.uint8 and image.mode.startswith('I') and image.getextrema()[1] > 255:
            error = 'label map of 16 bits with values above 255, which the loader cuts to 8 bits'
            return record._replace(errors=(error,))
    if labels.ndim != 2:
        error = f'label map of {labels.shape[2]} channels; one number per pixel is needed'
        return record._replace(errors=(error,))
    if labels.shape != (height, width):
        error = f'label map of {labels.shape[1]}x{labels.shape[0]} for an image of {width}x{height}'
        return record._replace(errors=(error,))
    values, pixels = np.unique(labels, return_counts=True)
    counts = {int(value): int(count) for value, count in zip(values, pixels, strict=True)}
    ignored = 0
    if valid.ignore_index is not None:
        ignored = counts.pop(valid.ignore_index, 0)
    known = {value: count for value, count in counts.items() if valid.contains(value)}
    errors = valid.errors(counts)
    if errors and valid.num_classes in counts and max(counts) == valid.num_classes:
        errors += (
            'labels are one too high: if 0 means unlabelled, set reduce_zero_label=True of the data set',
        )
    return record._replace(counts=known, objects=len(counts), ignored=ignored, errors=errors)
