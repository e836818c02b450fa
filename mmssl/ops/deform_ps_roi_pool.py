"""Deformable position-sensitive RoI pooling (Dai et al., ICCV 2017, arXiv:1703.06211, section 2.2)."""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmssl.ops.dispatch import checks_values, pick
from mmssl.ops.rois import check_rois, round_half_away
from mmssl.ops.weighted_sum import compute_type, weighted_gather

# elements of the sums of rows that are in work at a time on the CPU, 4 MiB
PIECE = 1 << 20


def deform_ps_roi_pool(
    features: Tensor,
    rois: Tensor,
    trans: Tensor | None,
    output_size: int,
    spatial_scale: float,
    output_dim: int,
    group_size: int,
    part_size: int | None = None,
    sample_per_part: int = 4,
    trans_std: float = 0.1,
    vote: bool = False,
    backend: str = 'auto',
) -> Tensor:
    """Mean of m x m bilinear samples of every bin, each bin moved by its offset, by the definition of MXNet.

    Bin (i, j) reads channel (c * G + i * G // P) * G + j * G // P and moves by ``trans_std * trans`` times
    the size of the region, taken at part (i * p // P, j * p // P). Samples further than half a cell outside
    the map are left out, others are pulled to its edge; a bin without any is 0. Gradients go to features and
    offsets; the number of samples kept counts as constant.

    Args:
        features: (B, output_dim * G * G, H, W).
        rois: (N, 5) as (image index, x1, y1, x2, y2), in pixels of the image; they give no gradient.
        trans: (N, 2, p, p), shared by the classes, or (N, 2 * classes, p, p), (x, y) a class in turn; None
            for no offsets.
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
    check_rois(
        'deform_ps_roi_pool',
        features,
        rois,
        output_dim * group_size * group_size,
        f'output_dim * group_size**2 = {output_dim} * {group_size}**2 channels',
    )
    if trans is not None and (
        trans.dim() != 4
        or trans.shape[1] % 2
        or trans.shape[1] == 0
        or (trans.shape[0], *trans.shape[2:]) != (rois.shape[0], part_size, part_size)
    ):
        raise ValueError(
            f'deform_ps_roi_pool needs trans ({rois.shape[0]}, 2 * classes, {part_size}, {part_size}) for part_size='
            f'{part_size}, got {tuple(trans.shape)}'
        )
    if trans is not None and output_dim % (trans.shape[1] // 2):
        raise ValueError(
            f'output_dim={output_dim} of deform_ps_roi_pool does not divide into the {trans.shape[1] // 2} classes of trans '
            f'{tuple(trans.shape)}'
        )
    pick('deform_ps_roi_pool', backend, features, ())
    dtype = compute_type(features, rois)
    with torch.autocast(features.device.type, enabled=False):
        out = _pool(
            features.to(dtype),
            rois.detach().to(dtype),
            None if trans is None else trans.to(dtype),
            output_size,
            spatial_scale,
            output_dim,
            group_size,
            part_size,
            sample_per_part,
            trans_std,
            vote,
        )
        return out.to(features.dtype)


def bin_starts(
    low: Tensor, high: Tensor, size: int, spatial_scale: float, samples: int
) -> tuple[Tensor, Tensor, Tensor]:
    """First sample of every bin along one axis without offset (N, P), between two samples (N,), and size of the region (N,), in cells."""
    start = round_half_away(torch.nan_to_num(low)) * spatial_scale - 0.5
    length = ((round_half_away(torch.nan_to_num(high)) + 1) * spatial_scale - 0.5 - start).clamp(min=0.1)
    bins = torch.arange(size, device=low.device, dtype=low.dtype)
    return bins * (length / size)[:, None] + start[:, None], length / size / samples, length


def sample_cells(
    place: Tensor, step: Tensor, samples: int, cells: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cells around the samples of every bin along one axis.

    Args:
        place: (...), the first sample.
        step: between samples, broadcast to ``place``.
        samples: m.
        cells: of the map.

    Returns:
        First and second cell (..., m), as reals; how far the sample is from the first, which carries the
        gradient; 1 where it counts.
    """
    place = place[..., None] + torch.arange(samples, device=place.device, dtype=place.dtype) * step[..., None]
    kept = ((place >= -0.5) & (place <= cells - 0.5)).to(place.dtype)
    place = place.clamp(0, cells - 1)
    first = torch.nan_to_num(place.detach()).floor()
    # the cell after a whole number is itself, as ceil has it
    return first, torch.nan_to_num(place.detach()).ceil(), place - first, kept


def _pool(
    features: Tensor,
    rois: Tensor,
    trans: Tensor | None,
    size: int,
    spatial_scale: float,
    output_dim: int,
    group: int,
    part: int,
    samples: int,
    trans_std: float,
    vote: bool,
) -> Tensor:
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
        x, y = (
            x + shift[:, :, 0] * wide.view(number, 1, 1, 1),
            y + shift[:, :, 1] * tall.view(number, 1, 1, 1),
        )
    if classes == output_dim > 1 and checks_values(features):
        out = _one_map_a_class(
            features.reshape(batch, classes, group * group, height, width),
            x,
            y,
            step_x,
            step_y,
            image,
            place.view(-1),
            samples,
        )
        return out.mean(1).t() if vote else out.permute(2, 0, 1).reshape(number, output_dim, size, size)
    steps = step_x.view(number, 1, 1, 1), step_y.view(number, 1, 1, 1)
    columns, across, kept_x = _stack(*sample_cells(x, steps[0], samples, width))
    rows, down, kept_y = _stack(*sample_cells(y, steps[1], samples, height))
    base = (image.view(number, 1, 1, 1) * classes + torch.arange(classes, device=device).view(-1, 1, 1)) * (
        group * group
    ) + place
    index = (base * (height * width))[..., None, None] + rows[..., :, None] * width + columns[..., None, :]
    scale = 1.0 / (kept_x * kept_y).clamp(min=1) / (size * size if vote else 1)
    weight = (down * scale[..., None])[..., :, None] * across[..., None, :]
    depth = output_dim // classes
    table = (
        features.reshape(batch, classes, depth, group * group, height * width)
        .permute(0, 1, 3, 4, 2)
        .reshape(-1, depth)
    )
    if vote:
        return weighted_gather(table, index.flatten(2).flatten(0, 1), weight.flatten(2).flatten(0, 1)).view(
            number, output_dim
        )
    out = weighted_gather(table, index.flatten(4).flatten(0, 3), weight.flatten(4).flatten(0, 3))
    return (
        out.view(number, classes, size, size, depth)
        .permute(0, 1, 4, 2, 3)
        .reshape(number, output_dim, size, size)
    )


def _stack(first: Tensor, second: Tensor, after: Tensor, kept: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Cells (..., 2 * m), int64, their weights (..., 2 * m), and samples kept (...), of what :func:`sample_cells` gives."""
    return (
        torch.cat((first, second), -1).long(),
        torch.cat(((1 - after) * kept, after * kept), -1),
        kept.sum(-1),
    )


def _one_map_a_class(
    features: Tensor,
    x: Tensor,
    y: Tensor,
    step_x: Tensor,
    step_y: Tensor,
    image: Tensor,
    place: Tensor,
    samples: int,
) -> Tensor:
    """:class:`_ByRows` for regions of several images: (C, P * P, N) from x and y (N, C, P, P)."""
    x, y = (axis.flatten(2).permute(1, 2, 0).contiguous() for axis in torch.broadcast_tensors(x, y))
    if len(features) == 1:
        return _ByRows.apply(features[0], x, y, step_x, step_y, place, samples)
    order, parts = [], []
    for number, maps in enumerate(features.unbind(0)):
        here = (image == number).nonzero()[:, 0]
        order.append(here)
        parts.append(
            _ByRows.apply(
                maps,
                x.index_select(2, here),
                y.index_select(2, here),
                step_x[here],
                step_y[here],
                place,
                samples,
            )
        )
    if not parts:
        return x * 0
    return torch.cat(parts, 2).index_select(2, torch.cat(order).argsort())


class _ByRows(torch.autograd.Function):
    """A map a class: the samples of a bin lie on m rows and m columns, so that rows are summed first, then columns of the sum.

    2 m rows of W neighbours and 2 m numbers a bin instead of 4 m^2 numbers from anywhere; a few maps at a
    time, without a copy of them.

    Takes features (C, G * G, H, W) of one image, first samples x and y (C, P * P, N), steps (N,), the map of
    every bin (P * P,) and m. Returns (C, P * P, N).
    """

    @staticmethod
    def forward(ctx, features, x, y, step_x, step_y, place, samples):
        ctx.save_for_backward(features, x, y, step_x, step_y, place)
        ctx.samples = samples
        height, width = features.shape[2:]
        out, table = torch.empty_like(x), features.reshape(-1, width)
        for one in _pieces(features, x):
            rows, down, kept_y = _axis(y[one], step_y, samples, height)
            columns, across, kept_x = _axis(x[one], step_x, samples, width)
            lines = F.embedding_bag(
                _table_rows(features, rows, place, one), table, mode='sum', per_sample_weights=down
            )
            out[one] = ((lines.gather(1, columns) * across).sum(1) / _count(kept_x, kept_y)).view(
                out[one].shape
            )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        features, x, y, step_x, step_y, place = ctx.saved_tensors
        needs_features, needs_x, needs_y = ctx.needs_input_grad[:3]
        height, width = features.shape[2:]
        table = features.reshape(-1, width)
        for_features = torch.zeros_like(features) if needs_features else None
        for_x, for_y = torch.empty_like(x) if needs_x else None, torch.empty_like(y) if needs_y else None
        for one in _pieces(features, x):
            rows, down, kept_y = _axis(y[one], step_y, ctx.samples, height)
            columns, across, kept_x = _axis(x[one], step_x, ctx.samples, width)
            shape = x[one].shape
            pull = grad[one].reshape(-1) / _count(kept_x, kept_y)
            if needs_x:
                lines = F.embedding_bag(
                    _table_rows(features, rows, place, one), table, mode='sum', per_sample_weights=down
                )
                first, second = lines.gather(1, columns).chunk(2, 1)
                for_x[one] = (((second - first) * kept_x).sum(1) * pull).view(shape)
            # the gradient of the sums of rows; all regions of a bin read one map, so that the rest are
            # products
            lines = (
                table.new_zeros(len(rows), width)
                .scatter_add_(1, columns, across * pull[:, None])
                .view(*shape, width)
            )
            if needs_y:
                first, second = (
                    torch.matmul(lines, features[one, place].transpose(2, 3))
                    .view(-1, height)
                    .gather(1, rows)
                    .chunk(2, 1)
                )
                for_y[one] = ((second - first) * kept_y).sum(1).view(shape)
            if needs_features:
                spread = table.new_zeros(len(rows), height).scatter_add_(1, rows, down).view(*shape, height)
                for_features[one].index_add_(1, place, torch.matmul(spread.transpose(2, 3), lines))
        return for_features, for_x, for_y, None, None, None, None


def _pieces(features: Tensor, x: Tensor):
    """Slices of classes whose sums of rows take about :data:`PIECE` elements."""
    step = max(1, PIECE // max(1, x.shape[1] * x.shape[2] * features.shape[-1]))
    return (slice(start, min(start + step, len(x))) for start in range(0, len(x), step))


def _axis(place: Tensor, step: Tensor, samples: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cells (Q, 2 m), int64, weights (Q, 2 m), and which samples count (Q, m), of the Q bins in ``place``."""
    first, second, after, kept = (
        tensor.flatten(0, 2) for tensor in sample_cells(place, step, samples, cells)
    )
    after = after * kept
    return torch.cat((first, second), 1).long(), torch.cat((kept - after, after), 1), kept


def _count(kept_x: Tensor, kept_y: Tensor) -> Tensor:
    return (kept_x.sum(1) * kept_y.sum(1)).clamp(min=1)


def _table_rows(features: Tensor, rows: Tensor, place: Tensor, part: slice) -> Tensor:
    """Rows of the features as a table of lines, int32."""
    first = (torch.arange(part.start, part.stop)[:, None] * features.shape[1] + place) * features.shape[2]
    return (rows.view(first.numel(), -1) + first.view(-1, 1)).to(torch.int32).view(rows.shape)
