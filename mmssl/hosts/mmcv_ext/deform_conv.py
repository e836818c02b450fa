"""Deformable convolutions with the arguments of mmcv's compiled operators."""

import torch
from torch import Tensor

from mmssl.hosts.mmcv_ext.precision import as_float32
from mmssl.ops.deform_conv import deform_conv2d


def _gradients(grad_output: Tensor, inputs: dict[str, Tensor], **options) -> dict[str, Tensor]:
    """Recompute a deformable convolution and return its gradients by the name of the input."""
    with torch.enable_grad():
        leaves = {name: as_float32(tensor).detach().requires_grad_() for name, tensor in inputs.items()}
        output = deform_conv2d(**leaves, **options)
        gradients = torch.autograd.grad(output, list(leaves.values()), grad_output.to(output.dtype))
    return dict(zip(leaves, gradients, strict=True))


def deform_conv_forward(  # noqa: PLR0913  mmcv\'s signature
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Deformable convolution (arXiv:1703.06211).

    Args:
        input: (B, C, H, W).
        weight: (D, C / group, kH, kW).
        offset: (B, 2 * deformable_group * kH * kW, H', W'), (y, x) of each tap.
        output: (B, D, H', W'), filled.
        columns: Not used.
        ones: Not used.
        kW: Width of the kernel.
        kH: Height of the kernel.
        dW: Horizontal stride.
        dH: Vertical stride.
        padW: Horizontal padding.
        padH: Vertical padding.
        dilationW: Horizontal dilation.
        dilationH: Vertical dilation.
        group: Number of groups of channels, given by the weight's shape.
        deformable_group: Number of groups with offsets of their own, given by the offsets' shape.
        im2col_step: Not used.
    """
    output.copy_(
        deform_conv2d(
            input, offset, weight, stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW)
        )
    )


def deform_conv_backward_input(  # noqa: PLR0913  mmcv\'s signature
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add the gradients of :func:`deform_conv_forward` to ``grad_input`` and ``grad_offset``."""
    inputs = {'input': input, 'offset': offset, 'weight': weight}
    grads = _gradients(
        grad_output, inputs, stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW)
    )
    grad_input.add_(grads['input'])
    grad_offset.add_(grads['offset'])
    # mmcv computes the gradient of the weight by a second call, with the same buffer: keep it there
    columns.grad_weight = grads['weight']


def deform_conv_backward_parameters(  # noqa: PLR0913  mmcv\'s signature
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add ``scale`` times the gradient of :func:`deform_conv_forward` by the weight to ``grad_weight``."""
    gradient = columns.__dict__.pop('grad_weight', None)
    if gradient is None:
        # the convolution is linear in the weight, whose values do not matter for this gradient
        inputs = {'input': input, 'offset': offset, 'weight': grad_weight}
        gradient = _gradients(
            grad_output, inputs, stride=(dH, dW), padding=(padH, padW), dilation=(dilationH, dilationW)
        )['weight']
    grad_weight.add_(gradient, alpha=scale)


def modulated_deform_conv_forward(  # noqa: PLR0913  mmcv\'s signature
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Modulated deformable convolution (arXiv:1811.11168).

    Buffers and sizes are those of :func:`deform_conv_forward`; ``bias`` is (D,), or of length 0 without
    ``with_bias``, and ``mask`` is (B, deformable_group * kernel_h * kernel_w, H', W').
    """
    output.copy_(
        deform_conv2d(
            input,
            offset,
            weight,
            mask=mask,
            bias=bias if with_bias else None,
            stride=(stride_h, stride_w),
            padding=(pad_h, pad_w),
            dilation=(dilation_h, dilation_w),
        )
    )


def modulated_deform_conv_backward(  # noqa: PLR0913  mmcv\'s signature
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add the gradients of :func:`modulated_deform_conv_forward` to the five buffers."""
    inputs = {'input': input, 'offset': offset, 'weight': weight, 'mask': mask}
    grads = _gradients(
        grad_output,
        inputs,
        stride=(stride_h, stride_w),
        padding=(pad_h, pad_w),
        dilation=(dilation_h, dilation_w),
    )
    for buffer, name in (
        (grad_input, 'input'),
        (grad_weight, 'weight'),
        (grad_offset, 'offset'),
        (grad_mask, 'mask'),
    ):
        buffer.add_(grads[name])
    if with_bias:
        grad_bias.add_(as_float32(grad_output).sum(dim=(0, 2, 3)))
