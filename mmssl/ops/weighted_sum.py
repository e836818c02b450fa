"""Weighted sums of rows of a table: the step in which every operator samples a map at computed positions."""

import torch.nn.functional as F
from torch import Tensor

from mmssl.ops.switch import cpu, exporting_onnx, fast_form


@fast_form('mmssl.ops.fast.weighted_sum:weighted_sum', when=cpu)
def weighted_sum(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """sum_s weight[m, s] * table[index[m, s]], with gradients for the table and the weights.

    Args:
        table: (R, D), float32 or float64.
        index: (M, S), integers below R.
        weight: (M, S), of the table's data type.

    Returns:
        (M, D).
    """
    if exporting_onnx():  # which has embedding_bag only as a loop over the rows
        return (weight[:, None] @ table[index])[:, 0]
    return F.embedding_bag(index, table, mode='sum', per_sample_weights=weight)
