"""Precision in which the replacements compute."""

import torch
from torch import Tensor


def as_float32(tensor: Tensor) -> Tensor:
    """Return float16 and bfloat16 as float32, other types unchanged."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
