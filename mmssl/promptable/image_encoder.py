"""The image encoder of Segment Anything (arXiv:2304.02643, appendix A): a ViT with attention in windows and few global blocks."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmssl.layers.transformer import drop_path
from mmssl.ops.rel_attention import rel_attention, resize_rel_pos, window_attention
from mmssl.promptable.common import MLPBlock, Neck, reset_weights
from mmssl.registry import MODELS, build

ARCHS: dict[str, dict[str, Any]] = {
    'vit_b': dict(embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11)),
    'vit_l': dict(embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)),
    'vit_h': dict(embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)),
}


class PatchEmbed(nn.Module):
    """Patches to tokens by a convolution.

    Args:
        patch_size: side in pixels.
        in_chans, embed_dim: widths.
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, h, w, C)."""
        return self.proj(x).permute(0, 2, 3, 1)


class Attention(nn.Module):
    """Self-attention on a grid, whole or in windows, with relative positions.

    Args:
        dim: width C.
        num_heads: heads.
        qkv_bias: of the projection to q, k, v.
        use_rel_pos: relative positions.
        size: (rows, columns) that attend to each other: the window, or the grid.
        window_size: side of the windows; 0 for the whole grid.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool,
        use_rel_pos: bool,
        size: tuple[int, int],
        window_size: int = 0,
    ):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'embed_dim {dim} does not divide into {num_heads} heads')
        self.num_heads, self.window_size, self.size = num_heads, window_size, tuple(size)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim, bias=qkv_bias), nn.Linear(dim, dim)
        self.rel_pos_h = self.rel_pos_w = None
        if use_rel_pos:
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * size[0] - 1, dim // num_heads))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * size[1] - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        qkv = self.qkv(x)
        if (
            self.window_size
        ):  # a cell outside the map is zero before the projection (released code), its bias afterwards
            return self.proj(
                window_attention(
                    qkv, self.num_heads, self.window_size, self.rel_pos_h, self.rel_pos_w, self.qkv.bias
                )
            )
        batch, height, width, channels = x.shape
        query, key, value = qkv.view(
            batch, height * width, 3, self.num_heads, channels // self.num_heads
        ).permute(2, 0, 3, 1, 4)
        out = rel_attention(query, key, value, self.rel_pos_h, self.rel_pos_w, (height, width))
        return self.proj(out.transpose(1, 2).reshape(batch, height, width, channels))


class Block(nn.Module):
    """``x + attn(norm1(x))``, then ``x + mlp(norm2(x))``.

    Args:
        dim, num_heads, qkv_bias, use_rel_pos, size, window_size: as in :class:`Attention`.
        mlp_ratio: hidden width over ``dim``.
        drop_path_rate: stochastic depth of both branches.
        eps: of the layer norms.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        mlp_ratio: float,
        qkv_bias: bool,
        use_rel_pos: bool,
        size: tuple[int, int],
        window_size: int,
        drop_path_rate: float = 0.0,
        eps: float = 1e-6,
    ):
        super().__init__()
        self.drop_path_rate = float(drop_path_rate)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, qkv_bias, use_rel_pos, size, window_size)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = MLPBlock(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = x + drop_path(self.attn(self.norm1(x)), self.drop_path_rate, self.training)
        return x + drop_path(self.mlp(self.norm2(x)), self.drop_path_rate, self.training)


@MODELS.register_module()
class SAMImageEncoder(BaseModule):
    """Images to one map, 16 times smaller, 256 channels wide. Names and arguments as in the official ``ImageEncoderViT``.

    mmpretrain's ViTSAM keeps all scores of a global block for all heads, and does not load the official files
    as they are.

    Args:
        img_size: side of the padded images in pixels. Tables of another size are resized when loaded.
        patch_size, in_chans, embed_dim, depth, num_heads, mlp_ratio, out_chans, qkv_bias: sizes.
        use_abs_pos, use_rel_pos: tables of positions, and of offsets.
        window_size: side of the windows in patches.
        global_attn_indexes: blocks whose attention is over the whole map.
        drop_path_rate: stochastic depth, rising from 0 linearly by block.
        with_cp: keep only the input of each block for the backward pass and compute it anew.
        arch: 'vit_b', 'vit_l' or 'vit_h' in place of embed_dim, depth, num_heads and global_attn_indexes.
        init_cfg: mmengine's. ``dict(type='Pretrained', checkpoint=..., prefix='backbone.')`` takes a plain
            ViT of ours as well, a MAE encoder for one.

    Raises:
        ValueError: an unknown ``arch``, an image size that does not divide into patches, a global block that
            is not there.
    """

    def __init__(
        self,
        img_size: int = 1024,
        patch_size: int = 16,
        in_chans: int = 3,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        out_chans: int = 256,
        qkv_bias: bool = True,
        use_abs_pos: bool = True,
        use_rel_pos: bool = True,
        window_size: int = 14,
        global_attn_indexes: Sequence[int] = (2, 5, 8, 11),
        drop_path_rate: float = 0.0,
        with_cp: bool = False,
        arch: str | None = None,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        if arch is not None:
            if arch not in ARCHS:
                raise ValueError(f'arch {arch!r} is unknown; one of {", ".join(ARCHS)}')
            embed_dim, depth, num_heads, global_attn_indexes = ARCHS[arch].values()
        if img_size % patch_size:
            raise ValueError(
                f'img_size {img_size} does not divide into patches of {patch_size}; '
                f'take {-(-img_size // patch_size) * patch_size}'
            )
        if not all(0 <= index < depth for index in global_attn_indexes):
            raise ValueError(
                f'global_attn_indexes {tuple(global_attn_indexes)} are not blocks of an encoder of {depth}'
            )
        self.img_size, self.patch_size, self.embed_dim, self.out_chans, self.with_cp = (
            img_size,
            patch_size,
            embed_dim,
            out_chans,
            with_cp,
        )
        side = img_size // patch_size
        self.grid = (side, side)
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, embed_dim)) if use_abs_pos else None
        rates = torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
        windows = [0 if index in global_attn_indexes else window_size for index in range(depth)]
        self.blocks = nn.ModuleList(
            Block(
                embed_dim,
                num_heads,
                mlp_ratio,
                qkv_bias,
                use_rel_pos,
                (window, window) if window else self.grid,
                window,
                rate,
            )
            for window, rate in zip(windows, rates, strict=True)
        )
        self.neck = Neck(embed_dim, out_chans)
        self.register_load_state_dict_pre_hook(_fit_tables)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Linear layers and positions from N(0, 0.02), as ViTDet's; offsets at zero."""
        reset_weights(self)
        for name, parameter in self.named_parameters():
            if name == 'pos_embed' or ('blocks.' in name and parameter.ndim == 2 and 'rel_pos' not in name):
                nn.init.trunc_normal_(parameter, std=0.02)
            elif 'rel_pos' in name or ('blocks.' in name and name.endswith('bias')):
                nn.init.zeros_(parameter)

    def init_weights(self) -> None:
        """Draw the initial weights anew; an ``init_cfg`` of type 'Pretrained' has the last word."""
        self.reset_parameters()
        super().init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Encode images.

        Args:
            x: (B, 3, H, W), normalised and padded; H and W divisible by the patch size. Where they are not
                ``img_size``, the tables are resized.

        Returns:
            (B, out_chans, H / patch_size, W / patch_size).
        """
        if x.ndim != 4 or x.shape[-2] % self.patch_size or x.shape[-1] % self.patch_size:
            raise ValueError(
                f'images of shape {tuple(x.shape)} for an encoder of {self.patch_size} pixel patches; give (B, 3, H, W), '
                f'padded to multiples of {self.patch_size} (SAM.preprocess does it)'
            )
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            x = x + resize_positions(self.pos_embed, x.shape[1:3])
        for block in self.blocks:
            x = (
                checkpoint(block, x, use_reentrant=False)
                if self.with_cp and self.training and torch.is_grad_enabled()
                else block(x)
            )
        return self.neck(x.permute(0, 3, 1, 2))

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """(depth, number of depths) of a parameter, for layer-wise rates: 0 is the stem, the last one the neck."""
        depths = len(self.blocks) + 2
        name = param_name[len(prefix) :]
        if param_name.startswith(prefix) and name.startswith(('pos_embed', 'patch_embed')):
            return 0, depths
        if param_name.startswith(prefix) and name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, depths
        return depths - 1, depths


def resize_positions(table: Tensor, grid: Sequence[int]) -> Tensor:
    """(1, h, w, C) to (1, *grid, C), bicubic; the same tensor where the grid is right."""
    if tuple(table.shape[1:3]) == tuple(grid):
        return table
    resized = F.interpolate(
        table.permute(0, 3, 1, 2).float(), size=tuple(grid), mode='bicubic', align_corners=False
    )
    return resized.permute(0, 2, 3, 1).to(table.dtype)


def _fit_tables(module: SAMImageEncoder, state_dict: dict, prefix: str, *_) -> None:
    """Resize tables of another image size, and take the weights of a plain ViT under our names."""
    from mmengine.logging import print_log

    if f'{prefix}layers.0.ln1.weight' in state_dict:
        from mmssl.promptable.plain_vit import from_vit

        renamed = from_vit(
            {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
        )
        for key in [key for key in state_dict if key.startswith(prefix)]:
            del state_dict[key]
        state_dict.update({prefix + key: value for key, value in renamed.items()})
        print_log(
            f'{prefix or "the encoder"}: weights of a plain ViT; the neck and the relative positions begin anew',
            'current',
        )
    fitted: list[str] = []
    table = state_dict.get(f'{prefix}pos_embed')
    if (
        module.pos_embed is not None
        and table is not None
        and table.ndim == 4
        and table.shape[1:3] != module.pos_embed.shape[1:3]
    ):
        state_dict[f'{prefix}pos_embed'] = resize_positions(table, module.grid)
        fitted.append(
            f'positions from {table.shape[1]}x{table.shape[2]} to {module.grid[0]}x{module.grid[1]} (bicubic)'
        )
    count = 0
    for name, parameter in module.named_parameters():
        table = state_dict.get(prefix + name) if 'rel_pos' in name else None
        if table is not None and table.ndim == 2 and len(table) != len(parameter):
            state_dict[prefix + name] = resize_rel_pos(table, len(parameter))
            lengths, count = (len(table), len(parameter)), count + 1
    if count:
        fitted.append(
            f'{count} tables of relative positions from {lengths[0]} to {lengths[1]} offsets (linear)'
        )
    if fitted:
        print_log(f'{prefix or "the encoder"}: resized ' + ', '.join(fitted), 'current')


@MODELS.register_module()
class SAMBackbone(BaseModule):
    """Any backbone as an image encoder: its maps, projected to one width, summed at one size, then a 3 x 3 convolution, with norms.

    With one map of the right size this is the official neck.

    Args:
        backbone: config or module; gives a map or a tuple of maps (B, C, H, W).
        in_channels: channels of its maps, in their order.
        img_size: side of the padded images in pixels.
        out_chans: width of the result.
        stride: pixels a cell of the result.
        frozen: keep the backbone as it is, norms too.
        init_cfg: mmengine's.
    """

    def __init__(
        self,
        backbone: dict | nn.Module,
        in_channels: int | Sequence[int],
        img_size: int = 1024,
        out_chans: int = 256,
        stride: int = 16,
        frozen: bool = False,
        init_cfg: dict | list | None = None,
    ):
        super().__init__(init_cfg)
        if img_size % stride:
            raise ValueError(
                f'img_size {img_size} does not divide by the stride {stride}; take {-(-img_size // stride) * stride}'
            )
        self.img_size, self.out_chans, self.stride, self.frozen = img_size, out_chans, stride, frozen
        self.grid = (img_size // stride, img_size // stride)
        self.in_channels = (in_channels,) if isinstance(in_channels, int) else tuple(in_channels)
        self.backbone = build(backbone, MODELS)
        self.neck = Neck(self.in_channels[-1], out_chans)
        self.laterals = nn.ModuleList(
            nn.Conv2d(channels, out_chans, 1, bias=False) for channels in self.in_channels[:-1]
        )
        self.train(self.training)

    def init_weights(self) -> None:
        """Draw the neck anew; the backbone begins as it says."""
        reset_weights(self.neck)
        reset_weights(self.laterals)
        super().init_weights()

    def train(self, mode: bool = True):
        """As ``Module.train``; a frozen backbone stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval().requires_grad_(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), normalised and padded, to (B, out_chans, H / stride, W / stride)."""
        maps = self.backbone(x)
        maps = (maps,) if isinstance(maps, Tensor) else tuple(maps)
        if [one.shape[1] for one in maps] != list(self.in_channels):
            raise ValueError(
                f'the backbone gives maps of {[one.shape[1] for one in maps]} channels; set in_channels to that, '
                f'not {list(self.in_channels)}'
            )
        size = (x.shape[-2] // self.stride, x.shape[-1] // self.stride)
        total = 0
        for one, lateral in zip(maps, [*self.laterals, self.neck[0]], strict=True):
            one = lateral(one)
            total = total + (
                one
                if one.shape[-2:] == size
                else F.interpolate(one, size, mode='bilinear', align_corners=False)
            )
        return self.neck[3](self.neck[2](self.neck[1](total)))
