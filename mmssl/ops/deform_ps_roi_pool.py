"""Deformable position-sensitive RoI pooling (Dai et al., ICCV 2017, arXiv:1703.06211, section 2.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmssl.ops.dispatch import checks_values, pick
from mmssl.ops.gather import compute_type, ragged_gather, row_products, weighted_gather
from mmssl.ops.rois import check_rois, round_half_away

# elements of the sums of rows that are in work at a time on the CPU, 4 MiB
PIECE = 1 << 20


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


def bin_starts(low: Tensor, high: Tensor, size: int, spatial_scale: float, samples: int) -> tuple[Tensor, Tensor, Tensor]:
    """First sample of every bin along one axis without offset (N, P), between two samples (N,), and size of the region (N,), in cells."""
    start = round_half_away(torch.nan_to_num(low)) * spatial_scale - 0.5
    length = ((round_half_away(torch.nan_to_num(high)) + 1) * spatial_scale - 0.5 - start).clamp(min=0.1)
    bins = torch.arange(size, device=low.device, dtype=low.dtype)
    return bins * (length / size)[:, None] + start[:, None], length / size / samples, length


def sample_cells(place: Tensor, step: Tensor, samples: int, cells: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cells around the samples of every bin along one axis.

    Args:
        place: (...), the first sample.
        step: between samples, broadcast to ``place``.
        samples: m.
        cells: of the map.

    Returns:
        First and second cell (..., m), as reals; how far the sample is from the first, which carries the gradient; 1 where it counts.
    """
    place = place[..., None] + torch.arange(samples, device=place.device, dtype=place.dtype) * step[..., None]
    kept = ((place >= -0.5) & (place <= cells - 0.5)).to(place.dtype)
    place = place.clamp(0, cells - 1)
    first = torch.nan_to_num(place.detach()).floor()
    # the cell after a whole number is itself, as ceil has it
    return first, torch.nan_to_num(place.detach()).ceil(), place - first, kept


def _pool(features: Tensor, rois: Tensor, trans: Tensor | None, size: int, spatial_scale: float, output_dim: int, group: int, part: int,
          samples: int, trans_std: float, vote: bool) -> Tensor:
    batch, _, height, width = features.shape
    number, device = rois.shape[0], rois.device
    classes = 1 if trans is None else trans.shape[1] // 2
    _, x1, y1, x2, y2 = rois.unbind(1)
    x, step_x, wide = bin_starts(x1, x2, size, spatial_scale, samples)
    y, step_y, tall = bin_starts(y1, y2, size, spatial_scale, samples)
    bins = torch.arange(size, device=device)
    cells = bins * group // size
    place = cells[:, None] * group + cells
    image = torch.nan_to_num(rois[:, 0]).long()
    x, y = x.view(number, 1, 1, size), y.view(number, 1, size, 1)
    if trans is not None:
        shift = trans.reshape(number, classes, 2, part, part) * trans_std
        if part != size:
            shift = shift.index_select(3, bins * part // size).index_select(4, bins * part // size)
        x, y = x + shift[:, :, 0] * wide.view(number, 1, 1, 1), y + shift[:, :, 1] * tall.view(number, 1, 1, 1)
    if classes == output_dim > 1 and checks_values(features):
        x, y = (axis.permute(1, 2, 3, 0).reshape(classes, size * size, number) for axis in (x, y))
        out = _ByRows.apply(features.reshape(batch, classes, group * group, height, width), x, y, step_x, step_y, image, place.view(-1),
                            samples)
        return out.mean(1).t() if vote else out.permute(2, 0, 1).reshape(number, output_dim, size, size)
    steps = step_x.view(number, 1, 1, 1), step_y.view(number, 1, 1, 1)
    columns, across, kept_x = _stack(*sample_cells(x, steps[0], samples, width))
    rows, down, kept_y = _stack(*sample_cells(y, steps[1], samples, height))
    base = ((image.view(number, 1, 1, 1) * classes + torch.arange(classes, device=device).view(-1, 1, 1)) * (group * group) + place)
    index = (base * (height * width))[..., None, None] + rows[..., :, None] * width + columns[..., None, :]
    scale = 1. / (kept_x * kept_y).clamp(min=1) / (size * size if vote else 1)
    weight = (down * scale[..., None])[..., :, None] * across[..., None, :]
    depth = output_dim // classes
    table = features.reshape(batch, classes, depth, group * group, height * width).permute(0, 1, 3, 4, 2).reshape(-1, depth)
    if vote:
        return weighted_gather(table, index.flatten(2).flatten(0, 1), weight.flatten(2).flatten(0, 1)).view(number, output_dim)
    out = weighted_gather(table, index.flatten(4).flatten(0, 3), weight.flatten(4).flatten(0, 3))
    return out.view(number, classes, size, size, depth).permute(0, 1, 4, 2, 3).reshape(number, output_dim, size, size)


def _stack(first: Tensor, second: Tensor, after: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cells (..., 2 * m), int64, their weights (..., 2 * m), and samples kept (...), of what :func:`sample_cells` gives."""
    return torch.cat((first, second), -1).long(), torch.cat(((1 - after) * kept, after * kept), -1), kept.sum(-1)


class _ByRows(torch.autograd.Function):
    """A map a class: the samples of a bin lie on m rows and m columns, so that rows are summed first, then columns of the sum.

    2 m rows of W neighbours and 2 m numbers a bin instead of 4 m^2 numbers from anywhere; a few maps at a time, without a copy of them.

    Takes features (B, C, G * G, H, W), first samples x and y (C, P * P, N), steps (N,), images (N,), the map of every bin (P * P,) and m.
    Returns (C, P * P, N).
    """

    @staticmethod
    def forward(ctx, features, x, y, step_x, step_y, image, place, samples):
        ctx.save_for_backward(features, x, y, step_x, step_y, image, place)
        ctx.samples = samples
        out = x.new_empty(x.shape)
        table = features.reshape(-1, features.shape[-1])
        for one in _pieces(features, x):
            rows, down, columns, across, count = _weights(features.shape, x[one], y[one], step_x, step_y, image, place, one, samples)[:5]
            lines = F.embedding_bag(rows, table, mode='sum', per_sample_weights=down)
            out[one] = (lines.view(-1)[columns] * across).sum(-1).view(count.shape) / count
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        features, x, y, step_x, step_y, image, place = ctx.saved_tensors
        needs_features, needs_x, needs_y = ctx.needs_input_grad[:3]
        table = features.reshape(-1, features.shape[-1])
        for_table = torch.zeros_like(table) if needs_features else None
        for_x, for_y = torch.empty_like(x) if needs_x else None, torch.empty_like(y) if needs_y else None
        for one in _pieces(features, x):
            rows, down, columns, across, count, kept_x, kept_y = _weights(features.shape, x[one], y[one], step_x, step_y, image, place, one,
                                                                          ctx.samples)
            pull = (grad[one] / count).view(-1, 1)
            if needs_x:
                lines = F.embedding_bag(rows, table, mode='sum', per_sample_weights=down)
                first, second = lines.view(-1)[columns].chunk(2, 1)
                for_x[one] = (((second - first) * kept_x).sum(1, keepdim=True) * pull).view(count.shape)
            lines = table.new_zeros(len(rows) * table.shape[1])
            lines.scatter_add_(0, columns.view(-1), (across * pull).view(-1))
            lines = lines.view(len(rows), -1)
            if needs_y:
                first, second = row_products(lines, table, rows).chunk(2, 1)
                for_y[one] = ((second - first) * kept_y).sum(1).view(count.shape)
            if needs_features:
                source = torch.arange(len(rows), dtype=rows.dtype).repeat_interleave(rows.shape[1])
                cells, order = rows.view(-1).sort()
                cells, repeats = cells.unique_consecutive(return_counts=True)
                for_table.index_add_(0, cells, ragged_gather(lines, source[order], down.view(-1)[order], repeats))
        return (for_table.view(features.shape) if needs_features else None), for_x, for_y, None, None, None, None, None


def _pieces(features: Tensor, x: Tensor):
    """Slices of classes whose sums of rows take about :data:`PIECE` elements."""
    step = max(1, PIECE // max(1, x[0].numel() * features.shape[-1]))
    return (slice(start, min(start + step, len(x))) for start in range(0, len(x), step))


def _weights(shape: torch.Size, x: Tensor, y: Tensor, step_x: Tensor, step_y: Tensor, image: Tensor, place: Tensor, part: slice,
             samples: int) -> tuple[Tensor, ...]:
    """For the bins of some classes: rows of the features (Q, 2 m) and weights, cells of the sums (Q, 2 m) and weights, samples kept."""
    _, classes, maps, height, width = shape
    first, second, after, kept_x = (part.flatten(0, 2) for part in sample_cells(x, step_x, samples, width))
    columns = torch.cat((first, second), 1).long()
    columns += torch.arange(len(columns))[:, None] * width
    across = torch.cat(((1 - after) * kept_x, after * kept_x), 1)
    first, second, after, kept_y = (part.flatten(0, 2) for part in sample_cells(y, step_y, samples, height))
    start = (torch.arange(part.start, part.stop)[:, None, None] + image * classes) * maps + place[:, None]
    rows = torch.cat((first, second), 1).int() + (start * height).int().view(-1, 1)
    down = torch.cat(((1 - after) * kept_y, after * kept_y), 1)
    count = (kept_x.sum(1) * kept_y.sum(1)).clamp(min=1).view(x.shape)
    return rows, down, columns, across, count, kept_x, kept_y
