"""Deformable convolutions with the arguments of mmcv's compiled operators."""

from typing import Any

from torch import Tensor

from mmssl.hosts.mmcv_ext.gradients import gradients
from mmssl.hosts.mmcv_ext.precision import as_float32
from mmssl.ops.conv_geometry import Geometry
from mmssl.ops.deform_conv import deform_conv2d


def _convolve(inputs: dict[str, Any], groups: tuple[int, int], **geometry) -> Tensor:
    """Run :func:`deform_conv2d`; offsets and mask of a larger map are read as mmcv's kernels do.

    Args:
        inputs: Arguments of :func:`deform_conv2d` that are tensors.
        groups: ``group`` and ``deformable_group``, which the shapes must agree with.
        **geometry: Stride, padding and dilation, (y, x) each.

    Raises:
        ValueError: The shapes do not fit the groups, or each other.
    """
    _check_groups(inputs, groups)
    if inputs.get('mask') is not None:
        size = Geometry(**geometry).output_size(inputs['input'].shape[2:], inputs['weight'].shape[2:])
        inputs = {**inputs, 'offset': _first(inputs['offset'], size), 'mask': _first(inputs['mask'], size)}
    return deform_conv2d(**inputs, **geometry)


def _check_groups(inputs: dict[str, Any], groups: tuple[int, int]) -> None:
    channels, (out_channels, in_group, kernel_h, kernel_w) = inputs['input'].shape[1], inputs['weight'].shape
    group, deformable_group = groups
    if channels != in_group * group or out_channels % group:
        raise ValueError(
            f'weight {tuple(inputs["weight"].shape)} does not fit {channels} input channels and '
            f'groups={group}: it must be (D, {channels} / groups, {kernel_h}, {kernel_w}), with D divisible '
            'by groups'
        )
    for name, values in (('offset', 2), ('mask', 1)):
        tensor = inputs.get(name)
        expected = values * deformable_group * kernel_h * kernel_w
        if tensor is not None and tensor.shape[1] != expected:
            raise ValueError(
                f'{name} has {tensor.shape[1]} channels; deform_groups={deformable_group} and a kernel of '
                f'{kernel_h}x{kernel_w} need {expected}: change deform_groups or the layer that computes it'
            )


def _first(tensor: Tensor, size: tuple[int, int]) -> Tensor:
    """Read the memory of each image as (channels, *size).

    mmcv's modulated kernels do so without a check. DyHead gives them the offsets of a larger map, and its
    released weights were trained with what they read.
    """
    batch, channels, height, width = tensor.shape
    if (height, width) == size or height * width < size[0] * size[1]:
        return tensor  # too few values: deform_conv2d names the shapes
    return tensor.flatten(1)[:, : channels * size[0] * size[1]].reshape(batch, channels, *size)


def _gradients(
    grad_output: Tensor, inputs: dict[str, Tensor], groups: tuple[int, int], **geometry
) -> dict[str, Tensor]:
    """Recompute a deformable convolution and return its gradients by the name of the input."""

    def compute(*leaves: Tensor) -> Tensor:
        return _convolve(dict(zip(inputs, leaves, strict=True)), groups, **geometry)

    return dict(zip(inputs, gradients(compute, list(inputs.values()), grad_output), strict=True))


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
        group: Number of groups of channels.
        deformable_group: Number of groups of channels with offsets of their own.
        im2col_step: Not used.

    Raises:
        ValueError: The shapes do not fit the groups, or each other.
    """
    output.copy_(
        _convolve(
            {'input': input, 'offset': offset, 'weight': weight},
            (group, deformable_group),
            stride=(dH, dW),
            padding=(padH, padW),
            dilation=(dilationH, dilationW),
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
        grad_output,
        inputs,
        (group, deformable_group),
        stride=(dH, dW),
        padding=(padH, padW),
        dilation=(dilationH, dilationW),
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
            grad_output,
            inputs,
            (group, deformable_group),
            stride=(dH, dW),
            padding=(padH, padW),
            dilation=(dilationH, dilationW),
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

    Offsets and mask may be those of a larger map: the first values of each image count. Buffers and sizes
    are those of :func:`deform_conv_forward`; ``bias`` is (D,), or of length 0 without ``with_bias``, and
    ``mask`` is (B, deformable_group * kernel_h * kernel_w, H', W').
    """
    output.copy_(
        _convolve(
            {
                'input': input,
                'offset': offset,
                'weight': weight,
                'mask': mask,
                'bias': bias if with_bias else None,
            },
            (group, deformable_group),
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
        (group, deformable_group),
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
