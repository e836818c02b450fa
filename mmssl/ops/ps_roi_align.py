"""Position-sensitive RoI align (Light-Head R-CNN, Li et al., arXiv:1711.07264), defined as in torchvision."""

import torch
from torch import Tensor

from mmssl.ops.dispatch import pick
from mmssl.ops.precision import compute_type, no_autocast
from mmssl.ops.rois import check_rois
from mmssl.ops.switch import eager, tracing
from mmssl.ops.weighted_sum import weighted_sum


def ps_roi_align(  # noqa: PLR0913
    features: Tensor,
    rois: Tensor,
    output_size: int,
    spatial_scale: float,
    output_dim: int,
    sampling_ratio: int = 2,
    vote: bool = False,
    backend: str = 'auto',
) -> Tensor:
    """Average bilinear samples of bin (i, j) over its own channel, (c * k + i) * k + j.

    Nothing is rounded; samples lie at the centres of an even grid in the bin. Samples more than a pixel
    outside the map count as 0. A RoI of negative size is sampled mirrored, and one without samples gives 0.
    RoIs get no gradient.

    Args:
        features: (B, output_dim * k * k, H, W).
        rois: (N, 5) as (image index, x1, y1, x2, y2), in pixels of the image.
        output_size: k, the number of bins along one side of a RoI.
        spatial_scale: Size of the map relative to the image.
        output_dim: Number of maps per bin.
        sampling_ratio: Samples along one side of a bin; 0 or less for as many as the bin has pixels, which
            depends on the values of ``rois``.
        vote: Average over the bins without storing them.
        backend: 'auto', 'torch' or 'torchvision'.

    Returns:
        (N, output_dim, k, k), or (N, output_dim) with ``vote``.

    Raises:
        ValueError: The shapes do not fit, an image index is outside the batch (checked on the CPU), or the
            backend is unknown.
        TypeError: Features or rois are integers.
        RuntimeError: An adaptive number of samples is traced by torch.jit without torchvision.
    """
    k = output_size
    formula = f'output_dim * k * k = {output_dim} * {k} * {k} channels'
    check_rois('ps_roi_align', features, rois, output_dim * k * k, formula)
    # a compiler cannot follow a number of samples that depends on values
    auto = 'torch' if sampling_ratio > 0 or eager() else 'torchvision'
    backend = pick('ps_roi_align', backend, features, ('torchvision',), auto)
    dtype = compute_type(features, rois)
    maps, rois = features.to(dtype), rois.detach().to(dtype)
    with no_autocast(features):
        if backend == 'torchvision':
            import torchvision

            out = torchvision.ops.ps_roi_align(maps, rois, k, spatial_scale, sampling_ratio)
            out = out.mean((2, 3)) if vote else out
        else:
            _require_fixed_count(sampling_ratio)
            height, width = maps.shape[2:]
            y = axis_samples(rois[:, 2], rois[:, 4], k, spatial_scale, sampling_ratio, height)
            x = axis_samples(rois[:, 1], rois[:, 3], k, spatial_scale, sampling_ratio, width)
            out = _average(maps, torch.nan_to_num(rois[:, 0]).long(), y, x, vote)
        return out.to(features.dtype)


def _require_fixed_count(sampling_ratio: int) -> None:
    if sampling_ratio <= 0 and tracing():
        raise RuntimeError(
            f'ps_roi_align with sampling_ratio={sampling_ratio} cannot be traced: the number of samples '
            'depends on the RoIs, and a trace would record the one of the example; set sampling_ratio to 1 '
            "or more, or use backend='torchvision'"
        )


def axis_samples(
    low: Tensor, high: Tensor, k: int, spatial_scale: float, sampling_ratio: int, size: int
) -> tuple[Tensor, Tensor]:
    """Find the pixels that the samples of every bin interpolate between along one axis.

    Args:
        low: (N,), first border of the RoIs in pixels of the image.
        high: (N,), last border.
        k: Number of bins.
        spatial_scale: Size of the map relative to the image.
        sampling_ratio: Samples per bin; adaptive at 0 or less.
        size: Size of the map.

    Returns:
        Pixels (N, k, 2 * S), int64, and weights (N, k, 2 * S) that sum to at most 1.
    """
    start = torch.nan_to_num(low) * spatial_scale - 0.5
    end = torch.nan_to_num(high) * spatial_scale - 0.5
    bin_size = ((end - start) / k)[:, None, None]
    if sampling_ratio > 0:
        max_count = sampling_ratio
        count = torch.full_like(bin_size, sampling_ratio)
    else:
        count = bin_size.ceil().clamp(min=0)
        max_count = max(1, int(count.amax())) if len(count) else 1
    bins = torch.arange(k, device=low.device, dtype=low.dtype)[:, None]
    sample = torch.arange(max_count, device=low.device, dtype=low.dtype)
    position = bins * bin_size + start[:, None, None] + (sample + 0.5) * bin_size / count.clamp(min=1)
    valid = (position >= -1) & (position <= size) & (sample < count)
    mean = valid / count.clamp(min=1)
    position = position.clamp(0, size - 1)
    lower = position.floor()
    fraction = position - lower
    lower = lower.long()
    upper = (lower + 1).clamp(max=size - 1)
    return torch.cat((lower, upper), -1), torch.cat(((1 - fraction) * mean, fraction * mean), -1)


def _average(
    features: Tensor, image: Tensor, y: tuple[Tensor, Tensor], x: tuple[Tensor, Tensor], vote: bool
) -> Tensor:
    """Average the samples of every bin.

    Args:
        features: (B, C * k * k, H, W).
        image: (N,), image index of the RoIs.
        y: Rows and their weights, from :func:`axis_samples`.
        x: Columns and their weights.
        vote: Average over the bins.

    Returns:
        (N, C, k, k), or (N, C) with ``vote``.
    """
    batch, channels, height, width = features.shape
    rows, weight_y = y
    columns, weight_x = x
    num_rois, k, _ = rows.shape
    output_dim = channels // (k * k)
    bins = torch.arange(k * k, device=image.device).view(1, k, k)
    first = (image[:, None, None] * (k * k) + bins) * (height * width)
    index = first[..., None, None] + rows[:, :, None, :, None] * width + columns[:, None, :, None]
    weight = weight_y[:, :, None, :, None] * weight_x[:, None, :, None] / (k * k if vote else 1)
    table = features.reshape(batch, output_dim, k * k, height * width).permute(0, 2, 3, 1)
    table = table.reshape(-1, output_dim)
    if vote:
        return weighted_sum(table, index.flatten(1), weight.flatten(1))
    out = weighted_sum(table, index.flatten(3).flatten(0, 2), weight.flatten(3).flatten(0, 2))
    return out.view(num_rois, k, k, output_dim).permute(0, 3, 1, 2)
