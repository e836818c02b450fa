"""Position-sensitive RoI pooling (R-FCN, Dai et al., NeurIPS 2016, arXiv:1605.06409, equation 1).

A RoI is divided into k x k bins. Bin (i, j) of class c is the mean over its pixels of score map (c, i, j),
which no other bin reads:

    r_c(i, j) = sum of z_{i,j,c}(x + x0, y + y0) / n  over the n pixels (x, y) in bin (i, j)
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.ops.dispatch import pick
from mmssl.ops.precision import compute_type, no_autocast
from mmssl.ops.rois import check_rois, round_half_away
from mmssl.ops.switch import cpu, cuda_with_triton, fast_form
from mmssl.ops.weighted_sum import weighted_sum


class BinEdges(NamedTuple):
    """Pixels of the bins, (N, k) int64 each: rows [top, bottom) and columns [left, right)."""

    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor


def ps_roi_pool(  # noqa: PLR0913
    features: Tensor,
    rois: Tensor,
    output_size: int,
    spatial_scale: float,
    output_dim: int,
    convention: str = 'caffe',
    vote: bool = False,
    backend: str = 'auto',
) -> Tensor:
    """Average bin (i, j) of every RoI over its own channel, (c * k + i) * k + j.

    RoIs get no gradient. Empty bins and RoIs with NaN give 0.

    Args:
        features: (B, output_dim * k * k, H, W), the score maps.
        rois: (N, 5) as (image index, x1, y1, x2, y2), in pixels of the image.
        output_size: k, the number of bins along one side of a RoI.
        spatial_scale: Size of the map relative to the image, such as 1 / 16.
        output_dim: Number of score maps per bin (classes, or box coordinates).
        convention: Rounding of the borders. 'caffe', as in the paper's code and MXNet, rounds to pixels of
            the image, the last one included. 'torchvision' follows ``torchvision.ops.ps_roi_pool``, with
            the gradient of its own forward pass.
        vote: Average over the bins (the paper's voting) without storing them.
        backend: 'auto', 'torch' or, for convention='torchvision', 'torchvision'.

    Returns:
        (N, output_dim, k, k), or (N, output_dim) with ``vote``.

    Raises:
        ValueError: The shapes do not fit, an image index is outside the batch (checked on the CPU), or the
            convention or the backend is unknown.
        TypeError: Features or rois are integers.
    """
    k = output_size
    formula = f'output_dim * k * k = {output_dim} * {k} * {k} channels'
    check_rois('ps_roi_pool', features, rois, output_dim * k * k, formula)
    if convention not in ('caffe', 'torchvision'):
        raise ValueError(f"ps_roi_pool has no convention={convention!r}; use 'caffe' or 'torchvision'")
    supported = ('torchvision',) if convention == 'torchvision' else ()
    backend = pick('ps_roi_pool', backend, features, supported)
    dtype = compute_type(features, rois)
    maps, rois = features.to(dtype), rois.detach().to(dtype)
    with no_autocast(features):
        if backend == 'torchvision':
            import torchvision

            out = torchvision.ops.ps_roi_pool(maps, rois, k, spatial_scale)
            return (out.mean((2, 3)) if vote else out).to(features.dtype)
        edges = bin_edges(rois, k, spatial_scale, maps.shape[2:], convention)
        out = pool_bins(maps, torch.nan_to_num(rois[:, 0]).long(), edges, vote).to(features.dtype)
    return out if vote else out.view(-1, k, k, output_dim).permute(0, 3, 1, 2)


def bin_edges(
    rois: Tensor, k: int, spatial_scale: float, map_size: tuple[int, int], convention: str
) -> BinEdges:
    """Compute which pixels of the map lie in the bins of every RoI.

    Args:
        rois: (N, 5), in the data type to compute in.
        k: Number of bins along one side.
        spatial_scale: Size of the map relative to the image.
        map_size: (H, W).
        convention: 'caffe' or 'torchvision'; the latter never reaches the last row and column.

    Returns:
        Edges with bottom >= top and right >= left.
    """
    # far outside of any image, and small enough that nothing overflows
    corners = torch.nan_to_num(rois[:, 1:]).clamp(-1e9, 1e9)
    steps = torch.arange(k + 1, device=rois.device, dtype=rois.dtype)
    height, width = map_size
    if convention == 'caffe':
        corners = round_half_away(corners)
        start = corners[:, :2] * spatial_scale
        size = ((corners[:, 2:] + 1) * spatial_scale - start).clamp(min=0.1)
        borders = steps * (size / k)[..., None]
        first = (borders[..., :-1] + start[..., None]).floor().long()
        last = (borders[..., 1:] + start[..., None]).ceil().long()
    else:
        corners = round_half_away(corners * spatial_scale)
        start = corners[:, :2]
        size = (corners[:, 2:] - start).clamp(min=1)
        borders = steps * (size / k)[..., None]
        first = (borders[..., :-1].floor() + start[..., None]).long()
        last = (borders[..., 1:].ceil() + start[..., None]).long()
        height, width = height - 1, width - 1
    left, right = first[:, 0].clamp(0, width), last[:, 0].clamp(0, width)
    top, bottom = first[:, 1].clamp(0, height), last[:, 1].clamp(0, height)
    return BinEdges(top, bottom, left, right)


@fast_form('mmssl.ops.fast.ps_roi_pool:pool_bins', when=cpu)
@fast_form('mmssl.ops.fast.triton_ps_roi_pool:pool_bins', when=cuda_with_triton)
def pool_bins(features: Tensor, image: Tensor, edges: BinEdges, vote: bool) -> Tensor:
    """Average the bins by four corners of an integral image, in float64.

    The number of steps depends on neither the values nor the sizes of the RoIs.

    Args:
        features: (B, C * k * k, H, W).
        image: (N,), image index of the RoIs.
        edges: Pixels of the bins.
        vote: Average over the bins.

    Returns:
        (N, C) with ``vote``, else (N, k * k, C), in the data type of ``features``.
    """
    batch, channels, height, width = features.shape
    top, bottom, left, right = edges
    k = top.shape[1]
    output_dim = channels // (k * k)
    maps = features.double().reshape(batch, output_dim, k * k, height, width).permute(0, 2, 3, 4, 1)
    integral = F.pad(maps.cumsum(2).cumsum(3), (0, 0, 1, 0, 1, 0)).reshape(-1, output_dim)
    bins = torch.arange(k * k, device=image.device).view(1, k, k)
    first_row = (image[:, None, None] * (k * k) + bins) * ((height + 1) * (width + 1))
    corners = [
        first_row + y[:, :, None] * (width + 1) + x[:, None] for y in (top, bottom) for x in (left, right)
    ]
    num_pixels = (bottom - top)[:, :, None] * (right - left)[:, None]
    mean = (num_pixels > 0) / num_pixels.clamp(min=1).double() / (k * k if vote else 1)
    index = torch.stack(corners, -1)
    weight = torch.stack((mean, -mean, -mean, mean), -1)
    num_terms = 4 * k * k if vote else 4
    out = weighted_sum(integral, index.reshape(-1, num_terms), weight.reshape(-1, num_terms))
    return (out if vote else out.view(-1, k * k, output_dim)).to(features.dtype)
