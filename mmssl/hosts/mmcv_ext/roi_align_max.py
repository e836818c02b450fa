"""RoI align with the maximum of the samples of a bin instead of their mean."""

import math

import torch
from torch import Tensor


def _regions(rois: Tensor, spatial_scale: float, aligned: bool) -> tuple[Tensor, Tensor]:
    """First corner and size (N, 2), as x and y, of regions in pixels of the map."""
    corners = rois[:, 1:] * spatial_scale - (0.5 if aligned else 0)
    size = corners[:, 2:] - corners[:, :2]
    return corners[:, :2], size if aligned else size.clamp(min=1)


def _positions(start: Tensor, length: Tensor, bins: int, samples: int) -> Tensor:
    """Positions (bins * samples,) of the samples of one axis."""
    bin_length = length / bins
    first = start + torch.arange(bins, dtype=start.dtype, device=start.device) * bin_length
    inside = torch.arange(samples, dtype=start.dtype, device=start.device) + 0.5
    return (first[:, None] + inside * bin_length / max(samples, 1)).flatten()


def _neighbours(position: Tensor, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Lower and upper pixel of positions on an axis and their weights, 0 more than a pixel outside."""
    inside = (position >= -1) & (position <= length)
    clamped = position.clamp(0, length - 1)
    low = clamped.long()
    high = (low + 1).clamp(max=length - 1)
    fraction = clamped - low
    return low, high, (1 - fraction) * inside, fraction * inside


def max_forward(
    features: Tensor, rois: Tensor, size: tuple[int, int], spatial_scale: float, ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Largest samples of bins.

    Args:
        features: (B, C, H, W).
        rois: (N, 5) as batch index, x1, y1, x2, y2.
        size: Number of bins along height and width.
        spatial_scale: Size of the map relative to the image.
        ratio: Samples along each side of a bin; 0 for one per pixel.
        aligned: Whether a pixel's centre is half a pixel from its index.

    Returns:
        (N, C, *size) the samples, 0 for bins without samples, and their rows and columns, -1 for none.
    """
    height, width = features.shape[2:]
    starts, lengths = _regions(rois.to(features.dtype), spatial_scale, aligned)
    outputs = [features.new_zeros(len(rois), features.shape[1], *size) for _ in range(3)]
    outputs[1].fill_(-1)
    outputs[2].fill_(-1)
    counts = (lengths.flip(1) / lengths.new_tensor(size)).ceil().long().tolist()
    for index, (image, (rows, columns)) in enumerate(zip(rois[:, 0].long().tolist(), counts, strict=True)):
        rows, columns = (ratio, ratio) if ratio > 0 else (rows, columns)
        if rows < 1 or columns < 1:
            continue
        y = _positions(starts[index, 1], lengths[index, 1], size[0], rows)
        x = _positions(starts[index, 0], lengths[index, 0], size[1], columns)
        samples = _sample(features[image], _neighbours(y, height), _neighbours(x, width))
        bins = samples.view(-1, size[0], rows, size[1], columns).transpose(2, 3).flatten(3)
        largest, best = bins.max(3)
        outputs[0][index] = largest
        row, column = best // columns, best % columns
        outputs[1][index] = y[torch.arange(size[0], device=y.device)[:, None] * rows + row]
        outputs[2][index] = x[torch.arange(size[1], device=x.device) * columns + column]
    return outputs[0], outputs[1], outputs[2]


def _sample(plane: Tensor, rows: tuple[Tensor, ...], columns: tuple[Tensor, ...]) -> Tensor:
    """Bilinear samples (C, Y, X) of a map (C, H, W)."""
    total = plane.new_zeros(())
    for row, row_weight in zip(rows[:2], rows[2:], strict=True):
        for column, column_weight in zip(columns[:2], columns[2:], strict=True):
            total = total + row_weight[:, None] * column_weight * plane[:, row][:, :, column]
    return total


def max_backward(grad: Tensor, rois: Tensor, y: Tensor, x: Tensor, grad_input: Tensor) -> None:
    """Add the gradient of :func:`max_forward` at rows ``y`` and columns ``x`` to ``grad_input``."""
    channels, height, width = grad_input.shape[1:]
    plane = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    grad = grad.masked_fill(y == -1, 0)  # no sample
    total = grad.new_zeros(math.prod(grad_input.shape))
    rows, columns = _neighbours(y, height), _neighbours(x, width)
    for row, row_weight in zip(rows[:2], rows[2:], strict=True):
        for column, column_weight in zip(columns[:2], columns[2:], strict=True):
            pixel = (plane[:, :, None, None] * height + row) * width + column
            total.index_add_(0, pixel.flatten(), (grad * row_weight * column_weight).flatten())
    grad_input.add_(total.view_as(grad_input))
