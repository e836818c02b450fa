"""The range of values of images, which becomes 0 to 255, as 8-bit images have it."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

# of an image whose range is its own: the percentiles that nnU-Net clips CT at (Isensee et al., 2021)
IMAGE_PERCENTILES = (0.5, 99.5)
_FORMS = (
    "(low, high), one such pair for each channel, 'image' for percentiles of each image, 'window' for that "
    "of a DICOM file, or 'raw' for values that the data preprocessor scales"
)


def check_value_range(value: Any) -> Any:
    """Return a range of values as None, 'image', 'window', 'raw', or (1 or C, 2) float64.

    Args:
        value: None, 'image', 'window', 'raw', (low, high), or such a pair for each channel.

    Raises:
        ValueError: It is none of them, or a low value is not below its high value.
    """
    if value is None or (isinstance(value, str) and value in ('image', 'window', 'raw')):
        return value
    try:
        pairs = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        pairs = np.empty(0)
    pairs = pairs[None] if pairs.ndim == 1 else pairs
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not len(pairs):
        raise ValueError(f'value_range={value!r} must be {_FORMS}')
    if not np.isfinite(pairs).all() or (pairs[:, 0] >= pairs[:, 1]).any():
        raise ValueError(f'value_range={value!r} must have each low value below its high value')
    return pairs


def scale_images(images: Tensor, value_range: Any, reverse: bool = False) -> Tensor:
    """Map a range of values to 0 to 255 and clip; values that are not finite become 0.

    Args:
        images: (..., C, H, W), of any data type.
        value_range: 'image' for percentiles of each channel of each image, or (1 or C, 2), low and high.
        reverse: Whether the channels are in the reverse order of ``value_range``.

    Returns:
        (..., C, H, W) float32.

    Raises:
        ValueError: The images have another number of channels than the range.
    """
    images = images.to(torch.float32)
    if isinstance(value_range, str):
        if value_range == 'raw':
            return images
        low, high = _percentiles(images)
    else:
        if len(value_range) not in (1, images.shape[-3]):
            raise ValueError(
                f'images of {images.shape[-3]} channels and a data_preprocessor whose value_range has '
                f'{len(value_range)} pairs; give one pair for each channel, or a single one'
            )
        pairs = torch.as_tensor(value_range[::-1].copy() if reverse else value_range)
        low, high = pairs.to(images, non_blocking=True).T[..., None, None]
    scaled = ((images - low) * (255 / (high - low))).clamp_(0, 255)
    return torch.where(images.isfinite(), scaled, 0)


def _percentiles(images: Tensor) -> tuple[Tensor, Tensor]:
    pixels = images.flatten(-2)
    count = pixels.shape[-1]
    ranks = [round(percent / 100 * (count - 1)) for percent in IMAGE_PERCENTILES]
    low, high = pixels.sort(dim=-1).values[..., ranks].unbind(-1)
    return low[..., None, None], torch.where(high > low, high, low + 1)[..., None, None]
