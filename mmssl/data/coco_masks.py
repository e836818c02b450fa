"""COCO files and SA-1B's as masks: entries are checked, and what is no mask is left out by its reason."""

from collections import Counter
from typing import Any

import numpy as np

from mmssl.hosts.coco_files import check_image, entries_of, finite_number, flag, link
from mmssl.hosts.coco_segments import check_segment


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

    check_segment(segment, size)
    if isinstance(segment, list):
        return coco.decode(coco.merge(coco.frPyObjects(segment, *size))).astype(bool)
    if isinstance(segment['counts'], list):
        segment = coco.frPyObjects(segment, *size)
    return coco.decode(segment).astype(bool)
