"""Outlines, run lengths and masks of objects, and numbers as files round them."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mmssl.data.label_formats.records import Box, ImageLabels, ObjectLabel
from mmssl.errors import LabelError

# decimals of positions that people and tools write; others are not rounded
MAX_DECIMALS = 6


def polygons_box(polygons: Sequence[Sequence[float]]) -> Box:
    """Return the box around outlines."""
    numbers = [number for part in polygons for number in part[0::2]]
    others = [number for part in polygons for number in part[1::2]]
    return min(numbers), min(others), max(numbers), max(others)


def rle_box(rle: dict[str, Any]) -> Box:
    """Return the box around the pixels of run lengths."""
    left, top, width, height = map(float, coco_masks().toBbox(rle))
    return left, top, left + width, top + height


def coco_masks():
    """Return pycocotools' module of run lengths; an ImportError says how to install it."""
    from mmssl.data.annotations import coco_masks

    return coco_masks()


def as_rle(value: dict, size: tuple[int, int], image: ImageLabels) -> dict[str, Any]:
    """Return run lengths in pycocotools' compressed form, with text.

    Args:
        value: 'size' and 'counts', a list, bytes or text.
        size: (H, W) of the image.
        image: The image, for messages.

    Raises:
        LabelError: The mask has another size than the image, or cannot be read.
    """
    stated = tuple(map(int, value.get('size') or ()))
    counts = value.get('counts')
    if stated != size or counts is None:
        raise LabelError(
            f'a mask of {image.name} has size {list(stated)}, the image {list(size)} (height, width)',
            image.source,
        )
    if isinstance(counts, list):
        if sum(counts) != size[0] * size[1]:
            raise LabelError(
                f'the run lengths of a mask of {image.name} sum to {sum(counts)}, not to the '
                f'{size[0] * size[1]} pixels of the image',
                image.source,
            )
        counts = coco_masks().frPyObjects(dict(size=list(size), counts=counts), *size)['counts']
    return dict(size=list(size), counts=counts.decode() if isinstance(counts, bytes) else counts)


def encode(mask: np.ndarray) -> dict[str, Any]:
    """Return the run lengths of (H, W) bool."""
    code = coco_masks().encode(np.asfortranarray(mask, dtype=np.uint8))
    return dict(size=list(code['size']), counts=code['counts'].decode())


def object_rle(each: ObjectLabel, image: ImageLabels) -> dict[str, Any]:
    """Return the run lengths of an object's mask; of its box if it has no mask."""
    if each.rle:
        return each.rle
    left, top, right, bottom = each.box
    polygons = each.polygons or [[left, top, right, top, right, bottom, left, bottom]]
    coco = coco_masks()
    code = coco.merge(coco.frPyObjects(polygons, image.height, image.width))
    return dict(size=list(code['size']), counts=code['counts'].decode())


def object_mask(each: ObjectLabel, image: ImageLabels) -> np.ndarray:
    """Return the (H, W) bool mask of an object; its box if it has no mask."""
    return coco_masks().decode(object_rle(each, image)).astype(bool)


def mask_area(each: ObjectLabel, image: ImageLabels) -> float:
    """Return the number of pixels of an object's mask."""
    return float(coco_masks().area(object_rle(each, image)))


def largest_outline(each: ObjectLabel, image: ImageLabels) -> list[float]:
    """Return the outline of the largest part of an object, [x1, y1, ...]; empty if it has only a box.

    The outline of a mask goes through the centres of its outer pixels.
    """
    import cv2

    if len(each.polygons) == 1:
        return each.polygons[0]
    if each.polygons:
        parts = [np.array(part, np.float32).reshape(-1, 1, 2) for part in each.polygons]
        areas = [cv2.contourArea(part) for part in parts]
        return each.polygons[int(np.argmax(areas))]
    if not each.rle:
        return []
    mask = object_mask(each, image).astype(np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outlines = [outline for outline in outlines if len(outline) > 2]
    if not outlines:
        return []
    return [float(number) for number in max(outlines, key=cv2.contourArea).reshape(-1)]


def shortest(value: float, tolerance: float) -> float:
    """Return the number with the fewest decimals within a tolerance of a value.

    Files of relative coordinates round them; the pixel position that was written is the one with the fewest
    decimals among those that give the same digits. A value with more than six decimals stays as it is.
    """
    for decimals in range(MAX_DECIMALS + 1):
        rounded = round(value, decimals)
        if abs(rounded - value) <= tolerance:
            return float(rounded)
    return float(value)


def neighbours(value: float) -> Iterator[float]:
    """Yield a value and the four floating-point numbers next to it, the nearest first."""
    below = above = value
    yield value
    for _ in range(2):
        below, above = math.nextafter(below, -math.inf), math.nextafter(above, math.inf)
        yield below
        yield above


def written(value: float, target: float, read: Callable[[float], float]) -> float:
    """Return the number next to a value that is read as a target; the value if there is none.

    Args:
        value: The number to write.
        target: What it stands for.
        read: How the reader of the format computes it.
    """
    return next((candidate for candidate in neighbours(value) if read(candidate) == target), value)
