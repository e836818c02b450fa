"""Values of each channel of a data set: histogram, unused range, constant channels, no data."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmssl.data.value_range import is_missing

BINS = 32
# of the values of a channel: what lies beyond the range without a warning, in percent
MAX_BEYOND = 1.0
# fraction of the range below which the values use too little of it
MIN_USED = 0.5


class BandCounts(NamedTuple):
    """Counts of the values of each of C channels.

    Attributes:
        edges: (C, 2), the range of the histogram.
        histogram: (C, BINS), counts of the values inside of it.
        extremes: (2, C), smallest and largest value; NaN without values.
        beyond: (C,), number of values outside of the range.
        missing: (C,), number of values that are NaN, infinite, or stand for no data.
        total: Number of values of each channel.
    """

    edges: np.ndarray
    histogram: np.ndarray
    extremes: np.ndarray
    beyond: np.ndarray
    missing: np.ndarray
    total: int


def count_bands(
    values: np.ndarray, value_range: Any = None, no_data: float | None = None
) -> BandCounts | None:
    """Count the values of an image (H, W, C).

    Args:
        values: The values of the file.
        value_range: (1 or C, 2); the range of the data type if None.
        no_data: A value that stands for no data.

    Returns:
        None for floats without a range.
    """
    count = values.shape[2]
    edges = _edges(values.dtype, value_range, count)
    if edges is None:
        return None
    histogram = np.zeros((count, BINS), np.int64)
    extremes = np.full((2, count), np.nan)
    beyond, missing = np.zeros(count, np.int64), np.zeros(count, np.int64)
    for channel, (low, high) in enumerate(edges):
        plane = values[..., channel].reshape(-1)
        absent = is_missing(plane, no_data)
        if absent is not None:
            missing[channel] = absent.sum()
            plane = plane[~absent]
        if plane.size:
            extremes[:, channel] = plane.min(), plane.max()
            histogram[channel] = np.histogram(plane, BINS, (low, high))[0]
            beyond[channel] = plane.size - histogram[channel].sum()
    return BandCounts(edges, histogram, extremes, beyond, missing, values.shape[0] * values.shape[1])


def _edges(dtype: np.dtype, value_range: Any, count: int) -> np.ndarray | None:
    if isinstance(value_range, np.ndarray):
        return np.broadcast_to(value_range, (count, 2)) if len(value_range) in (1, count) else None
    if dtype.kind == 'f':
        return None
    limits = np.iinfo(dtype)
    return np.broadcast_to(np.array([limits.min, limits.max], np.float64), (count, 2))


def merge_bands(counts: Iterable[BandCounts | None]) -> BandCounts | None:
    """Add up the counts of images; None if there are none, or if their channels or ranges differ."""
    merged = None
    for each in counts:
        if each is None:
            return None
        if merged is None:
            merged = each
            continue
        if each.edges.shape != merged.edges.shape or (each.edges != merged.edges).any():
            return None
        extremes = np.stack(
            [
                np.fmin(merged.extremes[0], each.extremes[0]),
                np.fmax(merged.extremes[1], each.extremes[1]),
            ]
        )
        merged = BandCounts(
            merged.edges,
            merged.histogram + each.histogram,
            extremes,
            merged.beyond + each.beyond,
            merged.missing + each.missing,
            merged.total + each.total,
        )
    return merged


def band_warnings(counts: BandCounts) -> list[str]:
    """Name channels that are constant, use little of their range, go beyond it, or have no data."""
    valid = counts.total - counts.missing
    low, high = counts.extremes
    empty = valid == 0
    constant = ~empty & (low == high)
    used = (high - low) / (counts.edges[:, 1] - counts.edges[:, 0])
    with np.errstate(invalid='ignore'):
        unused = ~empty & ~constant & (used < MIN_USED)
    beyond = 100 * counts.beyond / np.maximum(valid, 1)
    texts = []
    if empty.any():
        texts.append(f'{_named(empty)} without data')
    if constant.any():
        values = ', '.join(f'{value:g}' for value in low[constant])
        texts.append(f'{_named(constant)} constant: {values}')
    if unused.any():
        ranges = ', '.join(
            f'{low[c]:g} to {high[c]:g} of {counts.edges[c, 0]:g} to {counts.edges[c, 1]:g}'
            for c in np.flatnonzero(unused)[:4]
        )
        texts.append(
            f'{_named(unused)} with an unused range: {ranges}; measure the range by `mmssl stats`, and set '
            'value_range in the loader transform'
        )
    if (beyond > MAX_BEYOND).any():
        percentages = ', '.join(f'{percent:.1f} %' for percent in beyond[beyond > MAX_BEYOND])
        texts.append(
            f'{_named(beyond > MAX_BEYOND)} with values beyond value_range, which are clipped: {percentages}'
        )
    partly = ~empty & (counts.missing > 0)
    if partly.any():
        percentages = ', '.join(f'{percent:.2g} %' for percent in 100 * counts.missing[partly] / counts.total)
        texts.append(f'{_named(partly)} with pixels without data: {percentages}')
    return texts


def _named(chosen: np.ndarray) -> str:
    channels: Sequence[int] = np.flatnonzero(chosen).tolist()
    shown = ', '.join(map(str, channels[:8])) + (', ...' if len(channels) > 8 else '')
    return f'channel{"s" if len(channels) > 1 else ""} {shown}'


def histogram_bars(histogram: np.ndarray, levels: str) -> str:
    """Draw a histogram as a line of characters, from that for 0 to that for the largest count."""
    largest = max(int(histogram.max(initial=0)), 1)
    heights = np.ceil(histogram / largest * (len(levels) - 1)).astype(int)
    return ''.join(levels[height] for height in heights)
