"""Product of each of many tensors with a factor of its own, as layer-wise rates and clipping need it."""

import torch
from torch import Tensor

from mmssl.ops.switch import accelerator, fast_form


@fast_form('mmssl.ops.fast.scale_each:scale_each_', when=accelerator)
def scale_each_(tensors: list[Tensor], factors: Tensor) -> list[Tensor]:
    """Multiply every tensor by its factor, in place.

    Args:
        tensors: N tensors of any shapes.
        factors: (N,), on their device.

    Returns:
        ``tensors``.
    """
    torch._foreach_mul_(tensors, list(factors.unbind()))
    return tensors
