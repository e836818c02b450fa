"""CARAFE upsampling (Wang et al., ICCV 2019, arXiv:1905.02188) with the arguments of mmcv's operators.

Pixel (y, x) of the result is a weighted sum of the k x k pixels around (y // s, x // s) of the map, with
weights of its own.
"""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.hosts.mmcv_ext.gradients import gradients
from mmssl.hosts.mmcv_ext.precision import as_float32
from mmssl.ops.precision import no_autocast


def _reassemble(
    features: Tensor, masks: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> Tensor:
    batch, channels, height, width = features.shape
    patches = F.unfold(features, kernel_size, padding=kernel_size // 2)
    patches = patches.view(batch, group_size, channels // group_size, kernel_size**2, height, width)
    weights = masks.view(batch, group_size, kernel_size**2, height, scale_factor, width, scale_factor)
    out = torch.einsum('bgckhw,bgkhiwj->bgchiwj', patches, weights)
    return out.reshape(batch, channels, height * scale_factor, width * scale_factor)


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Upsample by weighted sums.

    Args:
        features: (B, C, H, W).
        masks: (B, group_size * kernel_size^2, H * scale_factor, W * scale_factor), the weights.
        output: (B, C, H * scale_factor, W * scale_factor), filled.
        kernel_size: k, odd.
        group_size: Number of groups of channels with weights of their own.
        scale_factor: s.
    """
    with no_autocast(features):
        output.copy_(
            _reassemble(as_float32(features), as_float32(masks), kernel_size, group_size, scale_factor)
        )


def carafe_naive_backward(  # noqa: PLR0913  mmcv's signature
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add the gradients of :func:`carafe_naive_forward` to ``bottom_grad`` and ``mask_grad``."""
    compute = functools.partial(
        _reassemble, kernel_size=kernel_size, group_size=group_size, scale_factor=scale_factor
    )
    for buffer, gradient in zip(
        (bottom_grad, mask_grad), gradients(compute, [features, masks], top_grad), strict=True
    ):
        buffer.add_(gradient)


def carafe_forward(  # noqa: PLR0913  mmcv's signature
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Upsample as :func:`carafe_naive_forward`; ``rfeatures`` keeps the features, which mmcv saves."""
    rfeatures.copy_(features)
    carafe_naive_forward(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_backward(  # noqa: PLR0913  mmcv's signature
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add the gradients of :func:`carafe_forward` to ``bottom_grad`` and ``mask_grad``."""
    carafe_naive_backward(
        top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor
    )
