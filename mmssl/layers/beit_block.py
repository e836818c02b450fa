"""The transformer block of BEiT (arXiv:2106.08254), with relative position bias and layer scale."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl.layers.drop_path import DropPath, draw_survivors
from mmssl.layers.relative_position import RelativePositionBias, bias_for_grid
from mmssl.layers.transformer import FeedForward
from mmssl.ops.attention import biased_attention

INIT_STD = 0.02


class BEiTAttention(nn.Module):
    """Self-attention with a relative position bias, and with biases of queries and values but not of keys.

    Args:
        embed_dims: Width C.
        num_heads: Number of heads, a divisor of C.
        grid: (rows, columns) of patches for a relative position bias of this layer; None for none.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_rate: Dropout rate of the output.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        grid: tuple[int, int] | None = None,
        attn_drop_rate: float = 0.0,
        drop_rate: float = 0.0,
    ):
        super().__init__()
        if embed_dims % num_heads:
            raise ValueError(f'embed_dims {embed_dims} does not divide into {num_heads} heads')
        self.num_heads = num_heads
        self.grid = grid
        self.attn_drop_rate = attn_drop_rate
        self.drop_rate = drop_rate
        self.q_bias = nn.Parameter(torch.zeros(embed_dims))
        self.v_bias = nn.Parameter(torch.zeros(embed_dims))
        if grid is not None:
            own = RelativePositionBias(grid, num_heads)
            self.relative_position_bias_table = own.relative_position_bias_table
            self.register_buffer('relative_position_index', own.relative_position_index)
        self.qkv = nn.Linear(embed_dims, 3 * embed_dims, bias=False)
        self.proj = nn.Linear(embed_dims, embed_dims)

    def forward(
        self, x: Tensor, grid: tuple[int, int], bias: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Attend.

        Args:
            x: (B, L, C), class token first.
            grid: (rows, columns) of the other tokens.
            bias: (heads, L, L), shared by the layers.
            rows: (T,), indices of the tokens, among all B * L, whose output is computed; None for all.

        Returns:
            (B, L, C), or (T, C).
        """
        if self.grid is not None:
            table, index = self.relative_position_bias_table, self.relative_position_index
            bias = bias_for_grid(table, index, self.grid, grid)
        qkv_bias = torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        qkv = F.linear(x, self.qkv.weight, qkv_bias)
        query, key, value = qkv.unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        dropout = self.attn_drop_rate if self.training else 0.0
        out = biased_attention(query, key, value, bias, dropout).transpose(1, 2).flatten(2)
        if rows is not None:
            out = out.flatten(0, 1).index_select(0, rows)
        out = self.proj(out)
        return F.dropout(out, self.drop_rate, self.training) if self.drop_rate else out


class BEiTBlock(nn.Module):
    """``x + gamma_1 * attn(ln1(x))``, then ``x + gamma_2 * ffn(ln2(x))``, under mmpretrain's names.

    Args:
        embed_dims: Width C.
        num_heads: Number of heads.
        feedforward_channels: Hidden width of the feed-forward network.
        grid: (rows, columns) of patches for a relative position bias of this layer; None for none.
        layer_scale_init_value: Initial value of gamma_1 and gamma_2; 0 leaves them out.
        drop_rate: Dropout rate of the outputs.
        attn_drop_rate: Dropout rate of the attention weights.
        drop_path_rate: Stochastic depth of both branches.
        eps: Epsilon of the layer norms.
    """

    def __init__(  # noqa: PLR0913
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        grid: tuple[int, int] | None = None,
        layer_scale_init_value: float = 0.1,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        eps: float = 1e-6,
    ):
        super().__init__()
        self.drop_path = DropPath(drop_path_rate)
        self.ln1 = nn.LayerNorm(embed_dims, eps=eps)
        self.attn = BEiTAttention(embed_dims, num_heads, grid, attn_drop_rate, drop_rate)
        self.ln2 = nn.LayerNorm(embed_dims, eps=eps)
        self.ffn = FeedForward(embed_dims, feedforward_channels, drop_rate)
        self.layer_scale_init_value = layer_scale_init_value
        for name in ('gamma_1', 'gamma_2'):
            gamma = None
            if layer_scale_init_value > 0:
                gamma = nn.Parameter(torch.full((embed_dims,), float(layer_scale_init_value)))
            self.register_parameter(name, gamma)

    def forward(
        self, x: Tensor, grid: tuple[int, int], bias: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Transform tokens.

        Args:
            x: (B, L, C), class token first.
            grid: (rows, columns) of the other tokens.
            bias: (heads, L, L), shared by the layers.
            rows: (T,), indices of the tokens, among all B * L, whose output is computed; None for all.

        Returns:
            (B, L, C), or (T, C).
        """
        batch, length, _ = x.shape
        sample = None if rows is None else rows // length
        attended = self.attn(self.ln1(x), grid, bias, rows)
        x = x if rows is None else x.flatten(0, 1).index_select(0, rows)
        x = self._add(x, attended, self.gamma_1, sample, batch)
        return self._add(x, self.ffn(self.ln2(x)), self.gamma_2, sample, batch)

    def _add(
        self, x: Tensor, branch: Tensor, gamma: Tensor | None, sample: Tensor | None, batch: int
    ) -> Tensor:
        """Add a branch with layer scale and stochastic depth; ``sample`` is the image index of each row."""
        scale = gamma
        if self.drop_path.active:
            survivors = draw_survivors(batch, self.drop_path.rate, x)
            survivors = survivors if sample is None else survivors.index_select(0, sample)
            survivors = survivors.view((-1,) + (1,) * (x.ndim - 1))
            scale = survivors if gamma is None else gamma * survivors
        return x + branch if scale is None else torch.addcmul(x, branch.to(x.dtype), scale.to(x.dtype))


def init_truncated(module: nn.Module) -> None:
    """Initialise a module as BEiT's released code does.

    Weights of linear layers and convolutions are drawn from N(0, 0.02), cut at one standard deviation. Biases
    and bias tables are 0, layer norms 1.
    """
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=INIT_STD, a=-INIT_STD, b=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif hasattr(module, 'relative_position_bias_table'):
        nn.init.zeros_(module.relative_position_bias_table)
