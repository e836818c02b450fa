"""Position-sensitive RoI pooling on the CPU: the pixels of every bin summed one by one.

A bin of common size has fewer than ten pixels, and nothing cancels as it does in an integral image. If the
RoIs cover much of the map, it is brought to channels-last a few bins at a time, which stays in the cache.
Otherwise only the pixels that are used are.
"""

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import csr_array
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmssl.ops.precision import no_autocast_backward
from mmssl.ops.ps_roi_pool import BinEdges

# if the bins sum fewer pixels than this fraction of the map has, transpose only the used pixels
# (tools/benchmarks/ops.py)
SPARSE = 0.25
# bins that are brought to channels-last at a time
BINS_AT_A_TIME = 4


def pool_bins(features: Tensor, image: Tensor, edges: BinEdges, vote: bool) -> Tensor:
    """:func:`mmssl.ops.ps_roi_pool.pool_bins` on the CPU."""
    return _CpuPSRoIPool.apply(features, image, edges, vote)


class _CpuPSRoIPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx, features, image, edges, vote):
        batch, channels, height, width = features.shape
        num_bins = edges.top.shape[1] ** 2
        index, counts = pixels_of_bins(image, edges, features.shape)
        weight = counts.clamp(min=1).to(features.dtype).reciprocal_()
        maps = features.detach().contiguous().view(batch, channels // num_bins, num_bins * height * width)
        sparse = len(index) <= SPARSE * batch * num_bins * height * width
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(index, weight, counts)
            ctx.shape = features.shape
            ctx.vote = vote
            ctx.sparse = sparse
        pool = _pool_used_pixels if sparse else _pool_whole_maps
        return pool(maps, index, weight, counts, vote)

    @staticmethod
    @once_differentiable
    @no_autocast_backward
    def backward(ctx, grad_output):
        index, weight, counts = ctx.saved_tensors
        num_bins = len(counts)
        # (bins, N, C), or (1, N, C) if all bins have the same gradient
        grad_bins = grad_output[None] / num_bins if ctx.vote else grad_output.transpose(0, 1)
        spread = _spread_to_used_pixels if ctx.sparse else _spread_to_whole_maps
        return spread(grad_bins, index, weight, counts, ctx.shape), None, None, None


def _pool_used_pixels(maps: Tensor, index: Tensor, weight: Tensor, counts: Tensor, vote: bool) -> Tensor:
    batch, output_dim, size = maps.shape
    num_bins, num_rois = counts.shape
    image, pixel = split_index(index, batch, size // num_bins)
    table = maps.new_empty(len(pixel), output_dim)
    if batch > 1:
        table = maps[image, :, pixel]
    elif len(pixel):
        cv2.transpose(maps[0].index_select(1, pixel).numpy(), table.numpy())
    rows = torch.arange(len(table), dtype=torch.int32)
    out = F.embedding_bag(rows, table, first_of(counts), mode='sum').view(num_bins, num_rois, output_dim)
    out *= weight[:, :, None]
    return out.mean(0) if vote else out.transpose(0, 1).contiguous()


def _pool_whole_maps(maps: Tensor, index: Tensor, weight: Tensor, counts: Tensor, vote: bool) -> Tensor:
    batch, output_dim, size = maps.shape
    num_bins, num_rois = counts.shape
    area = size // num_bins
    table = maps.new_empty(BINS_AT_A_TIME * batch * area, output_dim)
    out = maps.new_zeros(num_rois, output_dim) if vote else maps.new_empty(num_rois, num_bins, output_dim)
    done = 0
    for first in range(0, num_bins, BINS_AT_A_TIME):
        group = slice(first, min(num_bins, first + BINS_AT_A_TIME))
        _transpose_bins(maps, table, group, area)
        num_pixels = int(counts[group].sum())
        pixels = index[done : done + num_pixels] - first * batch * area
        done += num_pixels
        sums = torch.embedding_bag(table, pixels, first_of(counts[group]))[0].view(-1, num_rois, output_dim)
        if vote:
            out += sums.mul_(weight[group, :, None]).sum(0)
        else:
            torch.mul(sums, weight[group, :, None], out=out[:, group].transpose(0, 1))
    return out.div_(num_bins) if vote else out


def _spread_to_used_pixels(
    grad_bins: Tensor, index: Tensor, weight: Tensor, counts: Tensor, shape: torch.Size
) -> Tensor:
    batch, _, height, width = shape
    num_bins, num_rois = counts.shape
    output_dim = grad_bins.shape[-1]
    values = (grad_bins * weight[:, :, None]).reshape(-1, output_dim)
    source = torch.arange(num_bins * num_rois, dtype=torch.int32).repeat_interleave(counts.view(-1))
    pixels, order = index.sort()
    pixels, repeats = pixels.unique_consecutive(return_counts=True)
    sums = F.embedding_bag(source.index_select(0, order), values, first_of(repeats), mode='sum')
    out = grad_bins.new_zeros(batch, output_dim, num_bins * height * width)
    image, pixel = split_index(pixels, batch, height * width)
    if batch == 1:
        out[0][:, pixel] = sums.t()
    else:
        out[image, :, pixel] = sums
    return out.view(shape)


def _spread_to_whole_maps(
    grad_bins: Tensor, index: Tensor, weight: Tensor, counts: Tensor, shape: torch.Size
) -> Tensor:
    batch, _, height, width = shape
    num_bins = len(counts)
    output_dim = grad_bins.shape[-1]
    source, starts, lengths = group_by_pixel(index, counts, batch * height * width)
    out = grad_bins.new_empty(batch, output_dim, num_bins * height * width)
    for first, rois in zip(range(0, num_bins, BINS_AT_A_TIME), source.split(lengths), strict=True):
        group = slice(first, min(num_bins, first + BINS_AT_A_TIME))
        values = (grad_bins if len(grad_bins) == 1 else grad_bins[group]) * weight[group, :, None]
        table = torch.embedding_bag(values.reshape(-1, output_dim), rois, starts[group].view(-1))[0]
        _transpose_bins(out, table, group, height * width, back=True)
    return out.view(shape)


def _transpose_bins(maps: Tensor, table: Tensor, group: slice, area: int, back: bool = False) -> None:
    """Copy some bins of the maps to channels-last, or back. OpenCV takes less than half of torch's time.

    Args:
        maps: (B, C, k * k * area).
        table: (bins * B * area, C).
        group: The bins.
        area: H * W.
        back: Copy from the table to the maps.
    """
    batch = len(maps)
    planes = maps.numpy()
    rows = table.numpy()
    step = group.stop - group.start if batch == 1 else 1
    for block, first in enumerate(range(group.start, group.stop, step)):
        for image in range(batch):
            plane = planes[image, :, first * area : (first + step) * area]
            row = rows[(block * batch + image) * area :][: step * area]
            if back:
                cv2.transpose(row, plane)
            else:
                cv2.transpose(plane, row)


def first_of(counts: Tensor) -> Tensor:
    """Return where the entries of each bag begin, int32, given their counts."""
    counts = counts.reshape(-1)
    return (counts.cumsum(0) - counts).int()


def split_index(index: Tensor, batch: int, area: int) -> tuple[Tensor, Tensor]:
    """Split indices into maps (k * k, B, H, W) into image and pixel of that image's maps (k * k, H, W)."""
    bins = index // (batch * area)
    return index // area - bins * batch, index % area + bins * area


def pixels_of_bins(image: Tensor, edges: BinEdges, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """List every pixel of every bin, bin by bin.

    Args:
        image: (N,), image index of the RoIs.
        edges: Pixels of the bins.
        shape: (B, C * k * k, H, W).

    Returns:
        Indices (nnz,) into maps (k * k, B, H, W), int32, and their number in every bin (k * k, N), int64.
    """
    batch, _, map_height, map_width = shape
    images, top, bottom, left, right = (
        np.ascontiguousarray(values.numpy().T, np.int32) for values in (image, *edges)
    )
    k, num_rois = top.shape
    num_bins = k * k
    first = ((images * map_height + top)[:, None] * map_width + left).reshape(num_bins, num_rois)
    first += np.arange(num_bins, dtype=np.int32)[:, None] * np.int32(batch * map_height * map_width)
    first = first.reshape(-1)
    height, width = np.broadcast_arrays((bottom - top)[:, None], right - left)
    height, width = height.reshape(-1), width.reshape(-1)
    counts = height.astype(np.int64) * width
    filled = counts > 0
    if not filled.all():
        first, height, width = first[filled], height[filled], width[filled]
    # the cumulative sum of steps: 1 within a row, to the next row of the bin, and to the next bin
    index = np.ones(counts.sum(), np.int32)
    if len(index):
        row_lengths = np.repeat(width, height)
        index[row_lengths.cumsum(dtype=np.int64)[:-1]] = (map_width + 1) - row_lengths[:-1]
        last = first + (height - 1) * map_width + width - 1
        index[(height.astype(np.int64) * width).cumsum()[:-1]] = first[1:] - last[:-1]
        index[0] = first[0]
        np.cumsum(index, out=index)
    return torch.from_numpy(index), torch.from_numpy(counts.reshape(num_bins, num_rois))


def group_by_pixel(index: Tensor, counts: Tensor, num_pixels: int) -> tuple[Tensor, Tensor, list[int]]:
    """Order the pairs of RoI and pixel that :func:`pixels_of_bins` lists by pixel.

    Args:
        index: (nnz,), from :func:`pixels_of_bins`.
        counts: (k * k, N), from :func:`pixels_of_bins`.
        num_pixels: B * H * W.

    Returns:
        RoIs (nnz,), counted through each group of ``BINS_AT_A_TIME`` bins; first entry of every pixel within
        its group (k * k, num_pixels), both int32; number of entries of each group.
    """
    num_bins, num_rois = counts.shape
    row_starts = np.zeros(counts.numel() + 1, np.int32)
    np.cumsum(counts.numpy().reshape(-1), out=row_starts[1:])
    # SciPy turns a row-wise matrix into a column-wise one by counting, without comparisons
    ones = np.empty(len(index), np.int8)
    pairs = csr_array(
        (ones, index.numpy(), row_starts), shape=(num_bins * num_rois, num_bins * num_pixels)
    ).tocsc()
    first = pairs.indptr[:-1].reshape(num_bins, num_pixels)
    source = pairs.indices
    group_starts = pairs.indptr[: -1 : BINS_AT_A_TIME * num_pixels]
    lengths = np.diff(group_starts, append=len(source))
    source -= np.repeat(np.arange(0, num_bins, BINS_AT_A_TIME, dtype=np.int32) * np.int32(num_rois), lengths)
    first -= np.repeat(group_starts, BINS_AT_A_TIME)[:num_bins, None]
    return torch.from_numpy(source), torch.from_numpy(first), lengths.tolist()
