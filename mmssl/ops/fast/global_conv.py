"""First convolutions of a global convolution block as one matrix product."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def first_convolutions(block: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Multiply all taps of both kernels with all pixels at once, then shift and sum the products (col2im).

    Where the output has few channels, this is faster than two convolutions; a block says so by ``fused``.

    Args:
        block: A :class:`mmssl.segmentation.global_conv.GlobalConvBlock`.
        x: (B, C, H, W).

    Returns:
        Results of ``left1`` and ``right1``, each (B, K, H, W).
    """
    if not block.fused:
        return NotImplemented
    k = block.kernel_size
    left, right = block.left1, block.right1
    # flipped, because the product of the last tap belongs to the first output pixel
    taps = [
        weight.squeeze(axis).flip(2).permute(0, 2, 1).flatten(0, 1)
        for weight, axis in ((left.weight, 3), (right.weight, 2))
    ]
    products = torch.cat(taps).to(x.dtype) @ x.flatten(2)
    left_products, right_products = products.chunk(2, dim=1)
    size = x.shape[-2:]
    left_sums = F.fold(left_products, size, (k, 1), padding=(k // 2, 0))
    right_sums = F.fold(right_products, size, (1, k), padding=(0, k // 2))
    return _add_bias(left_sums, left.bias), _add_bias(right_sums, right.bias)


def _add_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    return x if bias is None else x + bias.view(1, -1, 1, 1)
