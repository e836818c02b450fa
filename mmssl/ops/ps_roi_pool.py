"""Position-sensitive RoI pooling (R-FCN, Dai et al., NIPS 2016, arXiv:1605.06409, equation 1)."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmssl.ops.dispatch import checks_values, pick
from mmssl.ops.rois import check_rois, round_half_away
from mmssl.ops.weighted_sum import compute_type, weighted_gather

# below this many cells to sum, over those of the map, only these are brought to channels-last
# (tools/benchmarks/ops.py)
FEW = 0.25
# bins that are brought to channels-last at a time
TOGETHER = 4


def bin_edges(
    rois: Tensor, size: int, spatial_scale: float, height: int, width: int, convention: str
) -> tuple[Tensor, ...]:
    """First and last-plus-one cell of every bin.

    Args:
        rois: (N, 5) in pixels, of the type that the borders are computed in.
        size: k.
        spatial_scale: map over image.
        height, width: of the map.
        convention: 'caffe' rounds in the image and counts the last pixel in; 'torchvision' rounds in the map,
            and never reaches the last row and column.

    Returns:
        Top and bottom (N, k), left and right (N, k), int64, with bottom >= top and right >= left.
    """
    corners = torch.nan_to_num(rois[:, 1:])
    steps = torch.arange(size + 1, device=rois.device, dtype=rois.dtype)
    if convention == 'caffe':
        corners = round_half_away(corners)
        start = corners[:, :2] * spatial_scale
        length = ((corners[:, 2:] + 1) * spatial_scale - start).clamp(min=0.1)
        borders = steps * (length / size)[..., None]
        first, last = (
            (borders[..., :-1] + start[..., None]).floor(),
            (borders[..., 1:] + start[..., None]).ceil(),
        )
        limits = width, height
    else:
        corners = round_half_away(corners * spatial_scale)
        start = corners[:, :2]
        length = (corners[:, 2:] - start).clamp(min=1)
        borders = steps * (length / size)[..., None]
        first, last = borders[..., :-1].floor() + start[..., None], borders[..., 1:].ceil() + start[..., None]
        limits = width - 1, height - 1
    first, last = torch.nan_to_num(first), torch.nan_to_num(last)
    edges = []
    for axis in (1, 0):
        low = first[:, axis].clamp(0, limits[axis]).long()
        edges += [low, torch.maximum(last[:, axis].clamp(0, limits[axis]).long(), low)]
    return tuple(edges)


def ps_roi_pool(
    features: Tensor,
    rois: Tensor,
    output_size: int,
    spatial_scale: float,
    output_dim: int,
    convention: str = 'caffe',
    vote: bool = False,
    backend: str = 'auto',
) -> Tensor:
    """Mean of bin (i, j) of every region over its own channel (c * k + i) * k + j, by the definition of Caffe and MXNet.

    Regions give no gradient. A bin without a cell in the map, and every bin of a region that is not a number,
    is 0.

    Args:
        features: (B, output_dim * k * k, H, W).
        rois: (N, 5) as (image index, x1, y1, x2, y2), in pixels of the image.
        output_size: k.
        spatial_scale: size of the map over that of the image.
        output_dim: C, maps a bin.
        convention: 'caffe', the paper's code: pixels rounded first, the last pixel counted in; or
            'torchvision', as ``torchvision.ops.ps_roi_pool`` computes it, with a gradient that belongs to its
            forward.
        vote: average over the bins without making them.
        backend: 'auto', 'torch' or, for convention='torchvision', 'torchvision'.

    Returns:
        (N, C, k, k), or (N, C) with ``vote``.

    Raises:
        ValueError: shapes that do not fit, an image index outside the batch (CPU), an unknown convention or
            backend.
        TypeError: integers.
    """
    size = output_size
    check_rois(
        'ps_roi_pool',
        features,
        rois,
        output_dim * size * size,
        f'output_dim * k * k = {output_dim} * {size} * {size} channels',
    )
    if convention not in ('caffe', 'torchvision'):
        raise ValueError(f"convention={convention!r} of ps_roi_pool; 'caffe' or 'torchvision'")
    supported = ('torchvision',) if convention == 'torchvision' else ()
    dtype = compute_type(features, rois)
    with torch.autocast(features.device.type, enabled=False):
        if pick('ps_roi_pool', backend, features, supported) == 'torchvision':
            import torchvision

            out = torchvision.ops.ps_roi_pool(
                features.to(dtype), rois.detach().to(dtype), size, spatial_scale
            )
            return (out.mean((2, 3)) if vote else out).to(features.dtype)
        return _pool(features, rois.detach().to(dtype), size, spatial_scale, output_dim, convention, vote).to(
            features.dtype
        )


def _pool(
    features: Tensor,
    rois: Tensor,
    size: int,
    spatial_scale: float,
    output_dim: int,
    convention: str,
    vote: bool,
) -> Tensor:
    height, width = features.shape[2:]
    edges = bin_edges(rois, size, spatial_scale, height, width, convention)
    image = torch.nan_to_num(rois[:, 0]).long()
    if checks_values(features):
        out = _Direct.apply(features.to(rois.dtype), image, *edges, vote)
    else:
        out = integral_pool(features, image, *edges, vote)  # type: ignore[call-arg]  # four edges
    return out if vote else out.view(-1, size, size, output_dim).permute(0, 3, 1, 2)


def integral_pool(
    features: Tensor, image: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor, vote: bool
) -> Tensor:
    """Bins from four corners of an integral image in float64: a fixed number of steps, whatever the regions.

    Returns:
        (N, C) with ``vote``, else (N, k * k, C), float64.
    """
    batch, channels, height, width = features.shape
    size = top.shape[1]
    output_dim = channels // (size * size)
    maps = features.double().reshape(batch, output_dim, size * size, height, width).permute(0, 2, 3, 4, 1)
    integral = F.pad(maps.cumsum(2).cumsum(3), (0, 0, 1, 0, 1, 0)).reshape(-1, output_dim)
    area = (bottom - top)[:, :, None] * (right - left)[:, None]
    weight = (area > 0) / area.clamp(min=1).double() / (size * size if vote else 1)
    place = torch.arange(size * size, device=image.device).view(1, size, size)
    base = (image[:, None, None] * (size * size) + place) * ((height + 1) * (width + 1))

    def corner(y: Tensor, x: Tensor) -> Tensor:
        return base + y[:, :, None] * (width + 1) + x[:, None]

    index = torch.stack(
        (corner(bottom, right), corner(top, right), corner(bottom, left), corner(top, left)), -1
    )
    weight = torch.stack((weight, -weight, -weight, weight), -1)
    if vote:
        return weighted_gather(integral, index.flatten(1), weight.flatten(1))
    return weighted_gather(integral, index.reshape(-1, 4), weight.reshape(-1, 4)).view(
        -1, size * size, output_dim
    )


class _Direct(torch.autograd.Function):
    """Cells of every bin summed one by one: a bin of common size has fewer than ten, and nothing cancels.

    Many cells: the map is brought to channels-last a few bins at a time, which stays in the cache. Few: only
        the cells that count are.
    """

    @staticmethod
    def forward(ctx, features, image, top, bottom, left, right, vote):
        batch, channels, height, width = features.shape
        number, size = top.shape
        bins, area = size * size, height * width
        output_dim = channels // bins
        index, counts = cells_of_bins(image, top, bottom, left, right, batch, height, width)
        share = counts.clamp(min=1).to(features.dtype).reciprocal_()
        maps = features.detach().contiguous().view(batch, output_dim, bins * area)
        few = len(index) <= FEW * batch * bins * area
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(index, share, counts)
            ctx.shape, ctx.vote, ctx.few = features.shape, vote, few
        if few:
            picture, cell = split_cells(index, batch, area)
            table = features.new_empty(len(cell), output_dim)
            if batch > 1:
                table = maps[picture, :, cell]
            elif len(cell):
                cv2.transpose(maps[0].index_select(1, cell).numpy(), table.numpy())
            first = (counts.view(-1).cumsum(0) - counts.view(-1)).int()
            out = F.embedding_bag(torch.arange(len(table), dtype=torch.int32), table, first, mode='sum').view(
                bins, number, output_dim
            )
            out *= share[:, :, None]
            return out.mean(0) if vote else out.transpose(0, 1).contiguous()
        table = features.new_empty(TOGETHER * batch * area, output_dim)
        out = features.new_zeros(number, output_dim) if vote else features.new_empty(number, bins, output_dim)
        lengths = counts.view(-1).split(TOGETHER * number)
        for place, cells, length in zip(
            range(0, bins, TOGETHER), index.split([int(part.sum()) for part in lengths]), lengths, strict=True
        ):
            _turn(maps, table, place, min(bins, place + TOGETHER), area, back=False)
            first = (length.cumsum(0) - length).int()
            one = torch.embedding_bag(table, cells - place * batch * area, first)[0].view(
                len(length) // max(number, 1), number, output_dim
            )
            part = share[place : place + TOGETHER, :, None]
            if vote:
                out += one.mul_(part).sum(0)
            else:
                torch.mul(one, part, out=out[:, place : place + TOGETHER].transpose(0, 1))
        return out.div_(bins) if vote else out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        index, share, counts = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        bins, area, output_dim = len(counts), height * width, grad.shape[-1]
        if ctx.few:
            return _of_few(grad, index, share, counts, ctx.shape, ctx.vote), *[None] * 6
        source, first, lengths = by_cell(index, counts, batch * area)
        grad = (grad / bins)[None] if ctx.vote else grad.transpose(0, 1)
        out = grad.new_empty(batch, output_dim, bins * area)
        for place, one in zip(range(0, bins, TOGETHER), source.split(lengths), strict=True):
            some = slice(place, place + TOGETHER)
            values = (grad if ctx.vote else grad[some]) * share[some, :, None]
            cells = torch.embedding_bag(values.reshape(-1, output_dim), one, first[some].view(-1))[0]
            _turn(out, cells, place, min(bins, place + TOGETHER), area, back=True)
        return out.view(ctx.shape), *[None] * 6


def by_cell(index: Tensor, counts: Tensor, cells: int) -> tuple[Tensor, Tensor, list[int]]:
    """The pairs of region and cell that :func:`cells_of_bins` lists, in the order of the cells.

    Args:
        index, counts: of :func:`cells_of_bins`.
        cells: of one bin's map, B * H * W.

    Returns:
        Regions (nnz,), counted through the bins of one group of ``TOGETHER``; where each cell's begin in its
        group (k * k, cells), both int32; regions of each group.
    """
    bins, number = counts.shape
    begin = np.zeros(counts.numel() + 1, np.int32)
    np.cumsum(counts.numpy().reshape(-1), out=begin[1:])
    # a column-wise matrix of the row-wise one, which scipy makes by counting, without comparing
    pairs = csr_array(
        (np.empty(len(index), np.int8), index.numpy(), begin), shape=(bins * number, bins * cells)
    ).tocsc()
    first, source = pairs.indptr[:-1].reshape(bins, cells), pairs.indices
    starts = pairs.indptr[: -1 : TOGETHER * cells]
    lengths = np.diff(starts, append=len(source))
    source -= np.repeat(np.arange(0, bins, TOGETHER, dtype=np.int32) * np.int32(number), lengths)
    first -= np.repeat(starts, TOGETHER)[:bins, None]
    return torch.from_numpy(source), torch.from_numpy(first), lengths.tolist()


def _turn(maps: Tensor, table: Tensor, first: int, last: int, area: int, back: bool) -> None:
    """Bins ``first`` to ``last`` of maps (B, D, k * k * area) into a table ((last - first) * B * area, D), or back.

    OpenCV takes less than half of torch's time.
    """
    batch, planes, rows = len(maps), maps.numpy(), table.numpy()
    step = last - first if batch == 1 else 1
    for number, place in enumerate(range(first, last, step)):
        for image in range(batch):
            plane = planes[image, :, place * area : (place + step) * area]
            row = rows[(number * batch + image) * area :][: step * area]
            cv2.transpose(row, plane) if back else cv2.transpose(plane, row)


def _of_few(
    grad: Tensor, index: Tensor, share: Tensor, counts: Tensor, shape: torch.Size, vote: bool
) -> Tensor:
    """The gradient of a map, of whose cells few were summed."""
    batch, _, height, width = shape
    (bins, number), area, output_dim = counts.shape, height * width, grad.shape[-1]
    values = (grad[None] / bins if vote else grad.transpose(0, 1)) * share[:, :, None]
    source = torch.arange(bins * number, dtype=torch.int32).repeat_interleave(counts.view(-1))
    key, order = index.sort()
    cells, repeats = key.unique_consecutive(return_counts=True)
    first = (repeats.cumsum(0) - repeats).int()
    part = F.embedding_bag(source.index_select(0, order), values.reshape(-1, output_dim), first, mode='sum')
    out = grad.new_zeros(batch, output_dim, bins * area)
    picture, cell = split_cells(cells, batch, area)
    if batch == 1:
        out[0][:, cell] = part.t()
    else:
        out[picture, :, cell] = part
    return out.view(shape)


def split_cells(index: Tensor, batch: int, area: int) -> tuple[Tensor, Tensor]:
    """Image, and cell of that image's maps (k * k, H, W), of the cells that :func:`cells_of_bins` lists."""
    place = index // (batch * area)
    return index // area - place * batch, index % area + place * area


def cells_of_bins(
    image: Tensor,
    top: Tensor,
    bottom: Tensor,
    left: Tensor,
    right: Tensor,
    batch: int,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Every cell of every bin, bin by bin.

    Args:
        image: (N,).
        top, bottom, left, right: (N, k).
        batch, height, width: B, H and W of the map.

    Returns:
        Cells (nnz,) in maps of (k * k, B, H, W), int32, and their number (k * k, N), int64.
    """
    image, top, bottom, left, right = (
        np.ascontiguousarray(values.numpy().T, np.int32) for values in (image, top, bottom, left, right)
    )
    size, number = top.shape
    tall, wide = bottom - top, right - left
    start = ((image * height + top)[:, None] * width + left).reshape(size * size, number)
    start += np.arange(size * size, dtype=np.int32)[:, None] * np.int32(batch * height * width)
    start = start.reshape(-1)
    tall, wide = (lengths.reshape(-1) for lengths in np.broadcast_arrays(tall[:, None], wide))
    counts = tall.astype(np.int64) * wide
    # the steps from each cell to the next, added up: 1 in a row, one line of the map to the next row, any to
    # the next bin
    some = counts > 0
    if not some.all():
        start, tall, wide = start[some], tall[some], wide[some]
    index = np.ones(counts.sum(), np.int32)
    if len(index):
        row = np.repeat(wide, tall)
        index[row.cumsum(dtype=np.int64)[:-1]] = (width + 1) - row[:-1]
        end = start + (tall - 1) * width + wide - 1
        index[(tall.astype(np.int64) * wide).cumsum()[:-1]] = start[1:] - end[:-1]
        index[0] = start[0]
        np.cumsum(index, out=index)
    return torch.from_numpy(index), torch.from_numpy(counts.reshape(size * size, number))
