"""Position-sensitive RoI pooling (R-FCN, Dai et al., NIPS 2016, arXiv:1605.06409, equation 1)."""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmssl.ops.dispatch import checks_values, pick
from mmssl.ops.gather import compute_type, weighted_gather
from mmssl.ops.rois import check_rois, round_half_away

# below this many cells to sum, over those of the map, only these are brought to channels-last (tools/benchmarks/ops.py)
FEW = 0.25


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
    edges = bin_edges(rois, size, spatial_scale, *features.shape[2:], convention)
    image = torch.nan_to_num(rois[:, 0]).long()
    if checks_values(features):
        out = _Direct.apply(features.to(rois.dtype), image, *edges, vote)
    else:
        out = integral_pool(features, image, *edges, vote)
    return out if vote else out.view(-1, size, size, output_dim).permute(0, 3, 1, 2)


def integral_pool(features: Tensor, image: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor, vote: bool) -> Tensor:
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

    index = torch.stack((corner(bottom, right), corner(top, right), corner(bottom, left), corner(top, left)), -1)
    weight = torch.stack((weight, -weight, -weight, weight), -1)
    if vote:
        return weighted_gather(integral, index.flatten(1), weight.flatten(1))
    return weighted_gather(integral, index.reshape(-1, 4), weight.reshape(-1, 4)).view(-1, size * size, output_dim)


class _Direct(torch.autograd.Function):
    """Cells of every bin summed one by one: a bin of common size has fewer than ten, and nothing cancels.

    Many cells: the map is brought to channels-last bin by bin, which stays in the cache. Few: only the cells that count are.
    """

    @staticmethod
    def forward(ctx, features, image, top, bottom, left, right, vote):
        batch, channels, height, width = features.shape
        number, size = top.shape
        bins, area = size * size, height * width
        output_dim = channels // bins
        index, counts = cells_of_bins(image, top, bottom, left, right, height, width)
        share = counts.clamp(min=1).to(features.dtype).reciprocal_()
        maps = features.contiguous().view(batch, output_dim, bins, area)
        few = len(index) < FEW * batch * bins * area
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(index, share, counts)
            ctx.shape, ctx.vote, ctx.few = features.shape, vote, few
        if few:
            picture, cell = split_cells(index, counts.sum(1), area)
            maps = maps.view(batch, output_dim, bins * area)
            table = features.new_empty(len(cell), output_dim)
            if batch > 1:
                table = maps[picture, :, cell]
            elif len(cell):
                _turn(maps[0].index_select(1, cell)[None], table[None])
            first = (counts.view(-1).cumsum(0) - counts.view(-1)).int()
            out = F.embedding_bag(torch.arange(len(table), dtype=torch.int32), table, first, mode='sum').view(bins, number, output_dim)
            out *= share[:, :, None]
            return out.mean(0) if vote else out.transpose(0, 1).contiguous()
        table = features.new_empty(batch, area, output_dim)
        out = features.new_zeros(number, output_dim) if vote else features.new_empty(number, bins, output_dim)
        firsts = (counts.cumsum(1) - counts).int()
        start = 0
        for place, length in enumerate(counts.sum(1).tolist()):
            _turn(maps[:, :, place], table)
            one = torch.embedding_bag(table.view(-1, output_dim), index[start:start + length], firsts[place])[0]
            if vote:
                out.addcmul_(one, share[place, :, None])
            else:
                torch.mul(one, share[place, :, None], out=out[:, place])
            start += length
        return out.div_(bins) if vote else out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        index, share, counts = ctx.saved_tensors
        batch, channels, height, width = ctx.shape
        bins, area, output_dim = len(counts), height * width, grad.shape[-1]
        lengths = counts.sum(1).tolist()
        if ctx.few:
            return _of_few(grad, index, share, counts, ctx.shape, ctx.vote), *[None] * 6
        grad = grad / bins if ctx.vote else grad
        out = grad.new_empty(batch, output_dim, bins, area)
        region = np.arange(counts.shape[1], dtype=np.int32)
        start = 0
        for place, length in enumerate(lengths):
            # pairs of cell and region, by cell: two bytes are sorted by radix
            cells = index[start:start + length].numpy()
            order = np.argsort(cells.astype(np.uint16) if batch * area <= 1 << 16 else cells, kind='stable')
            source = torch.from_numpy(np.repeat(region, counts[place].numpy())[order])
            repeats = np.bincount(cells, minlength=batch * area)
            first = torch.from_numpy((repeats.cumsum() - repeats).astype(np.int32))
            values = grad if ctx.vote else grad[:, place].contiguous()
            one = torch.embedding_bag(values, source, first, False, 0, False, share[place].index_select(0, source))[0]
            _turn(one.view(batch, area, output_dim), out[:, :, place])
            start += length
        return out.view(ctx.shape), *[None] * 6


def _turn(source: Tensor, out: Tensor) -> None:
    """Write (B, R, D) as (B, D, R); OpenCV takes less than half of torch's time."""
    for one, other in zip(source.detach().numpy(), out.numpy(), strict=True):
        cv2.transpose(one, other)


def _of_few(grad: Tensor, index: Tensor, share: Tensor, counts: Tensor, shape: torch.Size, vote: bool) -> Tensor:
    """The gradient of a map, of whose cells few were summed."""
    batch, _, height, width = shape
    (bins, number), area, output_dim = counts.shape, height * width, grad.shape[-1]
    values = (grad[None] / bins if vote else grad.transpose(0, 1)) * share[:, :, None]
    source = torch.arange(bins * number, dtype=torch.int32).repeat_interleave(counts.view(-1))
    key = index + (torch.arange(bins, dtype=torch.int32) * (batch * area)).repeat_interleave(counts.sum(1))
    key, order = key.sort()
    cells, repeats = key.unique_consecutive(return_counts=True)
    first = (repeats.cumsum(0) - repeats).int()
    part = F.embedding_bag(source.index_select(0, order), values.reshape(-1, output_dim), first, mode='sum')
    out = grad.new_zeros(batch, output_dim, bins * area)
    place = cells.long() // (batch * area)
    picture, cell = (cells - place * (batch * area)) // area, cells % area + place * area
    if batch == 1:
        out[0][:, cell] = part.t()
    else:
        out[picture, :, cell] = part
    return out.view(shape)


def split_cells(index: Tensor, lengths: Tensor, area: int) -> tuple[Tensor, Tensor]:
    """Image, and cell of the map of all bins, of the cells that :func:`cells_of_bins` lists, ``lengths`` of each bin."""
    picture = index // area
    first = (torch.arange(len(lengths)) * area).repeat_interleave(lengths)
    return picture, index - picture * area + first


def cells_of_bins(image: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor, height: int,
                  width: int) -> tuple[Tensor, Tensor]:
    """Every cell of every bin, bin by bin.

    Args:
        image: (N,).
        top, bottom, left, right: (N, k).
        height, width: of the map.

    Returns:
        Cells (nnz,) in one bin's map (B, H, W), int32, and their number (k * k, N).
    """
    image, top, bottom, left, right = (np.ascontiguousarray(values.numpy().T, np.int32) for values in (image, top, bottom, left, right))
    size, number = top.shape
    tall, wide = bottom - top, right - left
    start = ((image * height + top)[:, None] * width + left).reshape(-1)
    tall_of_bin, wide_of_bin = (lengths.reshape(-1) for lengths in np.broadcast_arrays(tall[:, None], wide))
    # bins to rows, rows to cells: a list repeated, less where each part starts, so that counting on gives the cell
    before = (tall_of_bin.cumsum(dtype=np.int32) - tall_of_bin) * np.int32(width)
    row = np.repeat(start - before, tall_of_bin)
    row += np.arange(len(row), dtype=np.int32) * np.int32(width)
    wide_of_row = np.repeat(wide_of_bin, tall_of_bin)
    row -= wide_of_row.cumsum(dtype=np.int32) - wide_of_row
    index = np.repeat(row, wide_of_row)
    index += np.arange(len(index), dtype=np.int32)
    counts = (tall[:, None] * wide).reshape(size * size, number).astype(np.int64)
    return torch.from_numpy(index), torch.from_numpy(counts)
