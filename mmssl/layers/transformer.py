"""The pre-norm transformer block of ViT, under the parameter names of mmpretrain's VisionTransformer."""

import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.ops.attention import attention


def drop_path(branch: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth (arXiv:1603.09382): drop whole samples of a residual branch.

    Args:
        branch: (B, ...), the branch before it is added.
        rate: probability that a sample loses the branch, in [0, 1).
        training: nothing is dropped outside training.

    Returns:
        (B, ...), survivors scaled by 1 / (1 - rate).
    """
    if not training or rate == 0:
        return branch
    keep = 1 - rate
    survives = branch.new_empty((branch.shape[0],) + (1,) * (branch.ndim - 1)).bernoulli_(keep)
    return branch * (survives / keep)


class Attention(nn.Module):
    """Multi-head self-attention with one projection for q, k and v.

    Args:
        embed_dims: width C.
        num_heads: heads; C must divide by it.
        qkv_bias: whether the projection has a bias.
        attn_drop_rate, drop_rate: dropout of the attention weights and of the output.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        qkv_bias: bool = True,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims {embed_dims} does not divide into {num_heads} heads')
        self.num_heads = num_heads
        self.attn_drop_rate = attn_drop_rate
        self.drop_rate = drop_rate
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def _heads(self, tokens: Tensor, parts: int) -> tuple[Tensor, ...]:
        batch, length, width = tokens.shape
        return (
            tokens.view(batch, length, parts, self.num_heads, width // parts // self.num_heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )

    def forward(self, x: Tensor, first_query: int = 0) -> Tensor:
        """Attend from ``x[:, first_query:]`` to all of ``x``.

        Args:
            x: (B, L, C).
            first_query: tokens before it are keys and values only; their own output is not computed.

        Returns:
            (B, L - first_query, C).
        """
        if first_query and type(self.qkv) is nn.Linear:
            width = x.shape[-1]
            bias = self.qkv.bias
            (query,) = self._heads(
                F.linear(x[:, first_query:], self.qkv.weight[:width], None if bias is None else bias[:width]), 1
            )
            key, value = self._heads(
                F.linear(x, self.qkv.weight[width:], None if bias is None else bias[width:]), 2
            )
        else:  # also where qkv was replaced, by LoRA for one: then only its own forward knows the product
            query, key, value = self._heads(self.qkv(x), 3)
            query = query[:, :, first_query:]
        out = attention(query, key, value, dropout_p=self.attn_drop_rate if self.training else 0.0)
        out = self.proj(out.transpose(1, 2).flatten(2))
        return F.dropout(out, self.drop_rate, self.training) if self.drop_rate else out


class FeedForward(nn.Module):
    """Linear, GELU, Linear. ``layers.0.0`` and ``layers.1`` are the names of mmcv's FFN."""

    def __init__(self, embed_dims: int, feedforward_channels: int, drop_rate: float = 0.0):
        super().__init__()
        self.drop_rate = drop_rate
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(embed_dims, feedforward_channels)), nn.Linear(feedforward_channels, embed_dims)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, C) to (B, L, C)."""
        hidden = F.gelu(self.layers[0](x))
        if self.drop_rate:
            hidden = F.dropout(hidden, self.drop_rate, self.training)
        out = self.layers[1](hidden)
        return F.dropout(out, self.drop_rate, self.training) if self.drop_rate else out


class TransformerBlock(nn.Module):
    """``x + attn(ln1(x))``, then ``x + ffn(ln2(x))`` (arXiv:2010.11929, equations 2 and 3).

    Our own and not mmpretrain's TransformerEncoderLayer, because the last decoder block of MAE is run for the
    masked tokens only, and because backbones must work where mmpretrain is not installed (mmdet, mmseg).

    Args:
        embed_dims, num_heads, feedforward_channels: sizes.
        qkv_bias, drop_rate, attn_drop_rate: as in :class:`Attention`.
        drop_path_rate: stochastic depth of both branches.
        eps: of the layer norms.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        eps: float = 1e-6,
    ):
        super().__init__()
        self.drop_path_rate = float(drop_path_rate)
        self.ln1 = nn.LayerNorm(embed_dims, eps=eps)
        self.attn = Attention(embed_dims, num_heads, qkv_bias, attn_drop_rate, drop_rate)
        self.ln2 = nn.LayerNorm(embed_dims, eps=eps)
        self.ffn = FeedForward(embed_dims, feedforward_channels, drop_rate)

    def forward(self, x: Tensor, first_query: int = 0) -> Tensor:
        """(B, L, C) to (B, L - first_query, C); earlier tokens serve as keys and values only."""
        attended = drop_path(self.attn(self.ln1(x), first_query), self.drop_path_rate, self.training)
        x = (x[:, first_query:] if first_query else x) + attended
        return x + drop_path(self.ffn(self.ln2(x)), self.drop_path_rate, self.training)


def init_linear_xavier(module: nn.Module) -> None:
    """Xavier-uniform linear weights, zero biases, unit layer norms (MAE's released recipe); for ``Module.apply``."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)


def norm_eps(norm_cfg: dict | None) -> float:
    """The ``eps`` of a host-style ``norm_cfg=dict(type='LN', eps=...)``; only layer norm is a transformer's norm here.

    Raises:
        ValueError: another type than 'LN'.
    """
    norm_cfg = dict(norm_cfg or {})
    if norm_cfg.pop('type', 'LN') != 'LN':
        raise ValueError(f"norm_cfg {norm_cfg!r}: a ViT has layer norms; give dict(type='LN', eps=1e-6)")
    eps = norm_cfg.pop('eps', 1e-6)
    if norm_cfg:
        raise ValueError(f"norm_cfg has unknown keys {sorted(norm_cfg)}; only type='LN' and eps are used")
    return float(eps)


__all__ = ['Attention', 'FeedForward', 'TransformerBlock', 'drop_path', 'init_linear_xavier', 'norm_eps']
