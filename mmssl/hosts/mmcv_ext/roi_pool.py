"""RoI pooling (Girshick, ICCV 2015, arXiv:1504.08083) with the arguments of mmcv's compiled operators."""

import torch
from torch import Tensor

from mmssl.hosts.mmcv_ext.precision import as_float32
from mmssl.ops.rois import check_image_indices

# as in the compiled operator, which starts from it
LOWEST = -torch.finfo(torch.float32).max


def _bins(start: Tensor, size: Tensor, count: int, limit: int) -> tuple[Tensor, Tensor]:
    """First pixel and end (N, count) of the bins of one axis, inside a map of length ``limit``."""
    index = torch.arange(count, dtype=start.dtype, device=start.device)
    length = (size / count)[:, None]
    first = (index * length + start[:, None]).floor()
    end = ((index + 1) * length + start[:, None]).ceil()
    return first.clamp(0, limit).long(), end.clamp(0, limit).long()


def _largest(values: Tensor, dim: int, first: Tensor, end: Tensor) -> tuple[Tensor, Tensor]:
    """Replace an axis by the largest values in bins along it; return these and their (first) positions."""
    position = torch.arange(values.shape[dim], device=values.device)
    inside = (position >= first[:, None]) & (position < end[:, None])  # (bins, length)
    shape = [1] * (values.ndim + 1)
    shape[dim], shape[dim + 1] = inside.shape
    return values.unsqueeze(dim).masked_fill(~inside.view(shape), -torch.inf).max(dim + 1)


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Maximum of the pixels of every bin.

    Args:
        input: (B, C, H, W). NaN is left out.
        rois: (N, 5) as batch index, x1, y1, x2, y2; the last pixel is inside.
        output: (N, C, pooled_height, pooled_width), filled; 0 for bins outside of the map and for reversed
            regions.
        argmax: As ``output``, filled with the pixel that is the maximum, row by row; -1 for none.
        pooled_height: Number of bins along the height.
        pooled_width: Number of bins along the width.
        spatial_scale: Size of the map relative to the image.

    Raises:
        ValueError: On the CPU, a region is of an image outside the batch.
    """
    check_image_indices('roi_pool', rois, len(input))
    features = as_float32(input)
    features = features.nan_to_num(nan=LOWEST, posinf=torch.inf, neginf=LOWEST)
    corners = rois[:, 1:].to(features.dtype)
    left, top = (corners[:, axis] * spatial_scale for axis in (0, 1))
    width = (corners[:, 2] + 1) * spatial_scale - left
    height = (corners[:, 3] + 1) * spatial_scale - top
    rows, ends = _bins(top, height, pooled_height, features.shape[2])
    columns, right_ends = _bins(left, width, pooled_width, features.shape[3])
    valid = (width > 0) & (height > 0)
    empty = (ends <= rows)[:, :, None] | (right_ends <= columns)[:, None] | ~valid[:, None, None]
    for index, image in enumerate(rois[:, 0].long().tolist()):
        by_column, column = _largest(features[image], 2, columns[index], right_ends[index])
        largest, row = _largest(by_column, 1, rows[index], ends[index])
        pixel = row * features.shape[3] + column.gather(1, row)
        output[index] = largest.masked_fill(empty[index], 0)
        argmax[index] = pixel.masked_fill(empty[index] | (largest <= LOWEST), -1).to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add the gradient of :func:`roi_pool_forward` to ``grad_input`` (B, C, H, W)."""
    channels, height, width = grad_input.shape[1:]
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    pixel = plane[:, :, None, None] * (height * width) + argmax.clamp(min=0)
    grad = as_float32(grad_output).masked_fill(argmax < 0, 0)
    total = grad.new_zeros(grad_input.numel()).index_add(0, pixel.flatten(), grad.flatten())
    grad_input.add_(total.view_as(grad_input))
