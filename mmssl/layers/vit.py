"""Plain Vision Transformer (arXiv:2010.11929), the backbone that pre-training hands to the other systems."""

from collections.abc import Sequence

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmssl.layers.patch import PatchEmbed, pair, patch_grid
from mmssl.layers.pos_embed import fit_pos_embed, resize_pos_embed, sincos_2d
from mmssl.layers.transformer import TransformerBlock, init_linear_xavier, norm_eps
from mmssl.registry import MODELS


def _arch(embed_dims: int, num_layers: int, num_heads: int) -> dict:
    return dict(
        embed_dims=embed_dims, num_layers=num_layers, num_heads=num_heads, feedforward_channels=4 * embed_dims
    )


# 'small' is DeiT-S, as everywhere but in mmpretrain, whose 'small' has 768 channels and 8 layers
_SIZES = {
    ('t', 'tiny', 'deit-t', 'deit-tiny'): _arch(192, 12, 3),
    ('s', 'small', 'deit-s', 'deit-small'): _arch(384, 12, 6),
    ('b', 'base', 'deit-b', 'deit-base'): _arch(768, 12, 12),
    ('l', 'large'): _arch(1024, 24, 16),
    ('h', 'huge'): _arch(1280, 32, 16),
}
ARCHS = {name: sizes for names, sizes in _SIZES.items() for name in names}
OUT_TYPES = ('featmap', 'cls_token', 'avg_featmap', 'raw')


def resolve_arch(arch: str | dict) -> dict:
    """Sizes of an architecture given by name or as a dict.

    Raises:
        ValueError: an unknown name, or a dict without one of the four sizes.
    """
    if isinstance(arch, str):
        if arch.lower() not in ARCHS:
            raise ValueError(
                f'arch {arch!r} is unknown; one of {", ".join(ARCHS)}, or a dict of '
                'embed_dims, num_layers, num_heads, feedforward_channels'
            )
        return dict(ARCHS[arch.lower()])
    needed = {'embed_dims', 'num_layers', 'num_heads', 'feedforward_channels'}
    if set(arch) != needed:
        raise ValueError(f'arch needs exactly the keys {sorted(needed)}, got {sorted(arch)}')
    return dict(arch)


@MODELS.register_module()
class ViT(BaseModule):
    """Vision Transformer with the argument and parameter names of mmpretrain's VisionTransformer.

    Our own, because it serves mmdet and mmseg where mmpretrain is not installed, takes rectangular images,
    and starts from the x-first sine-cosine table of MAE's released code.

    Args:
        arch: 'tiny', 'small', 'base', 'large', 'huge' (or their initials), or a dict of sizes.
        img_size: side of the images in pixels, or (height, width); other sizes run with a resized position
            table.
        patch_size: side of a patch in pixels, or (height, width).
        in_channels: of the images.
        out_indices: layers whose output is returned; negative counts from the end.
        drop_rate, attn_drop_rate, drop_path_rate: dropout, of attention weights, and stochastic depth (rising
            from 0 linearly by layer).
        qkv_bias: whether q, k, v have a bias.
        norm_cfg: ``dict(type='LN', eps=...)``.
        final_norm: layer norm (``ln1``) after the last layer.
        out_type: 'featmap' (B, C, h, w); 'cls_token' (B, C); 'avg_featmap' (B, C), mean of the patches, then
            the layer norm ``ln2``; 'raw' (B, 1 + N, C).
        with_cls_token: whether there is a class token.
        frozen_stages: freeze the stem and the first so many layers; with all of them also the norms. -1
            freezes nothing.
        interpolate_mode: of the position table.
        patch_cfg: further arguments of the patch projection (``bias``).
        layer_cfgs: arguments of every :class:`TransformerBlock`, or a list with a dict for each.
        init_cfg: mmengine's; ``dict(type='Pretrained', checkpoint=..., prefix='backbone.')`` takes the
            backbone out of an algorithm's file.
    """

    def __init__(
        self,
        arch: str | dict = 'base',
        img_size: int | tuple[int, int] = 224,
        patch_size: int | tuple[int, int] = 16,
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        qkv_bias: bool = True,
        norm_cfg: dict | None = None,
        final_norm: bool = True,
        out_type: str = 'featmap',
        with_cls_token: bool = True,
        frozen_stages: int = -1,
        interpolate_mode: str = 'bicubic',
        patch_cfg: dict | None = None,
        layer_cfgs: dict | Sequence[dict] | None = None,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        if out_type not in OUT_TYPES:
            raise ValueError(f'out_type {out_type!r} is unknown; one of {", ".join(OUT_TYPES)}')
        if out_type == 'cls_token' and not with_cls_token:
            raise ValueError("out_type 'cls_token' needs with_cls_token=True")
        self.arch_settings = sizes = resolve_arch(arch)
        self.embed_dims, self.num_layers = sizes['embed_dims'], sizes['num_layers']
        self.img_size = pair(img_size)
        self.out_type, self.final_norm, self.interpolate_mode = out_type, final_norm, interpolate_mode
        self.num_extra_tokens = int(with_cls_token)
        eps = norm_eps(norm_cfg)

        self.patch_embed = PatchEmbed(patch_size, in_channels, self.embed_dims, **(patch_cfg or {}))
        self.patch_resolution = patch_grid(*self.img_size, self.patch_embed.patch_size)
        num_patches = self.patch_resolution[0] * self.patch_resolution[1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims)) if with_cls_token else None
        self.pos_embed = nn.Parameter(torch.zeros(1, num_patches + self.num_extra_tokens, self.embed_dims))
        self.drop_after_pos = nn.Dropout(drop_rate)
        self.register_load_state_dict_pre_hook(_fit_own_pos_embed)

        if layer_cfgs is None or isinstance(layer_cfgs, dict):
            layer_cfgs = [layer_cfgs or {}] * self.num_layers
        depth_rates = torch.linspace(0, drop_path_rate, self.num_layers, device='cpu').tolist()
        self.layers = nn.ModuleList(
            TransformerBlock(
                **{
                    **dict(
                        embed_dims=self.embed_dims,
                        num_heads=sizes['num_heads'],
                        feedforward_channels=sizes['feedforward_channels'],
                        qkv_bias=qkv_bias,
                        drop_rate=drop_rate,
                        attn_drop_rate=attn_drop_rate,
                        drop_path_rate=rate,
                        eps=eps,
                    ),
                    **layer_cfg,
                }
            )
            for rate, layer_cfg in zip(depth_rates, layer_cfgs, strict=True)
        )
        if final_norm:
            self.ln1 = nn.LayerNorm(self.embed_dims, eps=eps)
        if out_type == 'avg_featmap':
            self.ln2 = nn.LayerNorm(self.embed_dims, eps=eps)

        indices = [out_indices] if isinstance(out_indices, int) else list(out_indices)
        self.out_indices = [index + self.num_layers if index < 0 else index for index in indices]
        if not all(0 <= index < self.num_layers for index in self.out_indices):
            raise ValueError(f'out_indices {indices} are not layers of a ViT of {self.num_layers} layers')
        self.reset_parameters()
        self.frozen_stages = frozen_stages
        self._freeze()

    def reset_parameters(self) -> None:
        """MAE's released initialisation: Xavier everywhere, the class token from N(0, 0.02), the fixed sine-cosine table."""
        self.apply(init_linear_xavier)
        weight = self.patch_embed.projection.weight
        nn.init.xavier_uniform_(weight.view(weight.shape[0], -1))
        if self.cls_token is not None:
            nn.init.normal_(self.cls_token, std=0.02)
        with torch.no_grad():
            self.pos_embed.copy_(sincos_2d(self.patch_resolution, self.embed_dims, self.num_extra_tokens))

    def init_weights(self) -> None:
        """Draw the initial weights anew; an ``init_cfg`` of type 'Pretrained' has the last word."""
        self.reset_parameters()
        super().init_weights()

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        frozen = [self.patch_embed, *self.layers[: self.frozen_stages]]
        if self.frozen_stages >= self.num_layers:
            frozen += [getattr(self, name) for name in ('ln1', 'ln2') if hasattr(self, name)]
        for module in frozen:
            module.eval().requires_grad_(False)
        self.pos_embed.requires_grad_(False)
        if self.cls_token is not None:
            self.cls_token.requires_grad_(False)

    def train(self, mode: bool = True):
        """As ``Module.train``; frozen stages stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        return self

    def positions(self, grid: tuple[int, int]) -> Tensor:
        """(1, extra + rows * columns, C): the position table for a grid of patches."""
        return resize_pos_embed(
            self.pos_embed, self.patch_resolution, grid, self.num_extra_tokens, self.interpolate_mode
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Encode images.

        Args:
            x: (B, 3, H, W), normalised, H and W divisible by the patch size.

        Returns:
            the output of every layer in ``out_indices``, shaped as ``out_type`` says.
        """
        tokens, grid = self.patch_embed(x)
        if self.cls_token is not None:
            tokens = torch.cat([self.cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)
        tokens = self.drop_after_pos(tokens + self.positions(grid))
        outs = []
        for index, layer in enumerate(self.layers):
            tokens = layer(tokens)
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
        patches = tokens[:, self.num_extra_tokens :]
        if self.out_type == 'avg_featmap':
            return self.ln2(patches.mean(dim=1))
        return patches.transpose(1, 2).reshape(patches.shape[0], -1, *grid)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """(depth, number of depths) of a parameter, for layer-wise learning rates: 0 is the stem, the last one norms and head."""
        depths = self.num_layers + 2
        name = param_name[len(prefix) :]
        if not param_name.startswith(prefix):
            return depths - 1, depths
        if name in ('cls_token', 'pos_embed') or name.startswith('patch_embed'):
            return 0, depths
        if name.startswith('layers.'):
            return int(name.split('.')[1]) + 1, depths
        return depths - 1, depths


def _fit_own_pos_embed(module: ViT, state_dict: dict, prefix: str, *_) -> None:
    fit_pos_embed(
        state_dict,
        f'{prefix}pos_embed',
        module.pos_embed,
        module.patch_resolution,
        module.num_extra_tokens,
        module.interpolate_mode,
    )
