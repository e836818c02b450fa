"""Deformable RoI pooling (Dai et al., ICCV 2017, arXiv:1703.06211) with the arguments of mmcv's operators.

A bin is the mean of its bilinear samples, as in RoI align, and moves by an offset in units of the size of its
region. The modulated form multiplies the result by a mask, outside the operator.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from mmssl.hosts.mmcv_ext.gradients import gradients
from mmssl.hosts.mmcv_ext.precision import as_float32
from mmssl.ops.precision import no_autocast
from mmssl.ops.rois import check_image_indices
from mmssl.ops.weighted_sum import weighted_sum


class Pooling(NamedTuple):
    """Settings of the operator.

    Args:
        size: Number of bins, (y, x).
        spatial_scale: Size of the map relative to the image.
        sampling_ratio: Samples along one side of a bin; 0 for one per pixel.
        gamma: Factor of the offsets.
    """

    size: tuple[int, int]
    spatial_scale: float
    sampling_ratio: int
    gamma: float


def _pool(features: Tensor, offset: Tensor, rois: Tensor, pooling: Pooling) -> Tensor:
    """Pool features (B, C, H, W) to (N, C, *size)."""
    check_image_indices('deform_roi_pool', rois, len(features))
    channels, height, width = features.shape[1:]
    rois = rois.to(features.dtype)
    rows, weight_y = _axis(rois[:, 2::2], offset[:, 1] if offset.numel() else None, pooling, 0, height)
    columns, weight_x = _axis(rois[:, 1::2], offset[:, 0] if offset.numel() else None, pooling, 1, width)
    first = rois[:, 0].long().view(-1, 1, 1, 1, 1) * (height * width)
    index = first + rows[..., :, None] * width + columns[..., None, :]
    weight = weight_y[..., :, None] * weight_x[..., None, :]
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    out = weighted_sum(table, index.flatten(3).flatten(0, 2), weight.flatten(3).flatten(0, 2))
    return out.view(len(rois), *pooling.size, channels).permute(0, 3, 1, 2)


def _axis(
    borders: Tensor, offset: Tensor | None, pooling: Pooling, axis: int, length: int
) -> tuple[Tensor, Tensor]:
    """Pixels (N, *size, 2 * S) that the samples interpolate between along one axis, and their weights."""
    start, end = (borders * pooling.spatial_scale - 0.5).unbind(1)
    bin_size = (end - start) / pooling.size[axis]
    count = bin_size.ceil().clamp(min=0)
    if pooling.sampling_ratio > 0:
        count = torch.full_like(bin_size, pooling.sampling_ratio)
    sample = torch.arange(max(1, int(count.amax())) if len(count) else 1, device=borders.device)
    bins = torch.arange(pooling.size[axis], device=borders.device).view((-1, 1) if axis == 0 else (1, -1))
    shape = (-1, 1, 1)
    first = start.view(shape) + bins * bin_size.view(shape)
    first = first.expand(-1, *pooling.size)
    if offset is not None:
        first = first + pooling.gamma * (end - start).view(shape) * offset
    count, bin_size = count.view(-1, 1, 1, 1), bin_size.view(-1, 1, 1, 1)
    position = first[..., None] + (sample + 0.5) * bin_size / count.clamp(min=1)
    weight = ((position >= -1) & (position <= length) & (sample < count)) / count.clamp(min=1)
    position = position.clamp(0, length - 1)
    lower = position.detach().floor()
    fraction = position - lower
    lower = lower.long()
    pixels = torch.cat((lower, (lower + 1).clamp(max=length - 1)), -1)
    return pixels, torch.cat(((1 - fraction) * weight, fraction * weight), -1)


def deform_roi_pool_forward(  # noqa: PLR0913  mmcv's signature
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Pool regions whose bins move by offsets.

    Args:
        input: (B, C, H, W).
        rois: (N, 5) as batch index, x1, y1, x2, y2.
        offset: (N, 2, pooled_height, pooled_width) as (x, y), or without elements.
        output: (N, C, pooled_height, pooled_width), filled.
        pooled_height: Number of bins along the height.
        pooled_width: Number of bins along the width.
        spatial_scale: Size of the map relative to the image.
        sampling_ratio: Samples along one side of a bin; 0 for one per pixel.
        gamma: Factor of the offsets.
    """
    pooling = Pooling((pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
    with no_autocast(input):
        output.copy_(_pool(as_float32(input), as_float32(offset), rois, pooling))


def deform_roi_pool_backward(  # noqa: PLR0913  mmcv's signature
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add the gradients of :func:`deform_roi_pool_forward` to ``grad_input`` and ``grad_offset``."""
    pooling = Pooling((pooled_height, pooled_width), spatial_scale, sampling_ratio, gamma)
    if offset.numel() == 0:
        compute = functools.partial(_pool, offset=offset, rois=rois, pooling=pooling)
        grad_input.add_(gradients(compute, [input], grad_output)[0])
        return
    compute = functools.partial(_pool, rois=rois, pooling=pooling)
    grads = gradients(compute, [input, offset], grad_output)
    grad_input.add_(grads[0])
    grad_offset.add_(grads[1])
