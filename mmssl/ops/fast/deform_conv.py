"""Deformable convolution on the CPU: im2col and matrix product in cache-sized chunks.

The columns are never stored for the whole map; they are computed again in the backward pass.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmssl.ops.fast.weighted_sum import ragged_sum, row_products
from mmssl.ops.precision import no_autocast_backward

# elements of the columns that are processed at a time, 4 MiB in float32
CHUNK = 1 << 20


def sampled_product(
    table: Tensor, index: Tensor, weight: Tensor, kernel: Tensor, size: tuple[int, int], num_taps: int
) -> Tensor:
    """:func:`mmssl.ops.deform_conv.sampled_product` on the CPU."""
    return _SampledProduct.apply(table, index, weight, kernel, size, num_taps)


class _SampledProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, index, weight, kernel, size, num_taps):
        ctx.save_for_backward(table, index, weight, kernel)
        ctx.size = size
        ctx.num_taps = num_taps
        groups, out_group, depth = kernel.shape
        out = table.new_empty(size[0], groups, out_group, size[1])
        for image, positions, rows in _chunks(size, len(index), groups * depth):
            columns = _sample_columns(table, index[rows], weight[rows], kernel, num_taps)
            for group, column in enumerate(columns):
                out[image, group, :, positions] = F.linear(column, kernel[group]).t()
        return out.flatten(1, 2)

    @staticmethod
    @once_differentiable
    @no_autocast_backward
    def backward(ctx, grad_output):
        table, index, weight, kernel = ctx.saved_tensors
        needs_table, _, needs_weight, needs_kernel = ctx.needs_input_grad[:4]
        groups, out_group, depth = kernel.shape
        grad_table = torch.zeros_like(table) if needs_table else None
        grad_weight = torch.empty_like(weight) if needs_weight else None
        grad_kernel = torch.zeros_like(kernel) if needs_kernel else None
        for image, positions, rows in _chunks(ctx.size, len(index), groups * depth):
            grad_out = grad_output[image].unflatten(0, (groups, out_group))[:, :, positions]
            if needs_kernel:
                columns = _sample_columns(table, index[rows], weight[rows], kernel, ctx.num_taps)
                for group, column in enumerate(columns):
                    grad_kernel[group].addmm_(grad_out[group], column)
            if not (needs_table or needs_weight):
                continue
            grad_columns = torch.matmul(grad_out.transpose(1, 2), kernel)
            grad_columns = grad_columns.view(groups, -1, ctx.num_taps, depth // ctx.num_taps)
            grad_samples = grad_columns.permute(1, 2, 0, 3).reshape(-1, table.shape[1])
            if needs_weight:
                grad_weight[rows] = row_products(grad_samples, table, index[rows])
            if needs_table:
                _add_to_table(grad_table, grad_samples, index[rows], weight[rows])
        return grad_table, None, grad_weight, grad_kernel, None, None


def _chunks(size: tuple[int, int], num_rows: int, column_size: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield (image, output positions, rows of the index) of chunks of about ``CHUNK`` elements of columns."""
    batch, num_positions = size
    step = min(max(64, CHUNK // column_size), max(1, num_positions))
    rows_per_position = num_rows // max(1, batch * num_positions)
    for image in range(batch):
        for start in range(0, num_positions, step):
            stop = min(start + step, num_positions)
            first = (image * num_positions + start) * rows_per_position
            last = (image * num_positions + stop) * rows_per_position
            yield image, slice(start, stop), slice(first, last)


def _sample_columns(table: Tensor, index: Tensor, weight: Tensor, kernel: Tensor, num_taps: int) -> Tensor:
    """(groups, positions, K * C / groups) from the rows (positions * K * offset_groups, 4) of the index."""
    groups, _, depth = kernel.shape
    samples = F.embedding_bag(index, table, mode='sum', per_sample_weights=weight)
    samples = samples.view(-1, num_taps, groups, depth // num_taps)
    return samples.permute(2, 0, 1, 3).reshape(groups, -1, depth)


def _add_to_table(table: Tensor, samples: Tensor, index: Tensor, weight: Tensor) -> None:
    """Add the samples to the rows that they interpolate between, in place."""
    source = torch.arange(len(index), dtype=index.dtype).repeat_interleave(index.shape[1])
    rows, order = index.view(-1).sort()
    rows, repeats = rows.unique_consecutive(return_counts=True)
    sums = ragged_sum(samples, source.index_select(0, order), weight.view(-1).index_select(0, order), repeats)
    table.index_add_(0, rows, sums)
