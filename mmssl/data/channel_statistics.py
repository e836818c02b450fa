"""Statistics of the channels of many images: exact, and mergeable over processes.

Whole numbers are counted in a histogram of all values, from which everything follows. Of float32, the upper
16 bits of each value are counted first, and the lower 16 bits of the values near a percentile when the images
are read again, so that percentiles are exact in bounded memory. Mean and variance of floats are those of each
image, merged in the order of the images (Chan et al., 1979), whatever process has read them.
"""

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np

# int16 and uint16 in one histogram
_LOWEST, _HIGHEST = -(1 << 15), (1 << 16) - 1
_BINS = _HIGHEST - _LOWEST + 1
_HALF = 1 << 16


class ChannelCounts:
    """Counts of the values of some images, by channel.

    Args:
        channels: Number of channels.

    Attributes:
        types: Number of images by the type of their values.
        total: Number of pixels.
        whole: (C, 98304), how often each whole number from -32768 to 65535 occurs.
        upper: (C, 65536), how often the upper 16 bits of floats occur, in the order of the floats.
        moments: (images of floats, 3, C): number of values, mean, and sum of squared deviations.
        extremes: (2, C), minimum and maximum.
    """

    def __init__(self, channels: int):
        self.types: Counter[str] = Counter()
        self.total = 0
        self.whole = np.zeros((channels, _BINS), np.int64)
        self.upper = np.zeros((channels, _HALF), np.int64)
        self.moments: list[np.ndarray] = []
        self.extremes = np.stack([np.full(channels, np.inf), np.full(channels, -np.inf)])

    def __getstate__(self) -> dict:
        """Send only what is not zero to another process."""
        return {**self.__dict__, 'whole': _sparse(self.whole), 'upper': _sparse(self.upper)}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        for name in ('whole', 'upper'):
            shape, indices, counts = state[name]
            dense = np.zeros(shape, np.int64)
            dense.ravel()[indices] = counts
            setattr(self, name, dense)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return len(self.whole)

    def add(self, values: np.ndarray, no_data: float | None = None) -> None:
        """Count an image.

        Args:
            values: (H, W, C) uint8, uint16, int16 or float32; what is not finite is no data.
            no_data: A value that stands for no data.
        """
        self.types[values.dtype.name] += 1
        self.total += values.shape[0] * values.shape[1]
        moments = np.zeros((3, self.channels))
        for channel in range(self.channels):
            valid = _valid(values[..., channel], no_data)
            if not valid.size:
                continue
            low, high = self.extremes[:, channel]
            self.extremes[:, channel] = min(low, float(valid.min())), max(high, float(valid.max()))
            if valid.dtype.kind == 'f':
                self.upper[channel] += np.bincount(_ordered_bits(valid) >> 16, minlength=_HALF)
                valid = valid.astype(np.float64)
                mean = valid.mean()
                moments[:, channel] = valid.size, mean, np.square(valid - mean).sum()
            else:
                self.whole[channel] += np.bincount(valid.astype(np.int32) - _LOWEST, minlength=_BINS)
        if values.dtype.kind == 'f':
            self.moments.append(moments)

    def merge(self, other: 'ChannelCounts') -> None:
        """Add the counts of the images that follow."""
        self.types += other.types
        self.total += other.total
        self.whole += other.whole
        self.upper += other.upper
        self.moments += other.moments
        self.extremes[0] = np.minimum(self.extremes[0], other.extremes[0])
        self.extremes[1] = np.maximum(self.extremes[1], other.extremes[1])

    def valid(self) -> np.ndarray:
        """Return the number of values of each channel that are data, (C,)."""
        return self.whole.sum(1) + self.upper.sum(1)

    def mean_and_variance(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the variance of each channel, (C,) float64; NaN without any value."""
        count, mean, deviations = _moments_of_histogram(self.whole)
        for each in self.moments:
            count, mean, deviations = _merge_moments((count, mean, deviations), tuple(each))
        with np.errstate(invalid='ignore', divide='ignore'):
            return np.where(count > 0, mean, np.nan), deviations / count

    def upper_bins(self, percentiles: Sequence[float]) -> list[np.ndarray]:
        """Return the upper halves of floats that the percentiles of each channel need in full."""
        return [
            np.unique(np.searchsorted(np.cumsum(self._with_whole(channel)), ranks, side='right'))
            for channel, ranks in enumerate(self._ranks(percentiles))
        ]

    def _with_whole(self, channel: int) -> np.ndarray:
        """Return the counts of upper halves of all values of a channel, whole numbers included."""
        numbers = np.flatnonzero(self.whole[channel])
        bits = _ordered_bits((numbers + _LOWEST).astype(np.float32)) >> 16
        counts = np.bincount(bits, self.whole[channel, numbers], minlength=_HALF)
        return self.upper[channel] + counts.astype(np.int64)

    def _ranks(self, percentiles: Sequence[float]) -> list[list[int]]:
        """Return the ranks between which each channel's percentiles lie."""
        ranks = []
        for count in self.valid():
            positions = [percentile / 100 * max(count - 1, 0) for percentile in percentiles]
            ranks.append([min(int(rank) + step, max(count - 1, 0)) for rank in positions for step in (0, 1)])
        return ranks

    def percentiles(self, percentiles: Sequence[float], lower: 'LowerCounts | None' = None) -> np.ndarray:
        """Return percentiles, interpolated as NumPy does by default.

        Args:
            percentiles: From 0 to 100.
            lower: The lower halves of floats in :meth:`upper_bins`; None if no image has floats.

        Returns:
            (len(percentiles), C) float64; NaN for a channel without any value.
        """
        columns = [
            self._percentiles_of(channel, ranks, percentiles, lower)
            for channel, ranks in enumerate(self._ranks(percentiles))
        ]
        return np.stack(columns, axis=1)

    def _percentiles_of(self, channel, ranks, percentiles, lower) -> np.ndarray:
        count = int(self.valid()[channel])
        if not count:
            return np.full(len(percentiles), np.nan)
        if lower is None:
            cumulated = np.cumsum(self.whole[channel])
            values = np.searchsorted(cumulated, ranks, side='right') + _LOWEST
        else:
            values = lower.values_at(channel, ranks, np.cumsum(self._with_whole(channel)))
        pairs = np.asarray(values, np.float64).reshape(-1, 2)
        fractions = np.array([p / 100 * (count - 1) - int(p / 100 * (count - 1)) for p in percentiles])
        return pairs[:, 0] + (pairs[:, 1] - pairs[:, 0]) * fractions


class LowerCounts:
    """Counts of the lower 16 bits of the values whose upper 16 bits are near a percentile.

    Args:
        bins: The upper halves of each channel, from :meth:`ChannelCounts.upper_bins`.
    """

    def __init__(self, bins: list[np.ndarray]):
        self.bins = bins
        self.counts = [np.zeros((len(each), _HALF), np.int64) for each in bins]

    def add(self, values: np.ndarray, no_data: float | None = None) -> None:
        """Count an image, (H, W, C) of any type."""
        for channel, bins in enumerate(self.bins):
            bits = _ordered_bits(_valid(values[..., channel], no_data).astype(np.float32))
            for row, upper in enumerate(bins):
                selected = bits[bits >> 16 == upper] & (_HALF - 1)
                self.counts[channel][row] += np.bincount(selected, minlength=_HALF)

    def merge(self, other: 'LowerCounts') -> None:
        """Add the counts of other images."""
        for own, more in zip(self.counts, other.counts, strict=True):
            own += more

    def values_at(self, channel: int, ranks: Sequence[int], cumulated: np.ndarray) -> list[float]:
        """Return the values of a channel at ranks.

        Args:
            channel: Index of the channel.
            ranks: Ranks, from 0.
            cumulated: Cumulated counts of the upper halves.
        """
        values = []
        for rank in ranks:
            upper = int(np.searchsorted(cumulated, rank, side='right'))
            before = int(cumulated[upper - 1]) if upper else 0
            row = int(np.searchsorted(self.bins[channel], upper))
            lower = int(np.searchsorted(np.cumsum(self.counts[channel][row]), rank - before, side='right'))
            values.append(_float_of(upper << 16 | lower))
        return values


def _sparse(counts: np.ndarray) -> tuple:
    indices = np.flatnonzero(counts)
    return counts.shape, indices, counts.ravel()[indices]


def _valid(values: np.ndarray, no_data: float | None) -> np.ndarray:
    """Return the values that are data, flat."""
    values = values.ravel()
    if values.dtype.kind == 'f':
        values = values[np.isfinite(values)]
    return values if no_data is None else values[values != no_data]


def _ordered_bits(values: np.ndarray) -> np.ndarray:
    """Return 32 bits of each float32, as int64 in the order of the floats; -0 is 0."""
    bits = (values + np.float32(0)).view(np.uint32).astype(np.int64)
    return np.where(bits >> 31, 0xFFFFFFFF - bits, bits + 0x80000000)


def _float_of(ordered: int) -> float:
    bits = ordered - 0x80000000 if ordered >= 0x80000000 else 0xFFFFFFFF - ordered
    return float(np.array(bits, np.uint32).view(np.float32))


def _moments_of_histogram(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return count, mean and sum of squared deviations of each channel, from exact whole sums."""
    moments = np.zeros((3, len(counts)))
    for channel, row in enumerate(counts):
        numbers = np.flatnonzero(row)
        number = int(row.sum())
        if not number:
            continue
        pairs = list(zip((numbers + _LOWEST).tolist(), row[numbers].tolist(), strict=True))
        total = sum(value * count for value, count in pairs)
        squares = sum(value * value * count for value, count in pairs)
        moments[:, channel] = number, total / number, (squares * number - total * total) / number
    return moments[0], moments[1], moments[2]


def _merge_moments(first: tuple, second: tuple) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    count = first[0] + second[0]
    with np.errstate(invalid='ignore', divide='ignore'):
        weight = np.where(count > 0, second[0] / count, 0)
    shift = second[1] - first[1]
    return count, first[1] + shift * weight, first[2] + second[2] + np.square(shift) * first[0] * weight


def clipped_moments(counts: ChannelCounts, value_range: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of whole numbers after a range became 0 to 255.

    Args:
        counts: Counts of images of whole numbers.
        value_range: (C, 2).
    """
    numbers = np.arange(_LOWEST, _HIGHEST + 1)
    low, high = value_range[:, :1], value_range[:, 1:]
    scaled = np.clip((numbers - low) * (255 / (high - low)), 0, 255)
    count = np.maximum(counts.whole.sum(1), 1)
    mean = (scaled * counts.whole).sum(1) / count
    variance = (np.square(scaled - mean[:, None]) * counts.whole).sum(1) / count
    return mean, np.sqrt(variance)


class ScaledMoments:
    """Mean and variance of floats after a range became 0 to 255.

    Args:
        value_range: (C, 2).
    """

    def __init__(self, value_range: np.ndarray):
        self.value_range = value_range
        self.moments: list[np.ndarray] = []

    def add(self, values: np.ndarray, no_data: float | None = None) -> None:
        """Count an image, (H, W, C) of any type."""
        moments = np.zeros((3, len(self.value_range)))
        for channel, (low, high) in enumerate(self.value_range):
            valid = _valid(values[..., channel], no_data).astype(np.float64)
            if valid.size:
                scaled = np.clip((valid - low) * (255 / (high - low)), 0, 255)
                moments[:, channel] = valid.size, scaled.mean(), np.square(scaled - scaled.mean()).sum()
        self.moments.append(moments)

    def merge(self, other: 'ScaledMoments') -> None:
        """Add the images that follow."""
        self.moments += other.moments

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of each channel, (C,)."""
        merged = tuple(np.zeros((3, len(self.value_range))))
        for each in self.moments:
            merged = _merge_moments(merged, tuple(each))
        count, mean, deviations = merged
        return mean, np.sqrt(deviations / np.maximum(count, 1))


def outward(value_range: np.ndarray, whole: bool) -> np.ndarray:
    """Round a range outwards: to whole numbers, or to 1/256 of its width; give a constant a width of 1.

    Args:
        value_range: (C, 2).
        whole: Whether the values are whole numbers.
    """
    rounded = []
    for low, high in value_range.tolist():
        if not (math.isfinite(low) and low < high):
            low = low if math.isfinite(low) else 0.0
            rounded.append((low, low + 1))
            continue
        step = 1.0 if whole else 2.0 ** (math.floor(math.log2(high - low)) - 8)
        rounded.append((math.floor(low / step) * step, math.ceil(high / step) * step))
    return np.array(rounded)
