"""Deformable position-sensitive RoI pooling (Dai et al., ICCV 2017, arXiv:1703.06211, section 2.2)."""

import torch
from torch import Tensor

from mmssl.ops.dispatch import pick
from mmssl.ops.gather import compute_type, weighted_gather
from mmssl.ops.rois import check_rois, round_half_away


def deform_ps_roi_pool(features: Tensor, rois: Tensor, trans: Tensor | None, output_size: int, spatial_scale: float, output_dim: int,
                       group_size: int, part_size: int | None = None, sample_per_part: int = 4, trans_std: float = 0.1,
                       vote: bool = False, backend: str = 'auto') -> Tensor:
    """Mean of m x m bilinear samples of every bin, each bin moved by its offset, by the definition of MXNet.

    Bin (i, j) reads channel (c * G + i * G // P) * G + j * G // P and moves by ``trans_std * trans`` times the size of the region, taken
    at part (i * p // P, j * p // P). Samples further than half a cell outside the map are left out, others are pulled to its edge; a bin
    without any is 0. Gradients go to features and offsets; the number of samples kept counts as constant.

    Args:
        features: (B, output_dim * G * G, H, W).
        rois: (N, 5) as (image index, x1, y1, x2, y2), in pixels of the image; they give no gradient.
        trans: (N, 2, p, p), shared by the classes, or (N, 2 * classes, p, p), (x, y) a class in turn; None for no offsets.
        output_size: P, bins a side.
        spatial_scale: size of the map over that of the image.
        output_dim: C, divisible by the classes of ``trans``.
        group_size: G; 1 for plain, P for position-sensitive pooling.
        part_size: p; P when None.
        sample_per_part: m.
        trans_std: size of an offset of 1, over that of the region.
        vote: average over the bins without making them.
        backend: 'auto' or 'torch': no released package has this operator.

    Returns:
        (N, C, P, P), or (N, C) with ``vote``.

    Raises:
        ValueError: shapes that do not fit, an image index outside the batch (CPU), an unknown backend.
        TypeError: integers.
    """
    part_size = part_size or output_size
    check_rois('deform_ps_roi_pool', features, rois, output_dim * group_size * group_size,
               f'output_dim * group_size**2 = {output_dim} * {group_size}**2 channels')
    if trans is not None and (trans.dim() != 4 or trans.shape[1] % 2 or trans.shape[1] == 0
                              or (trans.shape[0], *trans.shape[2:]) != (rois.shape[0], part_size, part_size)):
        raise ValueError(f'deform_ps_roi_pool needs trans ({rois.shape[0]}, 2 * classes, {part_size}, {part_size}) for part_size='
                         f'{part_size}, got {tuple(trans.shape)}')
    if trans is not None and output_dim % (trans.shape[1] // 2):
        raise ValueError(f'output_dim={output_dim} of deform_ps_roi_pool does not divide into the {trans.shape[1] // 2} classes of trans '
                         f'{tuple(trans.shape)}')
    pick('deform_ps_roi_pool', backend, features, ())
    dtype = compute_type(features, rois)
    with torch.autocast(features.device.type, enabled=False):
        out = _pool(features.to(dtype), rois.detach().to(dtype), None if trans is None else trans.to(dtype), output_size, spatial_scale,
                    output_dim, group_size, part_size, sample_per_part, trans_std, vote)
        return out.to(features.dtype)


def _samples(low: Tensor, high: Tensor, shift: Tensor | None, size: int, spatial_scale: float, samples: int,
             cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cells and weights of the samples along one axis.

    Args:
        low, high: (N,) in pixels.
        shift: (N, classes, P, P) offset over the region's size, or None.

    Returns:
        Cells (N, classes, P, P, 2 * m), weights of that shape, and samples kept (N, classes, P, P); without a shift P, P is P, 1.
    """
    start = round_half_away(torch.nan_to_num(low)) * spatial_scale - 0.5
    end = (round_half_away(torch.nan_to_num(high)) + 1) * spatial_scale - 0.5
    length = (end - start).clamp(min=0.1)[:, None, None, None]
    step = length / size
    place = torch.arange(size, device=low.device, dtype=low.dtype)[:, None] * step + start[:, None, None, None]
    if shift is not None:
        place = place + shift * length
    place = place[..., None] + torch.arange(samples, device=low.device, dtype=low.dtype) * (step / samples)[..., None]
    kept = (place >= -0.5) & (place <= cells - 0.5)
    place = place.clamp(0, cells - 1)
    first = torch.nan_to_num(place.detach()).floor()
    after = place - first
    share = kept.to(low.dtype)
    first = first.long()
    # the cell after a whole number is itself, as ceil has it
    second = torch.where(after.detach() > 0, first + 1, first)
    return torch.cat((first, second), -1), torch.cat(((1 - after) * share, after * share), -1), kept.sum(-1)


def _pool(features: Tensor, rois: Tensor, trans: Tensor | None, size: int, spatial_scale: float, output_dim: int, group: int, part: int,
          samples: int, trans_std: float, vote: bool) -> Tensor:
    batch, _, height, width = features.shape
    number, device = rois.shape[0], rois.device
    classes = 1 if trans is None else trans.shape[1] // 2
    _, x1, y1, x2, y2 = rois.unbind(1)
    bins = torch.arange(size, device=device)
    if trans is None:
        shift_x = shift_y = None
    else:
        parts = bins * part // size
        shift = trans_std * trans.view(number, classes, 2, part, part)[:, :, :, parts[:, None], parts]
        shift_x, shift_y = shift.unbind(2)
    # along x the bins are the last axis, along y the one before
    columns, across, kept_x = _samples(x1, x2, None if shift_x is None else shift_x.transpose(2, 3), size, spatial_scale, samples, width)
    rows, down, kept_y = _samples(y1, y2, shift_y, size, spatial_scale, samples, height)
    columns, across, kept_x = columns.transpose(2, 3), across.transpose(2, 3), kept_x.transpose(2, 3)
    cells = bins * group // size
    place = cells[:, None] * group + cells
    image = torch.nan_to_num(rois[:, 0]).long().view(number, 1, 1, 1)
    base = ((image * classes + torch.arange(classes, device=device).view(-1, 1, 1)) * (group * group) + place) * (height * width)
    index = base[..., None, None] + rows[..., :, None] * width + columns[..., None, :]
    scale = 1. / (kept_x * kept_y).clamp(min=1).to(down.dtype) / (size * size if vote else 1)
    weight = (down * scale[..., None])[..., :, None] * across[..., None, :]
    depth = output_dim // classes
    table = features.reshape(batch, classes, depth, group * group, height * width).permute(0, 1, 3, 4, 2).reshape(-1, depth)
    if vote:
        return weighted_gather(table, index.flatten(2).flatten(0, 1), weight.flatten(2).flatten(0, 1)).view(number, output_dim)
    out = weighted_gather(table, index.flatten(4).flatten(0, 3), weight.flatten(4).flatten(0, 3))
    return out.view(number, classes, size, size, depth).permute(0, 1, 4, 2, 3).reshape(number, output_dim, size, size)
