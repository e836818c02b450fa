"""Masks as runs, the form that masks of any size are kept in.

The runs of a mask are the places where it begins and ends, in COCO's order, column by column: place = x *
height + y. They are ascending int64, an even number; a run of the mask goes from an even one up to the odd
one after it, which is outside.
"""

import numpy as np
import torch
from torch import Tensor


def box_of(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """First and last column and row of a mask (H, W): left, top, right, bottom, inclusive; None for an empty one."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])


def runs_of(mask: np.ndarray, height: int | None = None, left: int = 0, top: int = 0) -> np.ndarray:
    """Runs of a mask.

    Args:
        mask: (h, w) bool; outside of it nothing is set. Only its box is looked at closely.
        height: of the image that it is part of; None: it is the image.
        left, top: place of its first pixel there.

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
    changes[0], changes[-1] = part[0], part[-1]
    np.not_equal(part[1:], part[:-1], out=changes[1:-1])
    y, x = np.divmod(np.flatnonzero(changes), columns)
    places = (x + (left + box[0])) * height + (y + (top + box[1]))
    places.sort()
    return _joined(places) if rows == height else places


def _joined(places: np.ndarray) -> np.ndarray:
    """A run that ends where another begins is one with it."""
    twice = np.flatnonzero(places[1:] == places[:-1])
    return np.delete(places, np.concatenate([twice, twice + 1])) if len(twice) else places


def runs_of_masks(masks: Tensor, height: int | None = None, left: int = 0, top: int = 0) -> list[np.ndarray]:
    """As :func:`runs_of` for masks (N, h, w) on any device, all at once."""
    count, rows, columns = masks.shape
    height = rows if height is None else height
    upright = masks.transpose(1, 2)
    changes = torch.empty(count, columns, rows + 1, dtype=torch.bool, device=masks.device)
    changes[..., 0], changes[..., -1] = upright[..., 0], upright[..., -1]
    torch.ne(upright[..., 1:], upright[..., :-1], out=changes[..., 1:-1])
    number, x, y = changes.nonzero().cpu().numpy().T
    places = (x + left) * height + (y + top)
    ends = np.bincount(number, minlength=count).cumsum()
    parts = np.split(places, ends[:-1]) if count else []
    return [_joined(part) for part in parts] if rows == height else parts


def area_of(runs: np.ndarray) -> int:
    """Number of pixels."""
    return int(runs[1::2].sum() - runs[::2].sum())


def counts_of(runs: np.ndarray, pixels: int) -> np.ndarray:
    """COCO's counts: lengths of the runs outside and inside in turn, beginning outside; ``pixels`` of the image."""
    counts = np.diff(runs, prepend=0, append=pixels)
    return counts[:-1] if len(runs) and runs[-1] == pixels else counts


def mask_of(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(H, W) bool; its memory goes column by column, as in the official code."""
    counts = counts_of(runs, size[0] * size[1])
    return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(size[1], size[0]).T


def coco_code(counts: list[int], size: tuple[int, int]) -> dict:
    """COCO's compressed code, which JSON can hold."""
    from pycocotools import mask

    code = mask.frPyObjects({'size': list(size), 'counts': counts}, *size)
    return {'size': code['size'], 'counts': code['counts'].decode('utf-8')}


def covered(*masks: np.ndarray, least: int = 1) -> np.ndarray:
    """Runs of what at least so many of the masks cover: 1 for their union, their number for what they have in common."""
    places = np.concatenate(masks)
    steps = np.concatenate([np.where(np.arange(len(one)) % 2, -1, 1) for one in masks])
    order = places.argsort(kind='stable')
    places, depth = places[order], steps[order].cumsum()
    last = np.diff(places, append=-1) != 0  # of several steps at one place the last counts
    places, inside = places[last], depth[last] >= least
    return places[np.flatnonzero(np.diff(inside, prepend=False))]


def rectangle(left: int, top: int, right: int, bottom: int, height: int) -> np.ndarray:
    """Runs of a rectangle, ``right`` and ``bottom`` exclusive."""
    starts = np.arange(left, right, dtype=np.int64) * height
    return _joined(np.stack([starts + top, starts + bottom], axis=1).ravel())


def box_of_runs(runs: np.ndarray, height: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom, inclusive; zeros for an empty mask."""
    if not len(runs):
        return 0, 0, 0, 0
    starts, ends = runs[::2], runs[1::2] - 1
    whole = starts // height != ends // height  # goes on in the next column
    top = 0 if whole.any() else int((starts % height).min())
    bottom = height - 1 if whole.any() else int((ends % height).max())
    return int(starts[0] // height), top, int(ends[-1] // height), bottom
