"""Position-sensitive RoI align (Light-Head R-CNN, Li et al., arXiv:1711.07264), by torchvision's definition."""

import torch
from torch import Tensor

from mmssl.ops.dispatch import pick
from mmssl.ops.rois import check_rois
from mmssl.ops.weighted_sum import compute_type, weighted_gather


def ps_roi_align(
    features: Tensor,
    rois: Tensor,
    output_size: int,
    spatial_scale: float,
    output_dim: int,
    sampling_ratio: int = 2,
    vote: bool = False,
    backend: str = 'auto',
) -> Tensor:
    """Mean of bilinear samples of bin (i, j) over its own channel (c * k + i) * k + j, as ``torchvision.ops.ps_roi_align``.

    Nothing is rounded; samples sit at the centres of an even grid in the bin. Samples more than a cell
    outside the map count as 0. A region of negative size samples mirrored; one without any sample gives 0.
    Regions give no gradient.

    Args:
        features: (B, output_dim * k * k, H, W).
        rois: (N, 5) as (image index, x1, y1, x2, y2), in pixels of the image.
        output_size: k.
        spatial_scale: size of the map over that of the image.
        output_dim: C, maps a bin.
        sampling_ratio: samples a side of a bin; 0 or less for as many as the bin has cells, which looks at
            the values of ``rois``.
        vote: average over the bins without making them.
        backend: 'auto', 'torch' or 'torchvision'.

    Returns:
        (N, C, k, k), or (N, C) with ``vote``.

    Raises:
        ValueError: shapes that do not fit, an image index outside the batch (CPU), an unknown backend.
        TypeError: integers.
    """
    size = output_size
    check_rois(
        'ps_roi_align',
        features,
        rois,
        output_dim * size * size,
        f'output_dim * k * k = {output_dim} * {size} * {size} channels',
    )
    adaptive = sampling_ratio <= 0
    prefer = 'torchvision' if adaptive and torch.compiler.is_compiling() else 'torch'
    dtype = compute_type(features, rois)
    with torch.autocast(features.device.type, enabled=False):
        rois = rois.detach().to(dtype)
        if pick('ps_roi_align', backend, features, ('torchvision',), prefer) == 'torchvision':
            import torchvision

            out = torchvision.ops.ps_roi_align(features.to(dtype), rois, size, spatial_scale, sampling_ratio)
            return (out.mean((2, 3)) if vote else out).to(features.dtype)
        return _align(features.to(dtype), rois, size, spatial_scale, output_dim, sampling_ratio, vote).to(
            features.dtype
        )


def bin_samples(
    low: Tensor, high: Tensor, size: int, spatial_scale: float, ratio: int, cells: int
) -> tuple[Tensor, Tensor]:
    """Cells that the samples of every bin touch along one axis, and their shares.

    Args:
        low, high: (N,) in pixels.
        ratio: samples a bin, adaptive at 0 or less.
        cells: of the map.

    Returns:
        Cells (N, k, 2 * S), int64, and weights (N, k, 2 * S) that sum to at most 1.
    """
    start = torch.nan_to_num(low) * spatial_scale - 0.5
    length = torch.nan_to_num(high) * spatial_scale - 0.5 - start
    step = (length / size)[:, None, None]
    if ratio > 0:
        most, count = ratio, torch.full_like(step, ratio)
    else:
        count = step.ceil().clamp(min=0)
        most = max(1, int(count.amax())) if len(count) else 1
    bins = torch.arange(size, device=low.device, dtype=low.dtype)[:, None]
    sample = torch.arange(most, device=low.device, dtype=low.dtype)
    place = bins * step + start[:, None, None] + (sample + 0.5) * step / count.clamp(min=1)
    share = ((place >= -1) & (place <= cells) & (sample < count)) / count.clamp(min=1)
    place = place.clamp(0, cells - 1)
    first = place.floor()
    after = place - first
    first = first.long()
    return (
        torch.cat((first, (first + 1).clamp(max=cells - 1)), -1),
        torch.cat(((1 - after) * share, after * share), -1),
    )


def _align(
    features: Tensor, rois: Tensor, size: int, spatial_scale: float, output_dim: int, ratio: int, vote: bool
) -> Tensor:
    batch, _, height, width = features.shape
    _, x1, y1, x2, y2 = rois.unbind(1)
    rows, down = bin_samples(y1, y2, size, spatial_scale, ratio, height)
    columns, across = bin_samples(x1, x2, size, spatial_scale, ratio, width)
    image = torch.nan_to_num(rois[:, 0]).long()[:, None, None]
    place = torch.arange(size * size, device=rois.device).view(1, size, size)
    base = (image * (size * size) + place) * (height * width)
    index = base[..., None, None] + rows[:, :, None, :, None] * width + columns[:, None, :, None]
    weight = down[:, :, None, :, None] * across[:, None, :, None] / (size * size if vote else 1)
    table = (
        features.reshape(batch, output_dim, size * size, height * width)
        .permute(0, 2, 3, 1)
        .reshape(-1, output_dim)
    )
    if vote:
        return weighted_gather(table, index.flatten(1), weight.flatten(1))
    out = weighted_gather(table, index.flatten(3).flatten(0, 2), weight.flatten(3).flatten(0, 2))
    return out.view(len(rois), size, size, output_dim).permute(0, 3, 1, 2)
