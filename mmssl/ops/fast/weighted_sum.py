"""Weighted sums of rows with a fast backward pass on the CPU.

The backward pass of ``embedding_bag`` adds row by row. Here the pairs of output and row are sorted by row
instead, so that the gradient of the table is a weighted sum of rows again.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmssl.ops.precision import no_autocast_backward


def weighted_sum(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """:func:`mmssl.ops.weighted_sum.weighted_sum` on the CPU."""
    return _WeightedSum.apply(table, index, weight)


class _WeightedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, index, weight):
        ctx.save_for_backward(table, index, weight)
        return F.embedding_bag(index, table, mode='sum', per_sample_weights=weight)

    @staticmethod
    @once_differentiable
    @no_autocast_backward
    def backward(ctx, grad_output):
        table, index, weight = ctx.saved_tensors
        grad_output = grad_output.contiguous()
        grad_table = grad_weight = None
        if ctx.needs_input_grad[0]:
            pairs = torch.arange(index.numel(), dtype=index.dtype)
            output_row = pairs.div_(index.shape[1], rounding_mode='floor')
            grad_table = scatter_rows(
                grad_output, output_row, index.reshape(-1), weight.reshape(-1), len(table)
            )
        if ctx.needs_input_grad[2]:
            grad_weight = row_products(grad_output, table, index)
        return grad_table, None, grad_weight


def ragged_sum(table: Tensor, index: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Sum weighted rows, a different number of them for each output.

    Args:
        table: (R, D).
        index: (nnz,), rows of the table.
        weight: (nnz,).
        counts: (M,), number of rows summed for each output; they sum to nnz.

    Returns:
        (M, D).
    """
    first = (counts.cumsum(0) - counts).to(index.dtype)
    return F.embedding_bag(index, table, first, mode='sum', per_sample_weights=weight)


def scatter_rows(values: Tensor, source: Tensor, target: Tensor, weight: Tensor, num_rows: int) -> Tensor:
    """Add weight * values[source] to the rows ``target`` of zeros; the transpose of a weighted sum.

    Args:
        values: (M, D).
        source: (nnz,), rows of ``values``.
        target: (nnz,), rows of the result.
        weight: (nnz,).
        num_rows: Number of rows of the result.

    Returns:
        (num_rows, D).
    """
    order = target.sort()[1]
    counts = torch.bincount(target, minlength=num_rows)
    return ragged_sum(values, source.index_select(0, order), weight.index_select(0, order), counts)


def row_products(left: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """<left[m], table[index[m, s]]>, (M, S), of left (M, D) and table (R, D)."""
    if table.shape[1] == 1:
        return table[:, 0][index] * left
    bag = torch.arange(len(index), dtype=index.dtype).repeat_interleave(index.shape[1])
    first = torch.arange(0, index.numel(), index.shape[1], dtype=index.dtype)
    backward = torch.ops.aten._embedding_bag_per_sample_weights_backward
    return backward(left, table, index.reshape(-1), first, bag, 0).view(index.shape)
