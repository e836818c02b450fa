"""Masks at the size of the image on the CPU, without keeping logits of that size.

Logits are resized twice, as in ``SAM.postprocess_masks`` and with the same bits. A resized value is a
weighted mean of neighbours: where all of them are below a level, the result is too. So only the part of a
mask that may exceed the lowest threshold is computed. The weights of the second step depend on the position
in a way that a part cannot reproduce unless it begins at the upper left.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.promptable.full_size_masks import Box, CropSizes, FullSizeMask
from mmssl.promptable.rle import box_of, runs_of

# torch has another kernel, with other last bits, if height and width of the result sum up to no more
SMALL = 128


def full_size_masks(
    logits: Tensor,
    model: nn.Module,
    crop: CropSizes,
    offset: float,
    min_stability: float | None = None,
    accepts: Callable[[Box], bool] | None = None,
) -> list[FullSizeMask]:
    """Fast form of :func:`mmssl.promptable.full_size_masks.full_size_masks`."""
    threshold = float(model.mask_threshold)
    low, high = np.float32(threshold - offset), np.float32(threshold + offset)
    resizer = PartialResizer(model, crop)
    results = []
    for index, low_res in enumerate(logits.float()):
        part, left, top = resizer(low_res, threshold - abs(offset))
        inner, outer = np.count_nonzero(part > high), np.count_nonzero(part > low)
        if outer:
            stability = np.float32(inner) / np.float32(outer)
        else:
            stability = np.float32(np.inf if inner else np.nan)
        if min_stability is not None and not stability >= np.float32(min_stability):
            continue
        mask = part > np.float32(threshold)
        box = box_of(mask)
        box = (0, 0, 0, 0) if box is None else (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
        runs = None
        if accepts is None or accepts(box):
            runs = runs_of(mask, crop.image_height, crop.left + left, crop.top + top)
        results.append(FullSizeMask(index, stability, box, runs))
    return results


class PartialResizer:
    """Resizes the part of low-resolution logits that exceeds a level.

    Args:
        model: A :class:`mmssl.SAM`.
        crop: Sizes of the crop.
    """

    def __init__(self, model: nn.Module, crop: CropSizes):
        self.model = model
        self.input_size = tuple(crop.input_size)
        self.original_size = tuple(crop.original_size)
        self.img_size = model.image_encoder.img_size
        self.low_res_size = model.prompt_encoder.mask_input_size[0]
        self.factor = self.img_size // self.low_res_size
        whole = self.img_size == self.factor * self.low_res_size
        power_of_two = self.factor & (self.factor - 1) == 0
        self.buffer = None
        if whole and power_of_two and 2 * self.img_size > SMALL:
            self.buffer = torch.empty(self.img_size, self.img_size)

    def __call__(self, logits: Tensor, level: float) -> tuple[np.ndarray, int, int]:
        """Return the part of the resized logits outside of which none exceeds a level.

        Args:
            logits: (4h, 4w).
            level: At most the lowest threshold that matters.

        Returns:
            (h', w') float32, its left and its top. Values of the part above the level are exact.
        """
        if self.buffer is None:
            full = self.model.postprocess_masks(logits[None, None], self.input_size, self.original_size)
            return full[0, 0].numpy(), 0, 0
        rows, columns = self._spans(logits, level)
        if rows is None or columns is None:
            return np.full((1, 1), level - 1, dtype=np.float32), 0, 0
        source = logits[slice(*rows), slice(*columns)][None, None]
        top, bottom = (self.factor * limit for limit in rows)
        left, right = (self.factor * limit for limit in columns)
        if self.input_size == self.original_size:  # the second step changes nothing
            size = (bottom - top, right - left)
            first = F.interpolate(source, size, mode='bilinear', align_corners=False)[0, 0]
            return first[: self.input_size[0] - top, : self.input_size[1] - left].numpy(), left, top
        out = self.buffer[top:bottom, left:right]
        torch.ops.aten.upsample_bilinear2d.out(source, list(out.shape), False, out=out[None, None])
        return self._second_step((top, bottom), (left, right), level)

    def _spans(self, logits: Tensor, level: float):
        """First and end of the rows and columns that may exceed a level; (None, None) if none may."""
        used = [min(self.low_res_size, length // self.factor + 2) for length in self.input_size]
        box = box_of(logits.numpy()[: used[0], : used[1]] > level - 1e-4 * (1 + abs(level)))
        if box is None:
            return None, None
        # one more on each side, since a pixel next to one that exceeds the level must be exact too
        shortest = SMALL // 2 // self.factor + 1
        return [
            widened(max(first - 2, 0), min(last + 3, limit), shortest, limit, self.low_res_size)
            for first, last, limit in ((box[1], box[3], used[0]), (box[0], box[2], used[1]))
        ]

    def _second_step(
        self, rows: tuple[int, int], columns: tuple[int, int], level: float
    ) -> tuple[np.ndarray, int, int]:
        """Resize the buffer, which holds the given rows and columns, to the original size."""
        sizes = list(zip(self.input_size, self.original_size, strict=True))
        steps = [
            reach(*span, length, size) for span, (length, size) in zip((rows, columns), sizes, strict=True)
        ]
        if sum(end for _, end, _ in steps) <= SMALL < sum(self.original_size):
            steps = [(start, size, length) for (start, *_), (length, size) in zip(steps, sizes, strict=True)]
        (row, end_row, needed_rows), (column, end_column, needed_columns) = steps
        assert self.buffer is not None
        needed = self.buffer[:needed_rows, :needed_columns]
        (top, bottom), (left, right) = rows, columns
        outside = (needed[:top], needed[bottom:], needed[top:bottom, :left], needed[top:bottom, right:])
        for border in outside:
            border.fill_(level - 1)
        scales = [
            None if end == size else size / length
            for (_, end, _), (length, size) in zip(steps, sizes, strict=True)
        ]
        resized = torch.ops.aten.upsample_bilinear2d(
            needed[None, None], [end_row, end_column], False, *scales
        )[0, 0]
        return resized[row:, column:].numpy(), column, row


def widened(first: int, last: int, shortest: int, limit: int, size: int) -> tuple[int, int]:
    """A span of at least ``shortest`` within ``limit``, or within ``size`` if the limit is too short."""
    limit = size if limit < shortest else limit
    first = max(0, min(first, limit - shortest))
    return first, max(last, min(first + shortest, limit))


def reach(first: int, last: int, length: int, size: int) -> tuple[int, int, int]:
    """Which of ``size`` pixels, resized from ``length``, depend on the pixels from ``first`` to ``last``.

    Returns:
        The first of them, their end, and how many of the ``length`` pixels they need.
    """
    scale = length / size
    if np.float32(1 / (size / length)) != np.float32(length) / np.float32(size):
        return 0, size, length
    start = max(0, math.floor((first - 0.5) / scale - 0.5) - 1)
    end = min(size, math.ceil((last + 0.5) / scale - 0.5) + 1)
    needed = length if end == size else min(length, math.floor(scale * (end - 0.5) - 0.5) + 3)
    return min(start, end - 1), end, needed
