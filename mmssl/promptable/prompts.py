"""Prompts drawn from masks, for training (arXiv:2304.02643, appendix A) and for simulated users."""

import cv2
import numpy as np
import torch
from torch import Tensor

from mmssl.promptable.common import constants


def uniform(count: int, width: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Draw (count, width) numbers from [0, 1), where the generator is: a seed gives the same everywhere."""
    source = generator.device if generator is not None else device
    return torch.rand(count, width, generator=generator, device=source).to(device)


def normal(count: int, width: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """Draw (count, width) numbers from the standard normal distribution, on the device of the generator."""
    source = generator.device if generator is not None else device
    return torch.randn(count, width, generator=generator, device=source).to(device)


def pick_pixels(regions: Tensor, draws: Tensor) -> Tensor:
    """Pick a pixel of every region, uniformly.

    Args:
        regions: (N, H, W) bool.
        draws: (N,) in [0, 1).

    Returns:
        (N, 2) int64, x and y; (-1, -1) for an empty region.
    """
    flat = regions.flatten(1)
    if not flat.shape[0]:
        return torch.zeros(0, 2, dtype=torch.long, device=regions.device)
    ranks = flat.cumsum(1, dtype=torch.int32)
    counts = ranks[:, -1:]
    rank = (draws[:, None].double() * counts).int().clamp(max=(counts - 1).clamp(min=0)) + 1
    index = torch.searchsorted(ranks, rank).squeeze(1)
    width = regions.shape[-1]
    pixels = torch.stack([index % width, index // width], dim=1)
    return torch.where(counts > 0, pixels, -1)


def boxes_of(masks: Tensor) -> Tensor:
    """Tight boxes of masks.

    Args:
        masks: (N, H, W) bool, none of them empty.

    Returns:
        (N, 4) float32: left, top, right, bottom, the last two exclusive.

    Raises:
        ValueError: A mask is empty.
    """
    present = masks.flatten(1).any(1) if len(masks) else masks.new_ones(0)
    if not bool(present.all()):
        empty = (~present).nonzero().flatten().tolist()
        raise ValueError(f'masks {empty} are empty and have no box; leave them out')
    return boxes_of_present(masks)


def boxes_of_present(masks: Tensor) -> Tensor:
    """As :func:`boxes_of` for masks known to have pixels; without the check nothing waits for a device."""
    rows, columns = masks.any(2), masks.any(1)
    height, width = masks.shape[1:]
    left, top = columns.float().argmax(1), rows.float().argmax(1)
    right = width - columns.flip(1).float().argmax(1)
    bottom = height - rows.flip(1).float().argmax(1)
    return torch.stack([left, top, right, bottom], dim=1).float()


def noisy_boxes(
    boxes: Tensor, size: tuple[int, int], noise: Tensor, sigma: float = 0.1, max_shift: float = 20.0
) -> Tensor:
    """Move the edges of boxes as if a person had drawn them (appendix A).

    Args:
        boxes: (N, 4) left, top, right, bottom in pixels.
        size: (H, W) that the boxes stay inside.
        noise: (N, 4) draws from the standard normal distribution.
        sigma: Standard deviation of the shift as a fraction of the side of the box.
        max_shift: Largest shift in pixels.

    Returns:
        (N, 4), left <= right and top <= bottom.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    shift = (noise * sigma * sides).clamp(-max_shift, max_shift)
    limits = constants((size[1], size[0], size[1], size[0]), like=boxes)
    moved = (boxes + shift).clamp(min=0).minimum(limits)
    return torch.cat([moved[:, :2].minimum(moved[:, 2:]), moved[:, :2].maximum(moved[:, 2:])], dim=1)


def error_points(pred: Tensor, target: Tensor, valid: Tensor | None, draws: Tensor) -> tuple[Tensor, Tensor]:
    """Pick a pixel of the error region, uniformly: positive in a missed object, negative in surplus.

    If a mask has no error, a pixel of the object is picked (positive); if there is no object either, any
    pixel (negative).

    Args:
        pred: (N, H, W) bool.
        target: (N, H, W) bool.
        valid: (N, H, W) bool, False on padding, or None.
        draws: (N,) in [0, 1).

    Returns:
        Points (N, 2) int64, x and y; labels (N,) int64, 1 or 0.
    """
    error = pred != target
    if valid is not None:
        error = error & valid
    perfect = ~error.flatten(1).any(1)
    region = torch.where(perfect[:, None, None], target, error)
    empty = ~region.flatten(1).any(1)
    region = region | (empty[:, None, None] & (valid if valid is not None else True))
    points = pick_pixels(region, draws)
    labels = target[torch.arange(len(target), device=target.device), points[:, 1], points[:, 0]].long()
    return points, labels


def silent_rounds(rounds: int, silent: int, draw: float) -> set[int]:
    """Which rounds bring no new prompt: the last one, and before it one at a random position (appendix A).

    Args:
        rounds: Number of rounds, that of the first prompt included.
        silent: 0, 1 (the last) or 2.
        draw: In [0, 1), for the random position.

    Returns:
        Indices of rounds, never 0.

    Raises:
        ValueError: Too few rounds.
    """
    if rounds < 1 or silent not in (0, 1, 2) or (silent and rounds < silent + 1):
        raise ValueError(
            f'rounds={rounds} with silent_rounds={silent}: give at least 1 round and one more than silent '
            'ones (0, 1 or 2)'
        )
    chosen = {rounds - 1} if silent else set()
    return chosen | {1 + int(draw * (rounds - 2))} if silent == 2 else chosen


def distance_inside(region: np.ndarray) -> np.ndarray:
    """Distance of every pixel of a region to the nearest pixel outside, beyond the image included.

    Args:
        region: (H, W) bool.

    Returns:
        (H, W) float32, 0 outside.
    """
    padded = cv2.copyMakeBorder(region.astype(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]


def next_click(
    pred: np.ndarray, target: np.ndarray, clicked: np.ndarray | None = None
) -> tuple[int, int, int] | None:
    """The click of a simulated user: the pixel farthest inside the larger error region (arXiv:1603.04042).

    Of the two regions, missed object and surplus, the one whose innermost pixel is deeper is clicked; ties go
    to the missed object, and among pixels to the first in reading order.

    Args:
        pred: (H, W) bool.
        target: (H, W) bool.
        clicked: (H, W) bool, pixels clicked before, which are not clicked again; or None.

    Returns:
        x, y and the label (1 object, 0 background); None if nothing is wrong.
    """
    rows, columns = extent(pred != target)
    pred, target = pred[rows, columns], target[rows, columns]
    if not target.size:
        return None
    missed, surplus = distance_inside(target & ~pred), distance_inside(pred & ~target)
    if clicked is not None:
        missed = missed * ~clicked[rows, columns]
        surplus = surplus * ~clicked[rows, columns]
    if max(missed.max(), surplus.max()) <= 0:
        return None
    label = int(missed.max() >= surplus.max())
    region = missed if label else surplus
    y, x = divmod(int(region.argmax()), region.shape[1])
    return columns.start + x, rows.start + y, label


def extent(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest part with all set pixels of a mask (H, W); empty for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
