"""Feed-forward networks of transformer blocks, and the layer scale of their outputs."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerScale(nn.Module):
    """A factor for each channel (arXiv:2103.17239, section 2).

    Args:
        embed_dims: Width C.
        init_value: Initial value of the factors.
    """

    def __init__(self, embed_dims: int, init_value: float):
        super().__init__()
        self.init_value = init_value
        self.weight = nn.Parameter(torch.full((embed_dims,), float(init_value)))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels of tokens (B, L, C)."""
        return x * self.weight


def layer_scale(embed_dims: int, init_value: float) -> nn.Module:
    """Return a layer scale; the identity if ``init_value`` is 0."""
    return LayerScale(embed_dims, init_value) if init_value else nn.Identity()


class FeedForward(nn.Module):
    """Linear, GELU, linear; ``layers.0.0`` and ``layers.1`` are the names of mmcv's FFN.

    Args:
        embed_dims: Width C.
        feedforward_channels: Hidden width.
        drop_rate: Dropout rate after both layers.
        layer_scale_init_value: Initial value of the output's layer scale ``gamma2``; 0 for none.
    """

    def __init__(
        self,
        embed_dims: int,
        feedforward_channels: int,
        drop_rate: float = 0.0,
        layer_scale_init_value: float = 0.0,
    ):
        super().__init__()
        self.drop_rate = drop_rate
        self.layers = nn.Sequential(
            nn.Sequential(nn.Linear(embed_dims, feedforward_channels)),
            nn.Linear(feedforward_channels, embed_dims),
        )
        self.gamma2 = layer_scale(embed_dims, layer_scale_init_value)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens (B, L, C)."""
        hidden = F.gelu(self.layers[0](x))
        if self.drop_rate:
            hidden = F.dropout(hidden, self.drop_rate, self.training)
        out = self.gamma2(self.layers[1](hidden))
        return F.dropout(out, self.drop_rate, self.training) if self.drop_rate else out


class SwiGLU(nn.Module):
    """``w3(silu(x w1) * (x w2))`` (arXiv:2002.05202, equation 6), under mmpretrain's names.

    Args:
        embed_dims: Width C.
        feedforward_channels: Hidden width.
        drop_rate: Dropout rate of the output.
        layer_scale_init_value: Initial value of the output's layer scale ``gamma2``; 0 for none.
    """

    def __init__(
        self,
        embed_dims: int,
        feedforward_channels: int,
        drop_rate: float = 0.0,
        layer_scale_init_value: float = 0.0,
    ):
        super().__init__()
        self.drop_rate = drop_rate
        self.w12 = nn.Linear(embed_dims, 2 * feedforward_channels)
        self.w3 = nn.Linear(feedforward_channels, embed_dims)
        self.gamma2 = layer_scale(embed_dims, layer_scale_init_value)

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens (B, L, C)."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        out = self.gamma2(self.w3(F.silu(gate) * value))
        return F.dropout(out, self.drop_rate, self.training) if self.drop_rate else out


def _fused_width(feedforward_channels: int) -> int:
    """Two thirds of a width, rounded up to a multiple of 8: as many weights as two layers of that width."""
    return -(-int(feedforward_channels * 2 / 3) // 8) * 8


def feed_forward(
    ffn_type: str, embed_dims: int, feedforward_channels: int, drop_rate: float, layer_scale_init_value: float
) -> nn.Module:
    """Build the feed-forward network of a block.

    Args:
        ffn_type: 'origin' (two layers and GELU), 'swiglu' with the hidden width as it is given, or
            'swiglu_fused' with two thirds of it, as in DINOv2's giant model and mmpretrain.
        embed_dims: Width C.
        feedforward_channels: Hidden width.
        drop_rate: Dropout rate.
        layer_scale_init_value: Initial value of the layer scale; 0 for none.

    Raises:
        ValueError: The type is unknown.
    """
    if ffn_type == 'origin':
        return FeedForward(embed_dims, feedforward_channels, drop_rate, layer_scale_init_value)
    if ffn_type not in ('swiglu', 'swiglu_fused'):
        raise ValueError(f"ffn_type={ffn_type!r} is unknown; one of 'origin', 'swiglu', 'swiglu_fused'")
    width = feedforward_channels if ffn_type == 'swiglu' else _fused_width(feedforward_channels)
    return SwiGLU(embed_dims, width, drop_rate, layer_scale_init_value)
