"""Plain vision transformers in detectors: ViTDet (Li et al., ECCV 2022, arXiv:2203.16527).

Most layers attend inside windows, a few to the whole image, and a simple pyramid is made from the last map
alone. Weights of a pre-trained :class:`mmssl.layers.vit.ViT` load unchanged.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmssl.layers.base_vit import resolve_arch
from mmssl.layers.patch import pair, patch_grid
from mmssl.layers.transformer import Attention, TransformerBlock
from mmssl.layers.vit import ViT
from mmssl.ops.rel_attention import rel_attention, resize_rel_pos, window_attention
from mmssl.registry import MODELS


class GridAttention(Attention):
    """Self-attention on a grid of tokens, inside windows or global, with or without relative positions.

    Args:
        *args: Passed on to :class:`mmssl.layers.transformer.Attention`.
        window_size: Side of the windows in tokens; 0 for global attention.
        rel_pos_size: (rows, columns) for which there are relative positions; None for none.
        **kwargs: Passed on to :class:`mmssl.layers.transformer.Attention`.
    """

    def __init__(self, *args, window_size: int = 0, rel_pos_size: tuple[int, int] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.window_size = window_size
        self.rel_pos_h = self.rel_pos_w = None
        if rel_pos_size is not None:
            channels = self.qkv.in_features // self.num_heads
            self.rel_pos_h, self.rel_pos_w = (
                nn.Parameter(torch.zeros(2 * size - 1, channels)) for size in rel_pos_size
            )
            self.register_load_state_dict_pre_hook(_fit_rel_pos)

    def attend(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Attend: tokens (B, H * W, C) of a grid (H, W) to the same shape."""
        tables = (self.rel_pos_h, self.rel_pos_w)
        if self.window_size:
            # the released code pads with zeros before the projection, which makes them its bias
            qkv = self.qkv(x).unflatten(1, grid)
            out = window_attention(qkv, self.num_heads, self.window_size, *tables, self.qkv.bias).flatten(
                1, 2
            )
        else:
            out = rel_attention(*self.project(x), *tables, grid).transpose(1, 2).flatten(2)
        out = self.gamma1(self.proj(out))
        return F.dropout(out, self.drop_rate, self.training) if self.drop_rate else out


def _fit_rel_pos(module: GridAttention, state_dict: dict, prefix: str, *_) -> None:
    for name in ('rel_pos_h', 'rel_pos_w'):
        table, parameter = state_dict.get(prefix + name), getattr(module, name)
        if table is not None and table.shape != parameter.shape and table.shape[1:] == parameter.shape[1:]:
            state_dict[prefix + name] = resize_rel_pos(table, len(parameter))


class GridBlock(TransformerBlock):
    """Transformer block on a grid of tokens.

    Args:
        embed_dims: As in :class:`mmssl.layers.transformer.TransformerBlock`.
        num_heads: As in :class:`mmssl.layers.transformer.TransformerBlock`.
        feedforward_channels: As in :class:`mmssl.layers.transformer.TransformerBlock`.
        qkv_bias: Whether the projection has a bias.
        attn_drop_rate: 0, the only value.
        window_size: As in :class:`GridAttention`.
        rel_pos_size: As in :class:`GridAttention`.
        **kwargs: Passed on to :class:`mmssl.layers.transformer.TransformerBlock`.
    """

    def __init__(
        self,
        embed_dims: int,
        num_heads: int,
        feedforward_channels: int,
        qkv_bias: bool | str = True,
        attn_drop_rate: float = 0.0,
        window_size: int = 0,
        rel_pos_size: tuple[int, int] | None = None,
        **kwargs,
    ):
        if attn_drop_rate or qkv_bias == 'qv_bias':
            raise ValueError(
                f'attn_drop_rate={attn_drop_rate}, qkv_bias={qkv_bias!r}: attention in windows has no '
                "dropout of weights and no 'qv_bias'; use attn_drop_rate=0, qkv_bias=True or False"
            )
        super().__init__(embed_dims, num_heads, feedforward_channels, qkv_bias, **kwargs)
        self.attn = GridAttention(
            embed_dims,
            num_heads,
            qkv_bias,
            drop_rate=kwargs.get('drop_rate', 0.0),
            layer_scale_init_value=kwargs.get('layer_scale_init_value', 0.0),
            window_size=window_size,
            rel_pos_size=rel_pos_size,
        )

    def transform(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Transform tokens (B, H * W, C) of a grid (H, W)."""
        x = x + self.drop_path(self.attn.attend(self.ln1(x), grid))
        return x + self.drop_path(self.ffn(self.ln2(x)))


@MODELS.register_module()
class ViTDet(ViT):
    """ViT for detectors: windows in most layers, images of any size divisible by the patch size.

    Args:
        arch: As in :class:`mmssl.layers.vit.ViT`.
        img_size: As in :class:`mmssl.layers.vit.ViT`.
        patch_size: As in :class:`mmssl.layers.vit.ViT`.
        window_size: Side of the windows in patches.
        global_indices: Layers with global attention; the paper has four, evenly spaced.
        use_rel_pos: Whether every layer has relative positions (arXiv:2112.01526).
        final_norm: Whether the last map is normalised; the paper's is not.
        **kwargs: Passed on to :class:`mmssl.layers.vit.ViT`. There is no class token.

    Raises:
        ValueError: A layer of ``global_indices`` does not exist, or rotary positions or registers are asked
            for.
    """

    BLOCK = GridBlock

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 1024,
        patch_size: int | tuple[int, int] = 16,
        window_size: int = 14,
        global_indices: Sequence[int] = (2, 5, 8, 11),
        use_rel_pos: bool = True,
        final_norm: bool = False,
        **kwargs,
    ):
        if kwargs.get('rope_cfg') or kwargs.get('num_registers'):
            raise ValueError(
                'ViTDet has neither rotary positions nor registers; leave out rope_cfg, num_registers'
            )
        depth = resolve_arch(arch)['num_layers']
        if not set(global_indices) <= set(range(depth)):
            raise ValueError(f'global_indices={tuple(global_indices)} of a ViT of {depth} layers')
        grid = patch_grid(*pair(img_size), pair(patch_size))
        given = kwargs.pop('layer_cfgs', None) or {}
        layer_cfgs = []
        for index in range(depth):
            side = 0 if index in global_indices else window_size
            cfg: dict[str, Any] = dict(window_size=side, rel_pos_size=None)
            if use_rel_pos:
                cfg['rel_pos_size'] = (side, side) if side else grid
            layer_cfgs.append({**(given if isinstance(given, dict) else given[index]), **cfg})
        kwargs = {**kwargs, 'with_cls_token': False, 'layer_cfgs': layer_cfgs}
        super().__init__(arch, img_size, patch_size, final_norm=final_norm, **kwargs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images (B, 3, H, W): maps (B, C, h, w) of the layers in ``out_indices``."""
        tokens, grid = self.embed(x)
        outs = []
        for index, layer in enumerate(self.layers):
            if self.with_cp and tokens.requires_grad:
                tokens = checkpoint(layer.transform, tokens, grid, use_reentrant=False)
            else:
                tokens = layer.transform(tokens, grid)
            if index == self.num_layers - 1 and self.final_norm:
                tokens = self.ln1(tokens)
            if index in self.out_indices:
                outs.append(self._output(tokens, grid))
        return tuple(outs)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of every position of a map (B, C, H, W).

    Args:
        channels: Number of channels C.
        eps: Added to the variance.
    """

    def __init__(self, channels: int, eps: float = 1e-6):
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Maps of strides 4, 8, 16 and 32 from one map of stride 16 (section 3, 'Simple feature pyramid').

    Strides 4 and 8 come from one or two transposed convolutions, stride 32 from max-pooling; a 1x1 and a 3x3
    convolution with layer norms follow.

    Args:
        in_channels: Channels of the map.
        out_channels: Channels of all outputs.
        num_outs: Number of outputs; those after the fourth are the last one, subsampled by 2.
        init_cfg: Initialisation in mmengine's form.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 256,
        num_outs: int = 5,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        if in_channels % 4:
            raise ValueError(f'in_channels={in_channels} of SimpleFeaturePyramid must be divisible by 4')
        if num_outs < 1:
            raise ValueError(f'num_outs={num_outs} of SimpleFeaturePyramid must be at least 1')
        half, quarter = in_channels // 2, in_channels // 4
        self.num_outs = num_outs
        self.scales = nn.ModuleList(
            [
                nn.Sequential(
                    nn.ConvTranspose2d(in_channels, half, 2, 2),
                    ChannelNorm(half),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, 2),
                ),
                nn.ConvTranspose2d(in_channels, half, 2, 2),
                nn.Identity(),
                nn.MaxPool2d(2, 2),
            ][:num_outs]
        )
        self.convs = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(channels, out_channels, 1, bias=False),
                ChannelNorm(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                ChannelNorm(out_channels),
            )
            for channels in (quarter, half, in_channels, in_channels)[:num_outs]
        )

    def init_weights(self) -> None:
        """Draw the convolutions as torch does."""
        for module in self.modules():
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                module.reset_parameters()
        super().init_weights()

    def forward(self, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Make the pyramid of the last map (B, in_channels, H, W) of a backbone."""
        outs = [conv(scale(inputs[-1])) for scale, conv in zip(self.scales, self.convs, strict=True)]
        while len(outs) < self.num_outs:
            outs.append(outs[-1][:, :, ::2, ::2])
        return tuple(outs)
