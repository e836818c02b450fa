"""Normalisation of batches of images on their device."""

import torch
from torch import Tensor

from mmssl.ops.switch import accelerator, fast_form


@fast_form('mmssl.ops.fast.normalize:normalize_images', when=accelerator)
def normalize_images(
    images: Tensor,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    reverse: bool = False,
    memory_format: torch.memory_format = torch.preserve_format,
) -> Tensor:
    """(images - mean) / std in float32, or wider where ``mean`` is.

    Args:
        images: (..., C, H, W), of any data type.
        mean: (C, 1, 1) or (1, 1, 1), in the order of the result's channels; None leaves the values alone.
        std: As ``mean``.
        reverse: Reverse the order of three channels before, from BGR to RGB or back.
        memory_format: Memory format of the result, for images (B, C, H, W).

    Returns:
        As ``images``.

    Raises:
        ValueError: ``mean`` has another number of channels than the images.
    """
    check_channels(images, mean)
    if reverse and images.shape[-3] == 3:
        images = images.flip(-3)
    dtype = torch.float32 if mean is None else torch.promote_types(torch.float32, mean.dtype)
    out = images.to(dtype, copy=mean is not None)
    if mean is not None and std is not None:
        out.sub_(mean).div_(std)  # in place: memory is the cost
    return out if memory_format == torch.preserve_format else out.contiguous(memory_format=memory_format)


def check_channels(images: Tensor, mean: Tensor | None) -> None:
    """Raise ValueError if the mean does not fit the channels of the images."""
    if mean is not None and len(mean) not in (1, images.shape[-3]):
        raise ValueError(
            f'images of {images.shape[-3]} channels and a data_preprocessor whose mean has {len(mean)} '
            'values; give one value for each channel, or a single one'
        )
