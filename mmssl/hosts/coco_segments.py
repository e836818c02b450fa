"""Segmentations of COCO files, which pycocotools decodes whatever is wrong with them."""

import itertools
import math
from typing import Any

import numpy as np

# annotations whose polygons are compared with their boxes
MAX_COMPARED = 1000
# intersection over union of a box and the bounds of its polygons below which they are different places
LEAST_OVERLAP = 0.1


def check_segment(segment: Any, size: tuple[int, int]) -> None:
    """Check a COCO segmentation against its image.

    Args:
        segment: Polygons (x, y, x, y, ...), or run lengths, as a list or compressed.
        size: (H, W) of the image.

    Raises:
        ValueError: Run lengths of an image of another size or which do not cover it, polygons that are no
            finite (x, y), or neither.
    """
    if isinstance(segment, list):
        _check_polygons(segment)
        return
    if not isinstance(segment, dict) or not isinstance(segment.get('counts'), (list, str, bytes)):
        raise ValueError(
            f'the segmentation {segment!r:.60}; it needs polygons [[x, y, x, y, ...], ...], or run '
            'lengths as dict(size=[height, width], counts=...)'
        )
    stated = segment.get('size')
    if not isinstance(stated, (list, tuple)) or tuple(stated) != tuple(size):
        given = 'x'.join(map(str, stated)) if isinstance(stated, (list, tuple)) else repr(stated)
        raise ValueError(
            f'run lengths of a {given} image, but this one is {size[0]}x{size[1]} (height x width)'
        )
    counts = segment['counts']
    lengths = np.array(counts) if isinstance(counts, list) else _decompress(counts)
    if lengths.dtype.kind != 'i' or (lengths < 0).any() or lengths.sum() != math.prod(size):
        raise ValueError(f'run lengths that do not add up to the {math.prod(size)} pixels of the image')


def refuse_polygons_elsewhere(annotations: list[dict]) -> None:
    """Compare the polygons of some annotations with their boxes.

    Args:
        annotations: Annotations with a box of four finite numbers each.

    Raises:
        ValueError: Most of these polygons are elsewhere than their boxes.
    """
    polygons = [each for each in annotations if isinstance(each.get('segmentation'), list)]
    some = polygons[:: max(len(polygons) // MAX_COMPARED, 1)]
    overlaps = [overlap for each in some if (overlap := _overlap(each)) is not None]
    apart = sum(overlap < LEAST_OVERLAP for overlap in overlaps)
    if 2 * apart > len(overlaps):
        raise ValueError(
            f'the polygons of {apart} of {len(overlaps)} compared annotations are elsewhere than their '
            'boxes; polygons are [[x, y, x, y, ...], ...] in pixels, boxes [left, top, width, height]'
        )


def _overlap(annotation: dict) -> float | None:
    """Intersection over union of the box and of the bounds of the polygons; None if these are no numbers."""
    parts = [part for part in annotation['segmentation'] if isinstance(part, list) and len(part) >= 6]
    values = list(itertools.chain.from_iterable(parts))
    if not values or not all(type(value) in (int, float) for value in values):
        return None
    xs = [x for part in parts for x in part[::2]]
    ys = [y for part in parts for y in part[1::2]]
    left, top, width, height = annotation['bbox']
    shared_width = min(max(xs), left + width) - max(min(xs), left)
    shared_height = min(max(ys), top + height) - max(min(ys), top)
    shared = max(shared_width, 0) * max(shared_height, 0)
    union = width * height + (max(xs) - min(xs)) * (max(ys) - min(ys)) - shared
    return shared / union if union > 0 else None


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


def _check_polygons(polygons: list) -> None:
    if not all(isinstance(polygon, (list, tuple)) for polygon in polygons):
        raise ValueError(
            f'the polygons {polygons!r:.60}; they are a list for each part of the object, [[x, y, x, y, ...]]'
        )
    for value in itertools.chain.from_iterable(polygons):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1 << 24:
            raise ValueError(f'a polygon with the coordinate {value!r:.40}; numbers of pixels are needed')
    if any(len(polygon) % 2 for polygon in polygons):
        raise ValueError('a polygon with an odd number of coordinates; it needs x, y, x, y, ...')
