"""Attention written out for training on the CPU, where torch's fused kernel has a slow backward pass.

For short sequences in float32, and for most in bfloat16, two batched products and a softmax are several times
faster.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# largest number of keys for which the explicit form is faster in float32, forward and backward, on CPUs with
# AVX-512 (tools/benchmarks/mae_step.py)
MAX_KEYS = 128
# for more keys, the attention weights that the explicit form keeps for the backward pass take too much memory
MAX_KEYS_BFLOAT16 = 320


def attention(query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0) -> Tensor:
    """:func:`mmssl.ops.attention.attention` for few keys."""
    if key.shape[-2] > (MAX_KEYS_BFLOAT16 if query.dtype == torch.bfloat16 else MAX_KEYS):
        return NotImplemented
    return biased_attention(query, key, value, None, dropout_p)


def biased_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout_p: float = 0.0
) -> Tensor:
    """:func:`mmssl.ops.attention.biased_attention` for any number of keys.

    torch has no fused kernel for the CPU that gives the gradient of the bias.
    """
    with torch.autocast('cpu', enabled=False):
        scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
        if bias is not None:
            scores = scores.add_(bias.to(query.dtype))
        weights = scores.softmax(dim=-1)
        return (F.dropout(weights, dropout_p) if dropout_p else weights) @ value
