"""From low-resolution logits to masks at the size of the image, without keeping logits of that size.

The logits are enlarged twice, as in ``SAM.postprocess_masks`` and to the last bit. Enlarging is a weighted
mean of neighbours: where all of them are below a level the result is, too. So only the part of a mask that
can be above the lowest threshold is made. Weights of the second step depend on the place in a way that a part
cannot repeat, except one that begins at the upper left.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.promptable.rle import box_of, runs_of, runs_of_masks

# torch has another kernel, whose last bits differ, where height and width of the result sum up to no more
SMALL = 128
# values of full-size logits that are made at a time on other devices than the CPU
VALUES = 1 << 27


class Found(NamedTuple):
    """A mask at the size of an image.

    Attributes:
        number: of its logits among those given.
        stability: IoU of the mask at a higher and at a lower threshold; NaN where both are empty.
        box: left, top, right, bottom, inclusive, in pixels of the crop; zeros for an empty mask.
        runs: places in the whole image, see :mod:`mmssl.promptable.rle`; None where ``wanted`` said no.
    """

    number: int
    stability: np.float32
    box: tuple[int, int, int, int]
    runs: np.ndarray | None


class FullSize:
    """Turns logits into runs, for one image or crop.

    Args:
        model: a :class:`mmssl.SAM`, for its sizes and its threshold.
        input_size: (height, width) of the image as it was encoded.
        original_size: (height, width) of the image or crop as it came.
        height: of the image that the crop is from, or its own.
        left, top: place of the crop there.
    """

    def __init__(
        self,
        model,
        input_size: tuple[int, int],
        original_size: tuple[int, int],
        height: int | None = None,
        left: int = 0,
        top: int = 0,
    ):
        self.model, self.threshold = model, float(model.mask_threshold)
        self.side, self.cells = model.image_encoder.img_size, model.prompt_encoder.mask_input_size[0]
        self.input_size, self.original_size = tuple(input_size), tuple(original_size)
        self.place = dict(height=original_size[0] if height is None else height, left=left, top=top)
        self.factor = self.side // self.cells
        power = self.side == self.factor * self.cells and self.factor & (self.factor - 1) == 0
        self.in_parts = power and 2 * self.side > SMALL
        self.buffer = torch.empty(self.side, self.side) if self.in_parts else None

    def __call__(self, logits: Tensor, offset: float, least: float | None, wanted=None) -> Iterator[Found]:
        """Masks that are stable.

        Args:
            logits: (K, 4h, 4w).
            offset: between the threshold and those of the stability.
            least: stability; None: all.
            wanted: of a box, whether the mask is wanted; None: all are.
        """
        way = self._each if logits.device.type == 'cpu' else self._together
        yield from way(logits.float(), offset, least, wanted)

    def _each(self, logits: Tensor, offset: float, least: float | None, wanted) -> Iterator[Found]:
        low, high = np.float32(self.threshold - offset), np.float32(self.threshold + offset)
        for number, one in enumerate(logits):
            part, left, top = self.part(one, self.threshold - abs(offset))
            inner, outer = np.count_nonzero(part > high), np.count_nonzero(part > low)
            stability = (
                np.float32(inner) / np.float32(outer) if outer else np.float32(np.inf if inner else np.nan)
            )
            if least is not None and not stability >= np.float32(least):
                continue
            mask = part > np.float32(self.threshold)
            box = box_of(mask)
            box = (0, 0, 0, 0) if box is None else (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
            runs = None
            if wanted is None or wanted(box):
                runs = runs_of(mask, self.place['height'], self.place['left'] + left, self.place['top'] + top)
            yield Found(number, stability, box, runs)

    def _together(self, logits: Tensor, offset: float, least: float | None, wanted) -> Iterator[Found]:
        step = max(1, VALUES // max(math.prod(self.original_size), self.side**2))
        for start in range(0, len(logits), step):
            full = self.model.postprocess_masks(
                logits[start : start + step, None], self.input_size, self.original_size
            )[:, 0]
            inner, outer = (
                (full > self.threshold + sign * offset).flatten(1).sum(1, dtype=torch.int32)
                for sign in (1, -1)
            )
            stability = inner / outer
            kept = (
                torch.arange(len(full), device=full.device)
                if least is None
                else (stability >= least).nonzero()[:, 0]
            )
            masks = full[kept] > self.threshold
            del full
            boxes = _boxes(masks).tolist()
            asked = [number for number, box in enumerate(boxes) if wanted is None or wanted(tuple(box))]
            runs = dict(
                zip(
                    asked,
                    runs_of_masks(masks[asked] if len(asked) < len(boxes) else masks, **self.place),
                    strict=True,
                )
            )
            scores = stability[kept].cpu().numpy()
            for number, place in enumerate(kept.tolist()):
                yield Found(start + place, scores[number], tuple(boxes[number]), runs.get(number))

    def part(self, logits: Tensor, level: float) -> tuple[np.ndarray, int, int]:
        """The part of the full-size logits outside of which none is above a level.

        Args:
            logits: (4h, 4w) on the CPU.
            level: below or equal to all thresholds that matter.

        Returns:
            (h', w') float32, its left and its top. What is in the part and above the level is exact.
        """
        if not self.in_parts:
            return (
                self.model.postprocess_masks(logits[None, None], self.input_size, self.original_size)[
                    0, 0
                ].numpy(),
                0,
                0,
            )
        seen = [min(self.cells, edge // self.factor + 2) for edge in self.input_size]
        active = logits.numpy()[: seen[0], : seen[1]] > level - 1e-4 * (1 + abs(level))
        box = box_of(active)
        if box is None:
            return np.full((1, 1), level - 1, dtype=np.float32), 0, 0
        spans = [
            _widened(
                max(first - 1, 0), min(last + 2, limit), SMALL // 2 // self.factor + 1, limit, self.cells
            )
            for first, last, limit in ((box[1], box[3], seen[0]), (box[0], box[2], seen[1]))
        ]
        source = logits[spans[0][0] : spans[0][1], spans[1][0] : spans[1][1]]
        (top, bottom), (left, right) = pixels = [
            [self.factor * first, self.factor * last] for first, last in spans
        ]
        if self.input_size == self.original_size:  # the second step changes nothing
            first = F.interpolate(
                source[None, None], (bottom - top, right - left), mode='bilinear', align_corners=False
            )[0, 0]
            return first[: self.input_size[0] - top, : self.input_size[1] - left].numpy(), left, top
        assert self.buffer is not None
        self._enlarge(source, self.buffer[top:bottom, left:right])
        steps = [
            _reach(first, last, length, size)
            for (first, last), length, size in zip(pixels, self.input_size, self.original_size, strict=True)
        ]
        if sum(end for _, end, _ in steps) <= SMALL < sum(self.original_size):
            steps = [
                (start, size, length)
                for (start, *_), size, length in zip(steps, self.original_size, self.input_size, strict=True)
            ]
        (row, end_row, rows), (column, end_column, columns) = steps
        needed = self.buffer[:rows, :columns]
        for rest in (needed[:top], needed[bottom:], needed[top:bottom, :left], needed[top:bottom, right:]):
            rest.fill_(level - 1)
        scales = [
            None if end == size else size / length
            for (_, end, _), size, length in zip(steps, self.original_size, self.input_size, strict=True)
        ]
        second = torch.ops.aten.upsample_bilinear2d(
            needed[None, None], [end_row, end_column], False, *scales
        )[0, 0]
        return second[row:, column:].numpy(), column, row

    @staticmethod
    def _enlarge(source: Tensor, out: Tensor) -> None:
        torch.ops.aten.upsample_bilinear2d.out(
            source[None, None], list(out.shape), False, out=out[None, None]
        )


def _widened(first: int, last: int, least: int, limit: int, most: int) -> tuple[int, int]:
    """A span at least so long, within ``limit``, or ``most`` where that is too short."""
    limit = most if limit < least else limit
    first = max(0, min(first, limit - least))
    return first, max(last, min(first + least, limit))


def _reach(first: int, last: int, length: int, size: int) -> tuple[int, int, int]:
    """Which of ``size`` pixels, made of ``length``, see the pixels from ``first`` to ``last``: first, end, and how many they need."""
    scale = length / size
    if np.float32(1 / (size / length)) != np.float32(length) / np.float32(size):
        return 0, size, length
    start = max(0, math.floor((first - 0.5) / scale - 0.5) - 1)
    end = min(size, math.ceil((last + 0.5) / scale - 0.5) + 1)
    needed = length if end == size else min(length, math.floor(scale * (end - 0.5) - 0.5) + 3)
    return min(start, end - 1), end, needed


def _boxes(masks: Tensor) -> Tensor:
    """(N, 4) left, top, right, bottom, inclusive, of (N, H, W) masks; zeros for an empty one."""
    ends = []
    for axis in (1, 2):
        there = masks.any(dim=axis)
        place = torch.arange(there.shape[1], device=masks.device)
        ends.append(
            (torch.where(there, place, there.shape[1]).amin(1), torch.where(there, place, -1).amax(1))
        )
    (left, right), (top, bottom) = ends
    boxes = torch.stack([left, top, right, bottom], dim=1)
    return torch.where((right < 0)[:, None], 0, boxes)
