"""Weighted sums of rows of a table: the one memory-bound step of every operator that samples a map at computed places."""

import torch
import torch.nn.functional as F
from torch import Tensor


def compute_type(*tensors: Tensor) -> torch.dtype:
    """float64 where any tensor has it, else float32: half types are stored, not computed in."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


def weighted_gather(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """sum_s weight[m, s] * table[index[m, s]], with gradients to the table and the weights.

    Args:
        table: (R, D), float32 or float64.
        index: (M, S), integers below R.
        weight: (M, S), of the table's type.

    Returns:
        (M, D).
    """
    return F.embedding_bag(index, table, mode='sum', per_sample_weights=weight)
