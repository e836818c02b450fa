"""The vision transformer of BEiT (arXiv:2106.08254): relative position bias, layer scale, no bias of the keys, no absolute positions."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.patch import PatchEmbed, pair, patch_grid
from mmssl.layers.relative_position import RelativePositionBias, bias_of, resize_bias_table
from mmssl.layers.transformer import FeedForward, norm_eps
from mmssl.layers.vit import OUT_TYPES, resolve_arch
from mmssl.ops.attention import biased_attention
from mmssl.registry import MODELS

INIT_STD = 0.02


class BEiTAttention(nn.Module):
    """Self-attention with biases of queries and values, none of keys, and a relative position bias of its own or from outside.

    Args:
        embed_dims: width C.
        num_heads: heads; C must divide by it.
        grid: (rows, columns) of patches for a bias of its own; None for none.
        attn_drop_rate, drop_rate: dropout of the attention weights and of the output.
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
        self.num_heads, self.grid = num_heads, grid
        self.attn_drop_rate, self.drop_rate = attn_drop_rate, drop_rate
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
            rows: (T,) numbers among the B * L tokens: the output is computed for these alone.

        Returns:
            (B, L, C), or (T, C).
        """
        batch, length, width = x.shape
        if self.grid is not None:
            bias = bias_of(self.relative_position_bias_table, self.relative_position_index, self.grid, grid)
        joined = F.linear(
            x, self.qkv.weight, torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])
        )
        query, key, value = (
            joined.view(batch, length, 3, self.num_heads, width // self.num_heads)
            .permute(2, 0, 3, 1, 4)
            .unbind(0)
        )
        out = (
            biased_attention(query, key, value, bias, self.attn_drop_rate if self.training else 0.0)
            .transpose(1, 2)
            .flatten(2)
        )
        if rows is not None:
            out = out.flatten(0, 1).index_select(0, rows)
        out = self.proj(out)
        return F.dropout(out, self.drop_rate, self.training) if self.drop_rate else out


class BEiTBlock(nn.Module):
    """``x + gamma_1 * attn(ln1(x))``, then ``x + gamma_2 * ffn(ln2(x))``, under mmpretrain's names.

    Args:
        embed_dims, num_heads, feedforward_channels: sizes.
        grid: see :class:`BEiTAttention`.
        layer_scale_init_value: first value of gamma_1 and gamma_2; 0 leaves them out.
        drop_rate, attn_drop_rate: dropout of the outputs and of the attention weights.
        drop_path_rate: stochastic depth of both branches.
        eps: of the layer norms.
    """

    def __init__(
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
        self.drop_path_rate = float(drop_path_rate)
        self.ln1 = nn.LayerNorm(embed_dims, eps=eps)
        self.attn = BEiTAttention(embed_dims, num_heads, grid, attn_drop_rate, drop_rate)
        self.ln2 = nn.LayerNorm(embed_dims, eps=eps)
        self.ffn = FeedForward(embed_dims, feedforward_channels, drop_rate)
        self.layer_scale_init_value = layer_scale_init_value
        for name in ('gamma_1', 'gamma_2'):
            self.register_parameter(
                name,
                nn.Parameter(torch.full((embed_dims,), float(layer_scale_init_value)))
                if layer_scale_init_value > 0
                else None,
            )

    def _add(
        self, x: Tensor, branch: Tensor, gamma: Tensor | None, sample: Tensor | None, batch: int
    ) -> Tensor:
        scale = gamma
        if self.training and self.drop_path_rate:
            keep = 1 - self.drop_path_rate
            survives = torch.empty(batch, 1, device=x.device).bernoulli_(keep).div_(keep).to(x.dtype)
            survives = survives.unsqueeze(2) if sample is None else survives.index_select(0, sample)
            scale = survives if gamma is None else gamma * survives
        return x + branch if scale is None else torch.addcmul(x, branch.to(x.dtype), scale.to(x.dtype))

    def forward(
        self, x: Tensor, grid: tuple[int, int], bias: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """(B, L, C) to (B, L, C); with ``rows`` (T,), numbers among the B * L tokens, to (T, C)."""
        batch, length, _ = x.shape
        sample = None if rows is None else rows // length
        attended = self.attn(self.ln1(x), grid, bias, rows)
        x = x if rows is None else x.flatten(0, 1).index_select(0, rows)
        x = self._add(x, attended, self.gamma_1, sample, batch)
        return self._add(x, self.ffn(self.ln2(x)), self.gamma_2, sample, batch)


@MODELS.register_module()
class BEiTViT(BaseModule):
    """BEiT's vision transformer with the argument and parameter names of mmpretrain's BEiTViT.

    Our own, because it serves mmdet and mmseg where mmpretrain is not installed, takes images of any size and
    shape, draws its weights as the released code does, and in pre-training computes its last layer for the
    masked patches alone.

    Args:
        arch: 'base', 'large', ... or a dict of sizes, as for :class:`mmssl.layers.vit.ViT`.
        img_size: side of the images in pixels, or (height, width); other sizes run with a resized bias table.
        patch_size: side of a patch in pixels, or (height, width).
        in_channels: of the images.
        out_indices: layers whose output is returned; negative counts from the end.
        drop_rate, attn_drop_rate, drop_path_rate: dropout, of attention weights, and stochastic depth (rising
            from 0 linearly by layer).
        norm_cfg: ``dict(type='LN', eps=...)``.
        final_norm: layer norm (``ln1``) after the last layer.
        out_type: 'featmap' (B, C, h, w); 'cls_token' (B, C); 'avg_featmap' (B, C), mean of the patches, then
            the layer norm ``ln2``; 'raw' (B, 1 + N, C).
        use_shared_rel_pos_bias: one relative position bias for all layers, as in pre-training.
        use_rel_pos_bias: one for each layer, as in fine-tuning; the shared one of a pre-trained file is
            copied to all.
        layer_scale_init_value: 0.1, for the large model 1e-5; 0 for none.
        with_mask_token: the token that takes the place of masked patches; only pre-training needs it.
        frozen_stages: freeze the stem and the first so many layers; with all of them also norms and shared
            bias. -1 freezes nothing.
        init_cfg: mmengine's; ``dict(type='Pretrained', checkpoint=..., prefix='backbone.')`` takes the
            backbone out of an algorithm's file.
    """

    num_extra_tokens = 1

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        norm_cfg: dict | None = None,
        final_norm: bool = True,
        out_type: str = 'featmap',
        use_shared_rel_pos_bias: bool = True,
        use_rel_pos_bias: bool = False,
        layer_scale_init_value: float = 0.1,
        with_mask_token: bool = True,
        frozen_stages: int = -1,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        if out_type not in OUT_TYPES:
            raise ValueError(f'out_type {out_type!r} is unknown; one of {", ".join(OUT_TYPES)}')
        if use_shared_rel_pos_bias and use_rel_pos_bias:
            raise ValueError(
                'use_shared_rel_pos_bias and use_rel_pos_bias exclude each other: the first for pre-training, the second '
                'for fine-tuning'
            )
        self.arch_settings = sizes = resolve_arch(arch)
        self.embed_dims, self.num_layers = sizes['embed_dims'], sizes['num_layers']
        self.img_size = pair(img_size)
        self.out_type, self.final_norm = out_type, final_norm
        eps = norm_eps(norm_cfg)

        self.patch_embed = PatchEmbed(patch_size, in_channels, self.embed_dims)
        self.patch_resolution = grid = patch_grid(*self.img_size, self.patch_embed.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims)) if with_mask_token else None
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.rel_pos_bias = (
            RelativePositionBias(grid, sizes['num_heads']) if use_shared_rel_pos_bias else None
        )
        self.use_rel_pos_bias = use_rel_pos_bias
        depth_rates = torch.linspace(0, drop_path_rate, self.num_layers, device='cpu').tolist()
        self.layers = nn.ModuleList(
            BEiTBlock(
                self.embed_dims,
                sizes['num_heads'],
                sizes['feedforward_channels'],
                grid if use_rel_pos_bias else None,
                layer_scale_init_value,
                drop_rate,
                attn_drop_rate,
                rate,
                eps,
            )
            for rate in depth_rates
        )
        if final_norm:
            self.ln1 = nn.LayerNorm(self.embed_dims, eps=eps)
        if out_type == 'avg_featmap':
            self.ln2 = nn.LayerNorm(self.embed_dims, eps=eps)

        indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        self.out_indices = [index + self.num_layers if index < 0 else index for index in indices]
        if not all(0 <= index < self.num_layers for index in self.out_indices):
            raise ValueError(f'out_indices {indices} are not layers of a ViT of {self.num_layers} layers')
        self.register_load_state_dict_pre_hook(_fit_bias_tables)
        self.reset_parameters()
        self.frozen_stages = frozen_stages
        self._freeze()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """The released initialisation: N(0, 0.02) cut at one standard deviation (not two), branches scaled down by their depth."""
        for module in self.modules():
            init_truncated(module)
        for token in (self.cls_token, self.mask_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=INIT_STD, a=-INIT_STD, b=INIT_STD)
        for depth, layer in enumerate(self.layers, 1):
            for module in (layer.attn.proj, layer.ffn.layers[1]):
                module.weight.div_((2 * depth) ** 0.5)
            for bias in (layer.attn.q_bias, layer.attn.v_bias):
                bias.zero_()
            for gamma in (layer.gamma_1, layer.gamma_2):
                if gamma is not None:
                    gamma.fill_(layer.layer_scale_init_value)

    def init_weights(self) -> None:
        """Draw the initial weights anew; an ``init_cfg`` of type 'Pretrained' has the last word."""
        self.reset_parameters()
        super().init_weights()

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.patch_embed, *self.layers[: self.frozen_stages]]
        if self.frozen_stages >= self.num_layers:
            frozen += [
                getattr(self, name)
                for name in ('ln1', 'ln2', 'rel_pos_bias')
                if getattr(self, name, None) is not None
            ]
        for module in frozen:
            module.eval().requires_grad_(False)
        self.cls_token.requires_grad_(False)

    def train(self, mode: bool = True):
        """As ``Module.train``; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def _tokens(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, tuple[int, int]]:
        tokens, grid = self.patch_embed(x)
        if mask is not None:
            if tuple(mask.shape) not in ((len(x), *grid), (len(x), grid[0] * grid[1])):
                raise ValueError(
                    f'mask has shape {tuple(mask.shape)}; {len(x)} images of {grid[0]}x{grid[1]} patches need '
                    f'({len(x)}, {grid[0]}, {grid[1]})'
                )
            mask_token = self.mask_token.to(tokens.dtype)  # type: ignore[union-attr]  # a network that is given masks has one
            tokens = torch.where(mask.flatten(1).unsqueeze(-1).bool(), mask_token, tokens)
        return self.drop_after_pos(
            torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        ), grid

    def encode_masked(self, x: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """Encode images whose masked patches are replaced by the mask token (BEiT, section 2.3).

        Args:
            x: (B, 3, H, W), normalised.
            mask: (B, rows, columns) or (B, N), True = masked.
            rows: (T,) numbers of the masked patches among all B * N, ascending.

        Returns:
            (T, C), the last layer's output for the masked patches.
        """
        tokens, grid = self._tokens(x, mask)
        rows = rows + rows // (grid[0] * grid[1]) + 1  # a class token before each image
        bias = None if self.rel_pos_bias is None else self.rel_pos_bias(grid)
        for layer in self.layers[:-1]:
            tokens = layer(tokens, grid, bias)
        tokens = self.layers[-1](tokens, grid, bias, rows)
        return self.ln1(tokens) if self.final_norm else tokens

    def forward(self, x: Tensor, mask: Tensor | None = None) -> tuple[Tensor, ...]:
        """Encode images.

        Args:
            x: (B, 3, H, W), normalised, H and W divisible by the patch size.
            mask: (B, rows, columns), True = masked; None for whole images.

        Returns:
            the output of every layer in ``out_indices``, shaped as ``out_type`` says.
        """
        tokens, grid = self._tokens(x, mask)
        bias = None if self.rel_pos_bias is None else self.rel_pos_bias(grid)
        outs = []
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens, grid, bias)
            if index == self.num_layers - 1 and self.final_norm:
                tokens = self.ln1(tokens)
            if index in self.out_indices:
                outs.append(self._output(tokens, grid))
        return tuple(outs)

    def _output(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        if self.out_type == 'raw':
            return tokens
        if self.out_type == 'cls_token':
            return tokens[:, 0]
        patches = tokens[:, 1:]
        if self.out_type == 'avg_featmap':
            return self.ln2(patches.mean(dim=1))
        return patches.transpose(1, 2).reshape(patches.shape[0], -1, *grid)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """(depth, number of depths) of a parameter, for layer-wise learning rates: 0 is the stem, the last one bias, norms and head."""
        depths = self.num_layers + 2
        name = param_name[len(prefix) :]
        if not param_name.startswith(prefix):
            return depths - 1, depths
        if name in ('cls_token', 'mask_token') or name.startswith('patch_embed'):
            return 0, depths
        if name.startswith('layers.'):
            return int(name.split('.')[1]) + 1, depths
        return depths - 1, depths


def init_truncated(module: nn.Module) -> None:
    """Weights of linear layers and convolutions from N(0, 0.02) cut at one standard deviation, zero biases and bias tables, unit norms."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.trunc_normal_(module.weight, std=INIT_STD, a=-INIT_STD, b=INIT_STD)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.LayerNorm):
        nn.init.ones_(module.weight)
        nn.init.zeros_(module.bias)
    elif hasattr(module, 'relative_position_bias_table'):
        nn.init.zeros_(module.relative_position_bias_table)


def _fit_bias_tables(module: BEiTViT, state_dict: dict, prefix: str, *_) -> None:
    """Before loading: copy a shared table to the layers where each has its own, and fit tables to the grid."""
    from mmengine.logging import print_log

    shared = [f'{prefix}rel_pos_bias.relative_position_{name}' for name in ('bias_table', 'index')]
    if module.use_rel_pos_bias and shared[0] in state_dict:
        table = state_dict.pop(shared[0])
        state_dict.pop(shared[1], None)
        for index in range(module.num_layers):
            state_dict.setdefault(f'{prefix}layers.{index}.attn.relative_position_bias_table', table.clone())
            state_dict.setdefault(
                f'{prefix}layers.{index}.attn.relative_position_index',
                module.layers[index].attn.relative_position_index,
            )
        print_log('the shared relative position bias is copied to every layer', 'current')
    for name, parameter in module.named_parameters():
        table = state_dict.get(prefix + name)
        if (
            not name.endswith('relative_position_bias_table')
            or table is None
            or table.shape == parameter.shape
        ):
            continue
        side = (round((len(table) - 3) ** 0.5) + 1) // 2
        if (2 * side - 1) ** 2 + 3 != len(table) or table.shape[1] != parameter.shape[1]:
            continue  # reported by the loader
        state_dict[prefix + name] = resize_bias_table(table, (side, side), module.patch_resolution)
        index = name.replace('bias_table', 'index')
        state_dict[prefix + index] = module.get_buffer(index)
        print_log(
            f'{prefix}{name}: resized from {side}x{side} to {module.patch_resolution[0]}x{module.patch_resolution[1]} patches',
            'current',
        )
