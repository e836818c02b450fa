"""COCO files and SA-1B's as masks: entries are checked, and what is no mask is left out by its reason."""

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np

from mmssl.hosts.coco_files import check_image, entries_of, finite_number, flag, link


def prepare_masks(content: Any) -> list[str]:
    """Check the images and annotations of a COCO file of masks, and complete it in place.

    Boxes, areas and categories are not needed. Numbers and ids that are written as text are read as numbers.

    Args:
        content: The parsed file.

    Returns:
        What was completed, in a line each.

    Raises:
        ValueError: It is no COCO file, or an entry is invalid; the message names the entry.
    """
    images = {entry['id']: entry for entry in entries_of(content, 'images')}
    for image in images.values():
        check_image(image)
    annotations: Any = content.get('annotations')
    if not isinstance(annotations, list):
        raise ValueError("'annotations' is no list, so this is no COCO file of instances")
    for index, annotation in enumerate(annotations):
        if not isinstance(annotation, dict):
            raise ValueError(f'entry {index} of annotations is {annotation!r:.40}; a dict is needed')
        if isinstance(annotation.get('id'), (list, dict)):
            raise ValueError(
                f'entry {index} of annotations has the id {annotation["id"]!r}; a whole number is needed'
            )
    completed: Counter[str] = Counter()
    link(annotations, 'image_id', images, 'image', completed)
    for annotation in annotations:
        check_mask_annotation(annotation)
    return [f'{count} annotations {text}' for text, count in completed.items()]


def check_mask_annotation(annotation: dict) -> None:
    """Check the values of an annotation that has a mask; numbers that are written as text become numbers.

    Raises:
        ValueError: A box, an area, a flag or the segmentation is of a wrong type.
    """
    name = f'annotation {annotation.get("id")}'
    if annotation.get('iscrowd') is not None:
        annotation['iscrowd'] = flag(annotation, 'iscrowd', Counter())
    for key in ('area', 'predicted_iou', 'stability_score'):
        if annotation.get(key) is None:
            annotation.pop(key, None)
            continue
        number = finite_number(annotation[key])
        if number is None:
            raise ValueError(f'{name} has {key}={annotation[key]!r}; a finite number is needed')
        annotation[key] = number
    box = annotation.get('bbox')
    if box is not None:
        values = [finite_number(value) for value in box] if isinstance(box, (list, tuple)) else [None]
        if None in values or len(values) != 4:
            raise ValueError(f'{name} has the box {box!r:.60}; it needs four finite numbers')
        annotation['bbox'] = values
    _check_segmentation(annotation.get('segmentation'), name)


def _check_segmentation(segment: Any, name: str) -> None:
    """Check types; the numbers are checked when the mask is decoded."""
    if not segment and not isinstance(segment, (bool, int, float)):
        return  # None or empty: no mask
    if isinstance(segment, list) and all(isinstance(polygon, list) for polygon in segment):
        return
    if isinstance(segment, dict) and isinstance(segment.get('counts'), (list, str, bytes)):
        size = segment.get('size')
        if isinstance(size, list) and len(size) == 2 and all(isinstance(side, int) for side in size):
            return
    raise ValueError(
        f'{name} has the segmentation {segment!r:.60}; it needs polygons [[x, y, x, y, ...], ...], or run '
        'lengths as dict(size=[height, width], counts=...)'
    )


def decode_segment(segment: dict | list, size: tuple[int, int]) -> np.ndarray:
    """Decode a COCO segmentation.

    Args:
        segment: Polygons (x, y, x, y, ...), or run lengths, as a list or compressed.
        size: (H, W) of the image.

    Returns:
        (H, W) bool.

    Raises:
        ValueError: Run lengths of an image of another size or which do not cover it, or polygons that are no
            finite (x, y).
    """
    from pycocotools import mask as coco

    if isinstance(segment, list):
        _check_polygons(segment)
        return coco.decode(coco.merge(coco.frPyObjects(segment, *size))).astype(bool)
    if tuple(segment['size']) != tuple(size):
        raise ValueError(
            f'run lengths of a {segment["size"][0]}x{segment["size"][1]} image, but this one is '
            f'{size[0]}x{size[1]} (height x width)'
        )
    counts = segment['counts']
    lengths = np.array(counts) if isinstance(counts, list) else _decompress(counts)
    if lengths.dtype.kind != 'i' or (lengths < 0).any() or lengths.sum() != math.prod(size):
        raise ValueError(f'run lengths that do not add up to the {math.prod(size)} pixels of the image')
    if isinstance(counts, list):
        segment = coco.frPyObjects(segment, *size)
    return coco.decode(segment).astype(bool)


def _decompress(text: str | bytes) -> np.ndarray:
    """Return the run lengths of a compressed mask, which pycocotools decodes whatever they add up to.

    A character has five bits of a number and one that says whether it goes on; from the fourth on, numbers
    are differences from the last but one (rleFrString in maskApi.c of pycocotools).
    """
    data = np.frombuffer(text.encode() if isinstance(text, str) else text, np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(data & 32 == 0)
    if not len(ends) or ends[-1] != len(data) - 1 or data.min() < 0 or data.max() > 63:
        raise ValueError('compressed run lengths that end in the middle, or have other characters')
    starts = np.concatenate([[0], ends[:-1] + 1])
    sizes = ends - starts + 1
    if sizes.max() > 8:
        raise ValueError('compressed run lengths with a number that is too large')
    bits = 5 * (np.arange(len(data)) - np.repeat(starts, sizes))
    lengths = np.add.reduceat((data & 31) << bits, starts)
    lengths -= np.where(data[ends] & 16, 1 << (5 * sizes), 0)
    lengths[1::2] = lengths[1::2].cumsum()
    lengths[2::2] = lengths[2::2].cumsum()
    return lengths


def _check_polygons(polygons: list[list]) -> None:
    for value in itertools.chain.from_iterable(polygons):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1 << 24:
            raise ValueError(f'a polygon with the coordinate {value!r:.40}; numbers of pixels are needed')
    if any(len(polygon) % 2 for polygon in polygons):
        raise ValueError('a polygon with an odd number of coordinates; it needs x, y, x, y, ...')
