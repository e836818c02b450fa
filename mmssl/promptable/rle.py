"""Masks as run lengths, the form in which masks of any size are kept.

The runs of a mask are the positions where it begins and ends, in COCO's order, column by column: position =
x * height + y. They are ascending int64 and even in number; a run covers the positions from an even entry to
the odd entry after it, exclusive.
"""

import numpy as np
import torch
from torch import Tensor


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom, inclusive, of a mask (H, W); None for an empty one."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def runs_of(mask: np.ndarray, height: int | None = None, left: int = 0, top: int = 0) -> np.ndarray:
    """Runs of a mask.

    Args:
        mask: (h, w) bool, a part of an image outside of which nothing is set.
        height: Height of the image; None if the mask is the whole image.
        left: Position of the part in the image.
        top: Position of the part in the image.

    Returns:
        (2R,) int64.
    """
    height = mask.shape[0] if height is None else height
    box = box_of(mask)
    if box is None:
        return np.zeros(0, dtype=np.int64)
    part = mask[box[1] : box[3] + 1, box[0] : box[2] + 1]
    rows, columns = part.shape
    changes = np.empty((rows + 1, columns), dtype=bool)
    changes[0] = part[0]
    changes[-1] = part[-1]
    np.not_equal(part[1:], part[:-1], out=changes[1:-1])
    y, x = np.divmod(np.flatnonzero(changes), columns)
    positions = (x + (left + box[0])) * height + (y + (top + box[1]))
    positions.sort()
    return _merge_touching(positions) if rows == height else positions


def _merge_touching(positions: np.ndarray) -> np.ndarray:
    """Merge runs that end where the next one begins."""
    twice = np.flatnonzero(positions[1:] == positions[:-1])
    return np.delete(positions, np.concatenate([twice, twice + 1])) if len(twice) else positions


def runs_of_masks(masks: Tensor, height: int | None = None, left: int = 0, top: int = 0) -> list[np.ndarray]:
    """As :func:`runs_of` for masks (N, h, w) on any device, all at once."""
    count, rows, columns = masks.shape
    height = rows if height is None else height
    upright = masks.transpose(1, 2)
    changes = torch.empty(count, columns, rows + 1, dtype=torch.bool, device=masks.device)
    changes[..., 0] = upright[..., 0]
    changes[..., -1] = upright[..., -1]
    torch.ne(upright[..., 1:], upright[..., :-1], out=changes[..., 1:-1])
    mask_index, x, y = changes.nonzero().cpu().numpy().T
    positions = (x + left) * height + (y + top)
    ends = np.bincount(mask_index, minlength=count).cumsum()
    parts = np.split(positions, ends[:-1]) if count else []
    return [_merge_touching(part) for part in parts] if rows == height else parts


def area_of(runs: np.ndarray) -> int:
    """Number of pixels."""
    return int(runs[1::2].sum() - runs[::2].sum())


def counts_of(runs: np.ndarray, pixels: int) -> np.ndarray:
    """COCO's counts, lengths of the runs outside and inside in turn, of an image with so many pixels."""
    counts = np.diff(runs, prepend=0, append=pixels)
    return counts[:-1] if len(runs) and runs[-1] == pixels else counts


def mask_of(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool, in memory column by column as in the official code."""
    counts = counts_of(runs, size[0] * size[1])
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[1], size[0]).T


def coco_code(counts: list[int], size: tuple[int, int]) -> dict:
    """COCO's compressed run lengths, which JSON can hold."""
    from pycocotools import mask

    code = mask.frPyObjects({'size': list(size), 'counts': counts}, *size)
    return {'size': code['size'], 'counts': code['counts'].decode('utf-8')}


def covered(*masks: np.ndarray, min_count: int = 1) -> np.ndarray:
    """Runs of what at least ``min_count`` of the masks cover: 1 for the union, all for the intersection."""
    positions = np.concatenate(masks)
    steps = np.concatenate([np.where(np.arange(len(runs)) % 2, -1, 1) for runs in masks])
    order = positions.argsort(kind='stable')
    positions = positions[order]
    depth = steps[order].cumsum()
    last = np.diff(positions, append=-1) != 0  # of several steps at one position the last counts
    positions = positions[last]
    inside = depth[last] >= min_count
    return positions[np.flatnonzero(np.diff(inside, prepend=False))]


def rectangle(left: int, top: int, right: int, bottom: int, height: int) -> np.ndarray:
    """Runs of a rectangle with exclusive ``right`` and ``bottom`` in an image of that height."""
    starts = np.arange(left, right, dtype=np.int64) * height
    return _merge_touching(np.stack([starts + top, starts + bottom], axis=1).ravel())


def box_of_runs(runs: np.ndarray, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom, inclusive; zeros for an empty mask."""
    if not len(runs):
        return 0, 0, 0, 0
    starts = runs[::2]
    ends = runs[1::2] - 1
    continued = starts // height != ends // height  # in the next column
    top = 0 if continued.any() else int((starts % height).min())
    bottom = height - 1 if continued.any() else int((ends % height).max())
    return int(starts[0] // height), top, int(ends[-1] // height), bottom
