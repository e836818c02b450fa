"""Weighted sums of rows of a table: the one memory-bound step of every operator that samples a map at computed places.

``embedding_bag`` is that sum, and fast forward. Its backward pass adds row by row; here the pairs of output
and row are sorted by row instead, and the gradient of the table is a weighted sum again, of rows of the
output's gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmssl.ops.dispatch import checks_values


def compute_type(*tensors: Tensor) -> torch.dtype:
    """float64 where any tensor has it, else float32: half types are stored, not computed in."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def ragged_gather(table: Tensor, index: Tensor, weight: Tensor, counts: Tensor) -> Tensor:
    """Weighted sums of rows, ``counts[m]`` pairs of index and weight for output m.

    Args:
        table: (R, D).
        index, weight: (nnz,).
        counts: (M,), summing to nnz.

    Returns:
        (M, D).
    """
    first = (counts.cumsum(0) - counts).to(index.dtype)
    return F.embedding_bag(index, table, first, mode='sum', per_sample_weights=weight)


def scatter_rows(rows: int, index: Tensor, source: Tensor, weight: Tensor, values: Tensor) -> Tensor:
    """The transposed sum: sum of weight * values[source] in every row of ``index``.

    Args:
        rows: R of the result.
        index, source, weight: (nnz,), rows of the result and of ``values``.
        values: (M, D).

    Returns:
        (R, D).
    """
    order = index.sort()[1]
    return ragged_gather(
        values,
        source.index_select(0, order),
        weight.index_select(0, order),
        torch.bincount(index, minlength=rows),
    )


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, table, index, weight):
        ctx.save_for_backward(table, index, weight)
        return F.embedding_bag(index, table, mode='sum', per_sample_weights=weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        table, index, weight = ctx.saved_tensors
        grad = grad.contiguous()
        for_table = for_weight = None
        bags, size = index.shape
        if ctx.needs_input_grad[0]:
            order = torch.arange(index.numel(), dtype=index.dtype)
            for_table = scatter_rows(
                len(table),
                index.reshape(-1),
                order.div_(size, rounding_mode='floor'),
                weight.reshape(-1),
                grad,
            )
        if ctx.needs_input_grad[2]:
            for_weight = row_products(grad, table, index)
        return for_table, None, for_weight


def row_products(left: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """<left[m], table[index[m, s]]>, (M, S), of left (M, D) and table (R, D)."""
    if table.shape[1] == 1:
        return table[:, 0][index] * left
    bag = torch.arange(len(index), dtype=index.dtype).repeat_interleave(index.shape[1])
    first = torch.arange(0, index.numel(), index.shape[1], dtype=index.dtype)
    return torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left, table, index.reshape(-1), first, bag, 0
    ).view(index.shape)


def weighted_gather(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """sum_s weight[m, s] * table[index[m, s]], with gradients to the table and the weights.

    Args:
        table: (R, D), float32 or float64.
        index: (M, S), integers below R.
        weight: (M, S), of the table's type.

    Returns:
        (M, D).
    """
    if checks_values(table):
        return _Gather.apply(table, index, weight)
    return F.embedding_bag(index, table, mode='sum', per_sample_weights=weight)
