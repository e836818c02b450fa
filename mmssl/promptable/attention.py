"""The attention of the mask decoder (Segment Anything, arXiv:2304.02643, appendix A)."""

import torch.nn.functional as F
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention whose queries, keys and values may be projected to fewer channels.

    Args:
        embedding_dim: Number of channels C of the tokens.
        num_heads: Number of heads.
        downsample_rate: C divided by the number of channels after the projection.
    """

    def __init__(self, embedding_dim: int, num_heads: int, downsample_rate: int = 1):
        super().__init__()
        self.embedding_dim = embedding_dim
        self.num_heads = num_heads
        self.internal_dim = embedding_dim // downsample_rate
        if self.internal_dim % num_heads:
            raise ValueError(
                f'{embedding_dim} channels over downsample_rate={downsample_rate} do not divide into '
                f'{num_heads} heads'
            )
        self.q_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.k_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.v_proj = nn.Linear(embedding_dim, self.internal_dim)
        self.out_proj = nn.Linear(self.internal_dim, embedding_dim)

    def separate_heads(self, x: Tensor) -> Tensor:
        """(..., L, heads * d) to (..., heads, L, d)."""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(-3, -2)

    def recombine_heads(self, x: Tensor) -> Tensor:
        """(P, heads, L, d) to (P, L, heads * d)."""
        return x.transpose(1, 2).flatten(2)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_valid: Tensor | None = None) -> Tensor:
        """Attend from Q query tokens to K key tokens.

        Args:
            q: (P, Q, C).
            k: (P, K, C).
            v: (P, K, C).
            key_valid: (P, K) bool, False for padding; None if there is none.

        Returns:
            (P, Q, C).
        """
        q = self.separate_heads(self.q_proj(q))
        k = self.separate_heads(self.k_proj(k))
        v = self.separate_heads(self.v_proj(v))
        mask = None if key_valid is None else key_valid[:, None, None]
        return self.out_proj(self.recombine_heads(F.scaled_dot_product_attention(q, k, v, mask)))
