"""Scaled dot-product attention (Vaswani et al., NeurIPS 2017, arXiv:1706.03762, equation 1)."""

import torch.nn.functional as F
from torch import Tensor

from mmssl.ops.switch import cpu_training, fast_form


@fast_form('mmssl.ops.fast.attention:attention', when=cpu_training)
def attention(query: Tensor, key: Tensor, value: Tensor, dropout_p: float = 0.0) -> Tensor:
    """softmax(q k' / sqrt(D)) v, as ``torch.nn.functional.scaled_dot_product_attention``.

    Args:
        query: (B, heads, L, D).
        key: (B, heads, S, D).
        value: (B, heads, S, D).
        dropout_p: Dropout rate of the attention weights.

    Returns:
        (B, heads, L, D).
    """
    return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout_p)


@fast_form('mmssl.ops.fast.attention:biased_attention', when=cpu_training)
def biased_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout_p: float = 0.0
) -> Tensor:
    """softmax(q k' / sqrt(D) + bias) v.

    Args:
        query: (B, heads, L, D).
        key: (B, heads, L, D).
        value: (B, heads, L, D).
        bias: (heads, L, L), or None.
        dropout_p: Dropout rate of the attention weights.

    Returns:
        (B, heads, L, D).
    """
    mask = None if bias is None else bias.to(query.dtype)[None]
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout_p)
