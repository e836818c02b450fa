"""Prompts drawn from masks: for training (Segment Anything, arXiv:2304.02643, appendix A) and for simulated users in evaluation."""

import cv2
import numpy as np
import torch
from torch import Tensor


def uniform(count: int, width: int, device: torch.device, generator: torch.Generator | None = None) -> Tensor:
    """(count, width) numbers in [0, 1); drawn where the generator lives, so that a seed gives the same on every device."""
    place = generator.device if generator is not None else device
    return torch.rand(count, width, generator=generator, device=place).to(device)


def pick_pixels(regions: Tensor, draws: Tensor) -> Tensor:
    """A pixel of every region, uniformly.

    Args:
        regions: (N, H, W) bool.
        draws: (N,) in [0, 1).

    Returns:
        (N, 2) int64, x and y; (-1, -1) for an empty region.
    """
    flat = regions.flatten(1)
    if not flat.shape[0]:
        return torch.zeros(0, 2, dtype=torch.long, device=regions.device)
    below = flat.cumsum(1, dtype=torch.int32)
    counts = below[:, -1:]
    wanted = (draws[:, None].double() * counts).int().clamp(max=(counts - 1).clamp(min=0)) + 1
    place = torch.searchsorted(below, wanted).squeeze(1)
    width = regions.shape[-1]
    pixels = torch.stack([place % width, place // width], dim=1)
    return torch.where(counts > 0, pixels, -1)


def boxes_of(masks: Tensor) -> Tensor:
    """Tight boxes.

    Args:
        masks: (N, H, W) bool, none of them empty.

    Returns:
        (N, 4) float32: left, top, right, bottom, the last pixel included plus one.
    """
    rows, columns = masks.any(2), masks.any(1)
    if not bool(rows.any(1).all()):
        empty = (~rows.any(1)).nonzero().flatten().tolist()
        raise ValueError(f'masks {empty} are empty and have no box; leave them out')
    height, width = masks.shape[1:]
    first = [line.float().argmax(1) for line in (columns, rows)]
    last = [size - line.flip(1).float().argmax(1) for line, size in ((columns, width), (rows, height))]
    return torch.stack([first[0], first[1], last[0], last[1]], dim=1).float()


def noisy_boxes(
    boxes: Tensor, size: tuple[int, int], noise: Tensor, sigma: float = 0.1, largest: float = 20.0
) -> Tensor:
    """Boxes as a person would draw them: every edge moves by sigma times the side, at most ``largest`` pixels (appendix A).

    Args:
        boxes: (N, 4) left, top, right, bottom in pixels.
        size: (H, W) that the boxes stay inside.
        noise: (N, 4) draws of the standard normal distribution.
        sigma: standard deviation as a share of the side.
        largest: cap of the shift in pixels.

    Returns:
        (N, 4), left <= right and top <= bottom.
    """
    sides = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
    shift = (noise * sigma * sides).clamp(-largest, largest)
    moved = boxes + shift
    limits = boxes.new_tensor([size[1], size[0], size[1], size[0]])
    moved = moved.clamp(min=0).minimum(limits)
    return torch.cat([moved[:, :2].minimum(moved[:, 2:]), moved[:, :2].maximum(moved[:, 2:])], dim=1)


def error_points(pred: Tensor, target: Tensor, valid: Tensor, draws: Tensor) -> tuple[Tensor, Tensor]:
    """A pixel of the error region, uniformly: positive where the object was missed, negative where too much was taken.

    Where a mask has no error, a pixel of the object (positive); where there is no object either, a negative
    one anywhere.

    Args:
        pred, target: (N, H, W) bool.
        valid: (N, H, W) bool, False on padding, or None.
        draws: (N,) in [0, 1).

    Returns:
        points (N, 2) int64, x and y; labels (N,) int64, 1 or 0.
    """
    error = pred != target
    if valid is not None:
        error = error & valid
    perfect = ~error.flatten(1).any(1)
    region = torch.where(perfect[:, None, None], target, error)
    nothing = ~region.flatten(1).any(1)
    if bool(nothing.any()):
        region = region | (nothing[:, None, None] & (valid if valid is not None else True))
    points = pick_pixels(region, draws)
    labels = target[torch.arange(len(target), device=target.device), points[:, 1], points[:, 0]].long()
    return points, labels


def silent_rounds(rounds: int, silent: int, draw: float) -> set[int]:
    """Which rounds bring no new prompt: the last one, and before it one at a random position (appendix A).

    Args:
        rounds: of all, the first prompt included.
        silent: 0, 1 (the last) or 2.
        draw: in [0, 1), the random position.

    Returns:
        numbers of rounds, counted from 0; never the first.
    """
    if rounds < 1 or silent not in (0, 1, 2) or (silent and rounds < silent + 1):
        raise ValueError(
            f'rounds={rounds} with silent_rounds={silent}: give at least 1 round and one more than silent ones (0, 1 or 2)'
        )
    chosen = {rounds - 1} if silent else set()
    return chosen | {1 + int(draw * (rounds - 2))} if silent == 2 else chosen


def distance_inside(region: np.ndarray) -> np.ndarray:
    """Distance of every pixel of a region to the nearest pixel outside, the image's border counting as outside.

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
    """The click of a simulated user: the pixel farthest inside the larger error region (Xu et al., CVPR 2016, arXiv:1603.04042, and after).

    The region, missed object or too much, whose innermost pixel lies deeper is clicked; ties go to the missed
    object, and among pixels to the first in reading order.

    Args:
        pred, target: (H, W) bool.
        clicked: (H, W) bool, pixels clicked before, which are not clicked again; or None.

    Returns:
        x, y and the label (1 object, 0 background); None where nothing is wrong.
    """
    rows, columns = extent(pred != target)
    pred, part = pred[rows, columns], target[rows, columns]
    missed, surplus = (distance_inside(wrong) for wrong in (part & ~pred, pred & ~part))
    if clicked is not None:
        missed, surplus = missed * ~clicked[rows, columns], surplus * ~clicked[rows, columns]
    deepest = [int(region.argmax()) if region.size else 0 for region in (missed, surplus)]
    depths = [
        float(region.flat[place]) if region.size else 0.0
        for region, place in zip((missed, surplus), deepest, strict=True)
    ]
    if max(depths) <= 0:
        return None
    label = int(depths[0] >= depths[1])
    y, x = divmod(deepest[1 - label], part.shape[1])
    return columns.start + x, rows.start + y, label


def extent(mask: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the smallest part that holds every set pixel of a mask (H, W); empty for an empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return (
        (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
        if len(rows)
        else (slice(0, 0), slice(0, 0))
    )
