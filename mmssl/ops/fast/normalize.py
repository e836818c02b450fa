"""Normalisation in one pass over the images: they are read as bytes and written once."""

import torch
from torch import Tensor


def normalize_images(
    images: Tensor,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    reverse: bool = False,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Tensor:
    """:func:`mmssl.ops.normalize.normalize_images` as images * (1 / std) - mean / std.

    Its error is one unit in the last place of the largest value.
    """
    if mean is None or std is None or len(mean) not in (1, images.shape[-3]):
        return NotImplemented
    if reverse and images.shape[-3] == 3:
        images = images.flip(-3)
    dtype = torch.promote_types(torch.float32, mean.dtype)
    scale = std.to(dtype).reciprocal()
    offset = -mean.to(dtype) * scale
    out = torch.empty_like(images, dtype=dtype, memory_format=memory_format)
    return torch.addcmul(offset, images, scale, out=out)
