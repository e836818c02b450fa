"""Grids, crops and filters of automatic masks (arXiv:2304.02643, appendix B), under the official names."""

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmssl.promptable.rle import box_of_runs, mask_of, runs_of

Box = tuple[int, int, int, int]
# pixels within which a box counts as touching an edge
EDGE_TOLERANCE = 20


class Mask(NamedTuple):
    """An automatic mask.

    Attributes:
        runs: Run lengths, see :mod:`mmssl.promptable.rle`.
        box: Left, top, right, bottom, inclusive, in pixels of the image.
        iou: Predicted IoU.
        stability: IoU of the masks at a higher and at a lower threshold.
        points: (N, 2), x and y of the prompts in pixels of the image.
        crop: Left, top, right, bottom of the crop that was segmented, the last two exclusive.
    """

    runs: np.ndarray
    box: Box
    iou: float
    stability: float
    points: np.ndarray
    crop: Box


def build_point_grid(points_per_side: int) -> np.ndarray:
    """Centres (N * N, 2) of a grid of N x N over the unit square, row by row."""
    offset = 1 / (2 * points_per_side)
    points = np.linspace(offset, 1 - offset, points_per_side)
    return np.stack([np.tile(points, points_per_side), np.repeat(points, points_per_side)], axis=1)


def generate_crop_boxes(
    size: tuple[int, int], n_layers: int, overlap_ratio: float
) -> tuple[list[Box], list[int]]:
    """Boxes of the whole image and of its crops, column by column in each layer, and the layer of each.

    Args:
        size: (height, width) of the image.
        n_layers: Number of layers of crops; layer i has ``2**i`` crops along each side.
        overlap_ratio: Overlap of the crops of the first layer as a fraction of the shorter side of the image.
    """
    height, width = size
    boxes, layers = [(0, 0, width, height)], [0]
    for layer in range(1, n_layers + 1):
        per_side = 2**layer
        overlap = int(overlap_ratio * min(size) * (2 / per_side))
        crop_width, crop_height = (
            math.ceil((overlap * (per_side - 1) + length) / per_side) for length in (width, height)
        )
        lefts = [(crop_width - overlap) * index for index in range(per_side)]
        tops = [(crop_height - overlap) * index for index in range(per_side)]
        for left, top in product(lefts, tops):
            boxes.append((left, top, min(left + crop_width, width), min(top + crop_height, height)))
            layers.append(layer)
    return boxes, layers


def shift_box(box: Box, left: int, top: int) -> Box:
    """Move a box."""
    return box[0] + left, box[1] + top, box[2] + left, box[3] + top


def is_box_near_crop_edge(
    box: Sequence[int], crop: Sequence[int], size: tuple[int, int], tolerance: float = EDGE_TOLERANCE
) -> bool:
    """True if a box touches an edge of its crop that is not an edge of the image of (height, width)."""
    image = (0, 0, size[1], size[0])
    return any(
        abs(value - edge) <= tolerance < abs(value - image_edge)
        for value, edge, image_edge in zip(box, crop, image, strict=True)
    )


def suppress(masks: list[Mask], scores: Tensor, threshold: float) -> list[Mask]:
    """Non-maximum suppression of masks by their boxes; the rest in descending order of the scores (N,)."""
    try:
        from torchvision.ops import batched_nms
    except ImportError:
        raise ImportError('automatic masks need the package torchvision: pip install torchvision') from None
    if not masks:
        return []
    boxes = torch.tensor([mask.box for mask in masks], dtype=torch.float32)
    indices = batched_nms(boxes, scores.float(), torch.zeros(len(boxes)), threshold)
    return [masks[index] for index in indices.tolist()]


def remove_small_regions(
    masks: list[Mask], size: tuple[int, int], min_area: int, threshold: float
) -> list[Mask]:
    """Fill small holes, remove small islands, and suppress again: masks that were changed have lower scores.

    Args:
        masks: The masks.
        size: (height, width) of the image.
        min_area: Number of pixels below which a hole or an island is small.
        threshold: Of two boxes with a larger IoU only one stays.
    """
    cleaned, unchanged = [], []
    for mask in masks:
        before = mask_of(mask.runs, size)
        after = _without_small_islands(_without_small_holes(before, min_area), min_area)
        unchanged.append(float(after is before))
        if after is not before:
            runs = runs_of(after)
            mask = mask._replace(runs=runs, box=box_of_runs(runs, size[0]))
        cleaned.append(mask)
    return suppress(cleaned, torch.tensor(unchanged), threshold)


def _without_small_holes(mask: np.ndarray, min_area: float) -> np.ndarray:
    """The mask itself if no hole is small."""
    labels, areas = _regions(~mask)
    small = areas < min_area
    if not small.any():
        return mask
    return np.concatenate([[True], small])[labels]


def _without_small_islands(mask: np.ndarray, min_area: float) -> np.ndarray:
    """The mask itself if no island is small; the largest island always stays."""
    labels, areas = _regions(mask)
    large = areas >= min_area
    if large.all():
        return mask
    if not large.any():
        large[areas.argmax()] = True
    return np.concatenate([[False], large])[labels]


def _regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label (H, W) of the region of each pixel, 0 outside, and the areas of the regions from 1 on."""
    import cv2

    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    return labels, stats[1:, cv2.CC_STAT_AREA]
