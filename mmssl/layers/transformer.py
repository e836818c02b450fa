"""The pre-norm transformer block of ViT and its variants, under the parameter names of mmpretrain."""

import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.layers.drop_path import DropPath, drop_path, drop_path_rows
from mmssl.layers.feed_forward import FeedForward, LayerScale, feed_forward, layer_scale
from mmssl.layers.rope import rotate
from mmssl.ops.attention import attention

torch.fx.wrap('attention')  # nodes of a graph of torch.fx: their steps depend on shapes and devices


class Attention(nn.Module):
    """Multi-head self-attention with one projection for q, k and v.

    Args:
        embed_dims: Width C.
        num_heads: Number of heads, a divisor of C.
        qkv_bias: Whether the projection has a bias; 'qv_bias' for one of queries and values only
            (``q_bias`` and ``v_bias``).
        attn_drop_rate: Dropout rate of the attention weights.
        drop_rate: Dropout rate of the output.
        layer_scale_init_value: Initial value of the output's layer scale ``gamma1``; 0 for none.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        qkv_bias: bool | str = True,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
        layer_scale_init_value: float = 0.0,
    ):
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims {embed_dims} does not divide into {num_heads} heads')
        if qkv_bias not in (True, False, 'qv_bias'):
            raise ValueError(f"qkv_bias={qkv_bias!r} is unknown; one of True, False, 'qv_bias'")
        self.num_heads = num_heads
        self.attn_drop_rate = attn_drop_rate
        self.drop_rate = drop_rate
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=qkv_bias is True)
        self.qv_bias = qkv_bias == 'qv_bias'
        if self.qv_bias:
            self.q_bias = nn.Parameter(torch.zeros(embed_dims))
            self.v_bias = nn.Parameter(torch.zeros(embed_dims))
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.gamma1 = layer_scale(embed_dims, layer_scale_init_value)

    def forward(
        self, x: Tensor, first_query: int = 0, rope: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Attend from ``x[:, first_query:]`` to all of ``x``.

        Args:
            x: (B, L, C).
            first_query: Index of the first query. Earlier tokens are only keys and values, and their own
                output is not computed.
            rope: (2, N, C / heads), rotations of the last N tokens, see :mod:`mmssl.layers.rope`.
            rows: (T,), indices of the queries, among all B * (L - first_query), whose output is computed;
                None for all.

        Returns:
            (B, L - first_query, C), or (T, C).
        """
        query, key, value = self.project(x, first_query, rope)
        out = attention(query, key, value, dropout_p=self.attn_drop_rate if self.training else 0.0)
        out = out.transpose(1, 2).flatten(2)
        if rows is not None:
            out = out.flatten(0, 1).index_select(0, rows)
        out = self.gamma1(self.proj(out))
        return F.dropout(out, self.drop_rate, self.training) if self.drop_rate else out

    def project(
        self, x: Tensor, first_query: int = 0, rope: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries (B, heads, L - first_query, C / heads), keys and values (B, heads, L, C / heads)."""
        if rope is not None:
            query, key, value = self._project(x, 0)
            return rotate(query, rope)[:, :, first_query:], rotate(key, rope), value
        return self._project(x, first_query)

    def _project(self, x: Tensor, first_query: int) -> tuple[Tensor, Tensor, Tensor]:
        # a layer that replaces qkv, such as LoRA's, has to compute the whole projection
        if first_query == 0 or self.qv_bias or type(self.qkv) is not nn.Linear:
            qkv = self.qkv(x)
            if self.qv_bias:
                qkv = qkv + torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]).to(qkv.dtype)
            query, key, value = self._heads(qkv, 3)
            return query[:, :, first_query:], key, value
        width = x.shape[-1]
        weight = self.qkv.weight
        bias_q, bias_kv = (None, None) if self.qkv.bias is None else self.qkv.bias.tensor_split([width])
        (query,) = self._heads(F.linear(x[:, first_query:], weight[:width], bias_q), 1)
        key, value = self._heads(F.linear(x, weight[width:], bias_kv), 2)
        return query, key, value

    def _heads(self, tokens: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (B, L, parts * C) into ``parts`` tensors (B, heads, L, C / heads)."""
        return tokens.unflatten(2, (parts, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class TransformerBlock(nn.Module):
    """``x + attn(ln1(x))``, then ``x + ffn(ln2(x))`` (arXiv:2010.11929, equations 2 and 3).

    Args:
        embed_dims: Width C.
        num_heads: Number of heads.
        feedforward_channels: Hidden width of the feed-forward network.
        qkv_bias: Whether the projection to q, k and v has a bias, or 'qv_bias', see :class:`Attention`.
        drop_rate: Dropout rate of the outputs.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Stochastic depth of both branches.
        eps: Epsilon of the layer norms.
        layer_scale_init_value: Initial value of the layer scale of both branches; 0 for none.
        ffn_type: 'origin', 'swiglu' or 'swiglu_fused', see :func:`feed_forward`.
    """

    # mmpretrain's TransformerEncoderLayer has no first_query, and is missing where only mmdet or mmseg is
    # installed

    def __init__(  # noqa: PLR0913
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        qkv_bias: bool | str = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        eps: float = 1e-6,
        layer_scale_init_value: float = 0.0,
        ffn_type: str = 'origin',
    ):
        super().__init__()
        self.drop_path = DropPath(drop_path_rate)
        self.ln1 = nn.LayerNorm(embed_dims, eps=eps)
        self.attn = Attention(
            embed_dims, num_heads, qkv_bias, attn_drop_rate, drop_rate, layer_scale_init_value
        )
        self.ln2 = nn.LayerNorm(embed_dims, eps=eps)
        self.ffn = feed_forward(ffn_type, embed_dims, feedforward_channels, drop_rate, layer_scale_init_value)

    def forward(
        self, x: Tensor, first_query: int = 0, rope: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Transform tokens.

        Args:
            x: (B, L, C).
            first_query: Index of the first token to transform; earlier ones are only attended to.
            rope: (2, N, C / heads), rotations of the last N tokens, see :mod:`mmssl.layers.rope`.
            rows: (T,), indices of the tokens to transform, among all B * L; None for all. Not with
                ``first_query``.

        Returns:
            (B, L - first_query, C), or (T, C).
        """
        if rows is not None:
            return self._transform_rows(x, rope, rows)
        x = x[:, first_query:] + self.drop_path(self.attn(self.ln1(x), first_query, rope))
        return x + self.drop_path(self.ffn(self.ln2(x)))

    def _transform_rows(self, x: Tensor, rope: Tensor | None, rows: Tensor) -> Tensor:
        """Transform some tokens only; all rows of an image share its stochastic depth."""
        images, image = x.shape[0], rows // x.shape[1]
        attended = self.attn(self.ln1(x), 0, rope, rows)
        x = x.flatten(0, 1).index_select(0, rows)
        x = x + drop_path_rows(attended, self.drop_path, images, image)
        return x + drop_path_rows(self.ffn(self.ln2(x)), self.drop_path, images, image)


def init_linear_xavier(module: nn.Module) -> None:
    """Initialise linear layers Xavier-uniform with zero biases, and norms as 1 (MAE's released code).

    For ``Module.apply``.
    """
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif isinstance(module, LayerScale):
        nn.init.constant_(module.weight, module.init_value)
    elif isinstance(module, Attention) and module.qv_bias:
        nn.init.zeros_(module.q_bias)
        nn.init.zeros_(module.v_bias)


def norm_eps(norm_cfg: dict | None) -> float:
    """Return the epsilon of an OpenMMLab ``norm_cfg``, such as ``dict(type='LN', eps=1e-6)``.

    Raises:
        ValueError: The type is not 'LN', or there are other keys.
    """
    norm_cfg = dict(norm_cfg or {})
    if norm_cfg.pop('type', 'LN') != 'LN':
        raise ValueError(f"norm_cfg {norm_cfg!r}: a ViT has layer norms; use dict(type='LN', eps=1e-6)")
    eps = norm_cfg.pop('eps', 1e-6)
    if norm_cfg:
        raise ValueError(f"norm_cfg has unknown keys {sorted(norm_cfg)}; only type='LN' and eps are used")
    return float(eps)


__all__ = ['Attention', 'FeedForward', 'TransformerBlock', 'drop_path', 'init_linear_xavier', 'norm_eps']
