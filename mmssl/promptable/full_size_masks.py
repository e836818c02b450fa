"""Low-resolution logits to stable masks at the size of the image, as run lengths."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mmssl.ops.switch import cpu, fast_form
from mmssl.promptable.rle import runs_of_masks

Box = tuple[int, int, int, int]
# logits at the size of the image that are held at a time
MAX_LOGITS = 1 << 27


class CropSizes(NamedTuple):
    """Sizes of a crop on its way through the model, and its position in the image.

    Attributes:
        input_size: (height, width) of the resized crop, without padding.
        original_size: (height, width) of the crop in pixels of the image.
        image_height: Height of the image.
        left: Position of the crop in the image.
        top: Position of the crop in the image.
    """

    input_size: tuple[int, int]
    original_size: tuple[int, int]
    image_height: int
    left: int = 0
    top: int = 0


class FullSizeMask(NamedTuple):
    """A mask at the size of the image.

    Attributes:
        row: Index of its logits.
        stability: IoU of the masks at a higher and at a lower threshold; NaN if both are empty.
        box: Left, top, right, bottom, inclusive, in pixels of the crop; zeros for an empty mask.
        runs: Run lengths in the whole image, see :mod:`mmssl.promptable.rle`; None if the box was not
            accepted.
    """

    row: int
    stability: np.float32
    box: Box
    runs: np.ndarray | None


@fast_form('mmssl.promptable.fast.full_size_masks:full_size_masks', when=cpu)
def full_size_masks(
    logits: Tensor,
    model: nn.Module,
    crop: CropSizes,
    offset: float,
    min_stability: float | None = None,
    accepts: Callable[[Box], bool] | None = None,
) -> list[FullSizeMask]:
    """Resize masks and return those that are stable.

    Args:
        logits: (K, 4h, 4w).
        model: A :class:`mmssl.SAM`.
        crop: Sizes of the crop.
        offset: Distance of the thresholds of the stability from that of the masks.
        min_stability: Smallest stability; None for all masks.
        accepts: Whether run lengths are needed of a mask with this box; None for all masks.
    """
    threshold = float(model.mask_threshold)
    largest = max(math.prod(crop.original_size), model.image_encoder.img_size**2)
    step = max(1, MAX_LOGITS // largest)
    results = []
    for start in range(0, len(logits), step):
        low_res = logits[start : start + step, None].float()
        full = model.postprocess_masks(low_res, crop.input_size, crop.original_size)[:, 0]
        stability = stability_scores(full, threshold, offset)
        rows = torch.arange(len(full), device=full.device)
        if min_stability is not None:
            rows = (stability >= min_stability).nonzero()[:, 0]
        masks = full[rows] > threshold
        del full
        boxes = [tuple(box) for box in boxes_of_masks(masks).tolist()]
        accepted = [index for index, box in enumerate(boxes) if accepts is None or accepts(box)]
        runs = runs_of_masks(masks[accepted], crop.image_height, crop.left, crop.top)
        runs_by_index = dict(zip(accepted, runs, strict=True))
        scores = stability[rows].cpu().numpy()
        for index, row in enumerate(rows.tolist()):
            results.append(FullSizeMask(start + row, scores[index], boxes[index], runs_by_index.get(index)))
    return results


def stability_scores(logits: Tensor, threshold: float, offset: float) -> Tensor:
    """IoU (K,) of the masks of logits (K, H, W) at a higher and at a lower threshold (appendix B)."""
    inner = (logits > threshold + offset).flatten(1).sum(1, dtype=torch.int32)
    outer = (logits > threshold - offset).flatten(1).sum(1, dtype=torch.int32)
    return inner / outer


def boxes_of_masks(masks: Tensor) -> Tensor:
    """(N, 4) left, top, right, bottom, inclusive, of masks (N, H, W); zeros for an empty one."""
    limits = []
    for axis in (1, 2):
        occupied = masks.any(dim=axis)
        index = torch.arange(occupied.shape[1], device=masks.device)
        first = torch.where(occupied, index, occupied.shape[1]).amin(1)
        last = torch.where(occupied, index, -1).amax(1)
        limits.append((first, last))
    (left, right), (top, bottom) = limits
    boxes = torch.stack([left, top, right, bottom], dim=1)
    return torch.where((right < 0)[:, None], 0, boxes)
