"""Position-sensitive RoI pooling (R-FCN, Dai et al., NIPS 2016, arXiv:1605.06409, equation 1)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.ops.dispatch import pick
from mmssl.ops.gather import compute_type, weighted_gather
from mmssl.ops.rois import check_rois, round_half_away


def bin_edges(rois: Tensor, size: int, spatial_scale: float, height: int, width: int, convention: str) -> tuple[Tensor, ...]:
    """First and last-plus-one cell of every bin.

    Args:
        rois: (N, 5) in pixels, of the type that the borders are computed in.
        size: k.
        spatial_scale: map over image.
        height, width: of the map.
        convention: 'caffe' rounds in the image and counts the last pixel in; 'torchvision' rounds in the map, and never reaches the last
            row and column.

    Returns:
        Top and bottom (N, k), left and right (N, k), int64, with bottom >= top and right >= left.
    """
    x1, y1, x2, y2 = torch.nan_to_num(rois[:, 1:]).unbind(1)
    steps = torch.arange(size + 1, device=rois.device, dtype=rois.dtype)
    edges = []
    for low, high, cells in ((y1, y2, height), (x1, x2, width)):
        if convention == 'caffe':
            start = round_half_away(low) * spatial_scale
            length = ((round_half_away(high) + 1) * spatial_scale - start).clamp(min=0.1)
            borders = steps * (length / size)[:, None]
            first, last = (borders[:, :-1] + start[:, None]).floor(), (borders[:, 1:] + start[:, None]).ceil()
        else:
            start = round_half_away(low * spatial_scale)
            length = (round_half_away(high * spatial_scale) - start).clamp(min=1)
            borders = steps * (length / size)[:, None]
            first, last = borders[:, :-1].floor() + start[:, None], borders[:, 1:].ceil() + start[:, None]
            cells = cells - 1
        first = torch.nan_to_num(first).clamp(0, cells).long()
        edges += [first, torch.maximum(torch.nan_to_num(last).clamp(0, cells).long(), first)]
    return tuple(edges)


def ps_roi_pool(features: Tensor, rois: Tensor, output_size: int, spatial_scale: float, output_dim: int, convention: str = 'caffe',
                vote: bool = False, backend: str = 'auto') -> Tensor:
    """Mean of bin (i, j) of every region over its own channel (c * k + i) * k + j, by the definition of Caffe and MXNet.

    Regions give no gradient. A bin without a cell in the map, and every bin of a region that is not a number, is 0.

    Args:
        features: (B, output_dim * k * k, H, W).
        rois: (N, 5) as (image index, x1, y1, x2, y2), in pixels of the image.
        output_size: k.
        spatial_scale: size of the map over that of the image.
        output_dim: C, maps a bin.
        convention: 'caffe', the paper's code: pixels rounded first, the last pixel counted in; or 'torchvision', as
            ``torchvision.ops.ps_roi_pool`` computes it, with a gradient that belongs to its forward.
        vote: average over the bins without making them.
        backend: 'auto', 'torch' or, for convention='torchvision', 'torchvision'.

    Returns:
        (N, C, k, k), or (N, C) with ``vote``.

    Raises:
        ValueError: shapes that do not fit, an image index outside the batch (CPU), an unknown convention or backend.
        TypeError: integers.
    """
    size = output_size
    check_rois('ps_roi_pool', features, rois, output_dim * size * size,
               f'output_dim * k * k = {output_dim} * {size} * {size} channels')
    if convention not in ('caffe', 'torchvision'):
        raise ValueError(f"convention={convention!r} of ps_roi_pool; 'caffe' or 'torchvision'")
    supported = ('torchvision',) if convention == 'torchvision' else ()
    dtype = compute_type(features, rois)
    with torch.autocast(features.device.type, enabled=False):
        if pick('ps_roi_pool', backend, features, supported) == 'torchvision':
            import torchvision
            out = torchvision.ops.ps_roi_pool(features.to(dtype), rois.detach().to(dtype), size, spatial_scale)
            return (out.mean((2, 3)) if vote else out).to(features.dtype)
        return _pool(features, rois.detach().to(dtype), size, spatial_scale, output_dim, convention, vote).to(features.dtype)


def _pool(features: Tensor, rois: Tensor, size: int, spatial_scale: float, output_dim: int, convention: str, vote: bool) -> Tensor:
    batch, _, height, width = features.shape
    top, bottom, left, right = bin_edges(rois, size, spatial_scale, height, width, convention)
    maps = features.double().reshape(batch, output_dim, size * size, height, width).permute(0, 2, 3, 4, 1)
    integral = F.pad(maps.cumsum(2).cumsum(3), (0, 0, 1, 0, 1, 0)).reshape(-1, output_dim)
    area = (bottom - top)[:, :, None] * (right - left)[:, None]
    weight = (area > 0) / area.clamp(min=1).to(integral.dtype) / (size * size if vote else 1)
    image = torch.nan_to_num(rois[:, 0]).long()[:, None, None]
    place = torch.arange(size * size, device=rois.device).view(1, size, size)
    base = (image * (size * size) + place) * ((height + 1) * (width + 1))

    def corner(y: Tensor, x: Tensor) -> Tensor:
        return base + y[:, :, None] * (width + 1) + x[:, None]

    index = torch.stack((corner(bottom, right), corner(top, right), corner(bottom, left), corner(top, left)), -1)
    weight = torch.stack((weight, -weight, -weight, weight), -1)
    number = len(rois)
    if vote:
        return weighted_gather(integral, index.flatten(1), weight.flatten(1))
    out = weighted_gather(integral, index.reshape(-1, 4), weight.reshape(-1, 4))
    return out.view(number, size, size, output_dim).permute(0, 3, 1, 2)
