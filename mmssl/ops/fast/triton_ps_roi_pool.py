"""Position-sensitive RoI pooling on CUDA: a Triton program sums the pixels of one bin for a block of classes.

The pixels of a bin are read once, where the plain form writes an integral image of all maps in float64.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmssl.ops.fast.triton_launch import launch, usable
from mmssl.ops.precision import no_autocast_backward
from mmssl.ops.ps_roi_pool import BinEdges

# classes and pixels that a program reads at a time
BLOCK_CLASSES = 32
BLOCK_PIXELS = 16


def pool_bins(features: Tensor, image: Tensor, edges: BinEdges, vote: bool) -> Tensor:
    """:func:`mmssl.ops.ps_roi_pool.pool_bins` on CUDA; an image index outside the batch gives NaN."""
    if not usable(features):
        return NotImplemented
    out = _TritonPSRoIPool.apply(features, image.int(), torch.stack(edges).int())
    return out.mean(1) if vote else out


class _TritonPSRoIPool(torch.autograd.Function):
    """Means of the bins, (N, k * k, C), from edges (4, N, k)."""

    @staticmethod
    def forward(ctx, features, image, edges):
        num_bins = edges.shape[2] ** 2
        out = features.new_empty(len(image), num_bins, features.shape[1] // num_bins)
        ctx.save_for_backward(image, edges)
        ctx.shape = features.shape
        ctx.channels_last = features.is_contiguous(memory_format=torch.channels_last)
        _run(_mean_of_bins, features, image, edges, out)
        return out

    @staticmethod
    @once_differentiable
    @no_autocast_backward
    def backward(ctx, grad_output):
        image, edges = ctx.saved_tensors
        layout = torch.channels_last if ctx.channels_last else torch.contiguous_format
        grad_features = torch.zeros(ctx.shape, dtype=grad_output.dtype, device=grad_output.device).contiguous(
            memory_format=layout
        )
        _run(_spread_over_bins, grad_features, image, edges, grad_output)
        return grad_features, None, None


def _run(kernel, maps: Tensor, image: Tensor, edges: Tensor, values: Tensor) -> None:
    num_rois, num_bins, num_classes = values.shape
    grid = (num_rois * num_bins, triton.cdiv(num_classes, BLOCK_CLASSES))
    launch(
        kernel,
        grid,
        maps,
        image,
        edges,
        values,
        *maps.stride(),
        *values.stride(),
        len(maps),
        num_rois,
        num_classes,
        K=edges.shape[2],
        BLOCK_CLASSES=BLOCK_CLASSES,
        BLOCK_PIXELS=BLOCK_PIXELS,
    )


@triton.jit
def _bin(image, edges, batch, num_rois, K: tl.constexpr):
    """Index of RoI and bin of this program, its image, whether that exists, and its first and last pixels."""
    roi = tl.program_id(0) // (K * K)
    index = tl.program_id(0) % (K * K)
    sample = tl.load(image + roi).to(tl.int64)
    row = edges + roi * K + index // K
    column = edges + roi * K + index % K
    axis = num_rois * K
    top = tl.load(row)
    bottom = tl.load(row + axis)
    left = tl.load(column + 2 * axis)
    right = tl.load(column + 3 * axis)
    return roi, index, sample, (sample >= 0) & (sample < batch), top, bottom, left, right


@triton.jit
def _mean_of_bins(  # noqa: PLR0913
    maps,
    image,
    edges,
    out,
    map_image,
    map_channel,
    map_row,
    map_column,
    out_roi,
    out_bin,
    out_class,
    batch,
    num_rois,
    num_classes,
    K: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    roi, index, sample, in_batch, top, bottom, left, right = _bin(image, edges, batch, num_rois, K)
    classes = tl.program_id(1) * BLOCK_CLASSES + tl.arange(0, BLOCK_CLASSES)
    channels = (classes * (K * K) + index).to(tl.int64)
    first = maps + sample * map_image + channels * map_channel
    width = tl.maximum(right - left, 1)
    area = (bottom - top) * (right - left)
    total = tl.zeros([BLOCK_CLASSES, BLOCK_PIXELS], dtype=maps.dtype.element_ty)
    for start in range(0, area, BLOCK_PIXELS):
        pixels = start + tl.arange(0, BLOCK_PIXELS)
        offset = (top + pixels // width) * map_row + (left + pixels % width) * map_column
        mask = (classes < num_classes)[:, None] & (pixels < area)[None, :] & in_batch
        total += tl.load(first[:, None] + offset[None, :], mask=mask, other=0.0)
    mean = tl.sum(total, 1) / tl.maximum(area, 1)
    target = out + roi.to(tl.int64) * out_roi + index * out_bin + classes * out_class
    tl.store(target, tl.where(in_batch, mean, float('nan')), mask=classes < num_classes)


@triton.jit
def _spread_over_bins(  # noqa: PLR0913
    grad_maps,
    image,
    edges,
    grad_out,
    map_image,
    map_channel,
    map_row,
    map_column,
    out_roi,
    out_bin,
    out_class,
    batch,
    num_rois,
    num_classes,
    K: tl.constexpr,
    BLOCK_CLASSES: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
):
    roi, index, sample, in_batch, top, bottom, left, right = _bin(image, edges, batch, num_rois, K)
    classes = tl.program_id(1) * BLOCK_CLASSES + tl.arange(0, BLOCK_CLASSES)
    channels = (classes * (K * K) + index).to(tl.int64)
    first = grad_maps + sample * map_image + channels * map_channel
    width = tl.maximum(right - left, 1)
    area = (bottom - top) * (right - left)
    source = grad_out + roi.to(tl.int64) * out_roi + index * out_bin + classes * out_class
    grad = tl.load(source, mask=classes < num_classes, other=0.0) / tl.maximum(area, 1)
    grad = tl.broadcast_to(grad[:, None], [BLOCK_CLASSES, BLOCK_PIXELS])
    for start in range(0, area, BLOCK_PIXELS):
        pixels = start + tl.arange(0, BLOCK_PIXELS)
        offset = (top + pixels // width) * map_row + (left + pixels % width) * map_column
        mask = (classes < num_classes)[:, None] & (pixels < area)[None, :] & in_batch
        tl.atomic_add(first[:, None] + offset[None, :], grad, mask=mask, sem='relaxed')
