"""The range of values of an image, which becomes 0 to 255, as 8-bit images have it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mmssl.errors import BadImageError
from mmssl.ops.value_range import IMAGE_PERCENTILES


def check_channels(channels: Any) -> int | list[int] | None:
    """Return ``channels`` if it is None, a number of channels, or indices of channels."""
    if channels is None or (isinstance(channels, int) and channels >= 1):
        return channels
    if (
        isinstance(channels, Sequence)
        and not isinstance(channels, str)
        and channels
        and all(isinstance(index, int) and index >= 0 for index in channels)
    ):
        return list(channels)
    raise ValueError(
        f'channels={channels!r} must be the number of channels of every image, such as 5, or the indices of '
        'those to load, such as (3, 2, 1)'
    )


def select_channels(values: np.ndarray, channels: int | list[int] | None, path: str) -> np.ndarray:
    """Return the channels of (H, W, C) that are to be loaded.

    Raises:
        BadImageError: The image has not as many.
    """
    if channels is None:
        return values
    count = values.shape[2]
    if isinstance(channels, int):
        if count != channels:
            raise BadImageError(f'has {count} channels, and channels={channels} is set', path)
        return values
    if max(channels) >= count:
        raise BadImageError(f'has {count} channels, counted from 0, and channels={channels} is set', path)
    return values[..., channels]


def range_of_image(values: np.ndarray, no_data: float | None = None) -> np.ndarray:
    """Return the percentiles of the finite values of each channel of (H, W, C), as (C, 2) float64."""
    missing = is_missing(values, no_data)
    if missing is not None:
        values = np.where(missing, np.nan, values)
        if np.isnan(values).all(axis=(0, 1)).any():
            values = np.nan_to_num(values)
        pairs = np.nanpercentile(values, IMAGE_PERCENTILES, axis=(0, 1)).T
    else:
        pairs = np.percentile(values, IMAGE_PERCENTILES, axis=(0, 1)).T
    pairs = pairs.astype(np.float64)
    # a constant channel becomes zero
    pairs[:, 1] = np.where(pairs[:, 0] < pairs[:, 1], pairs[:, 1], pairs[:, 0] + 1)
    return pairs


def fill_missing(values: np.ndarray, value_range: np.ndarray, no_data: float | None = None) -> np.ndarray:
    """Replace values of (H, W, C) that are not finite, or no data, by the low end of the range."""
    missing = is_missing(values, no_data)
    if missing is None or not missing.any():
        return values
    return np.where(missing, value_range[:, 0].astype(np.float32), values)


def is_missing(values: np.ndarray, no_data: float | None) -> np.ndarray | None:
    """Return a mask of the values that are not finite, or no data; None if there can be none."""
    missing = None
    if values.dtype.kind == 'f':
        missing = ~np.isfinite(values)
    if no_data is not None:
        missing = values == no_data if missing is None else missing | (values == no_data)
    return missing


def scale_values(values: np.ndarray, value_range: np.ndarray) -> np.ndarray:
    """Map a range of values to 0 to 255 and clip.

    Args:
        values: (H, W, C).
        value_range: (1 or C, 2), low and high.

    Returns:
        (H, W, C) float32.
    """
    low = value_range[:, 0].astype(np.float32)
    factor = (255 / (value_range[:, 1] - value_range[:, 0])).astype(np.float32)
    shifted = np.subtract(values, low, dtype=np.float32) if low.any() else values
    out = np.multiply(shifted, factor, dtype=np.float32)
    return np.clip(out, 0, 255, out=out)
