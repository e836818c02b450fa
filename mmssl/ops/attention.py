"""Scaled dot-product attention, by the faster of two ways on the CPU."""

import torch
import torch.nn.functional as F
from torch import Tensor

# keys up to which the explicit form is faster in float32, forward and backward, on CPUs with AVX-512
# (tools/benchmarks/mae_step.py)
SHORT = 128
# above it the weights of the explicit form, kept for the backward pass for every head, take too much memory
LONG = 320


def attention(query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0) -> Tensor:
    """softmax(q k' / sqrt(D)) v, as ``torch.nn.functional.scaled_dot_product_attention``.

    torch's fused kernel for the CPU is slow backward: for short sequences in float32 and for most in bfloat16
    two batched products and a softmax are several times faster. Which way is taken depends on device, type
    and length only.

    Args:
        query: (B, heads, L, D).
        key, value: (B, heads, S, D).
        dropout_p: dropout of the attention weights.

    Returns:
        (B, heads, L, D).
    """
    if not (
        query.device.type == 'cpu'
        and torch.is_grad_enabled()
        and query.requires_grad
        and not torch.compiler.is_compiling()
    ):
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p)
    if key.shape[-2] > (LONG if query.dtype == torch.bfloat16 else SHORT):
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p)
    with torch.autocast('cpu', enabled=False):
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)).softmax(dim=-1)
        return (F.dropout(weights, dropout_p) if dropout_p else weights) @ value
