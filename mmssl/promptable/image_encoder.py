"""The image encoder of Segment Anything (arXiv:2304.02643, appendix A): a ViT with window attention."""

from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmssl.layers.drop_path import DropPath
from mmssl.ops.rel_attention import rel_attention, window_attention
from mmssl.promptable.common import MLPBlock, Neck, reset_weights
from mmssl.promptable.encoder_weights import fit_weights, resize_positions
from mmssl.registry import MODELS

ARCHS: dict[str, dict[str, Any]] = {
    'vit_b': dict(embed_dim=768, depth=12, num_heads=12, global_attn_indexes=(2, 5, 8, 11)),
    'vit_l': dict(embed_dim=1024, depth=24, num_heads=16, global_attn_indexes=(5, 11, 17, 23)),
    'vit_h': dict(embed_dim=1280, depth=32, num_heads=16, global_attn_indexes=(7, 15, 23, 31)),
}


class PatchEmbed(nn.Module):
    """Patch embedding by a convolution.

    Args:
        patch_size: Side of a patch in pixels.
        in_chans: Channels of the images.
        embed_dim: Channels of the tokens.
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int):
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, h, w, C)."""
        return self.proj(x).permute(0, 2, 3, 1)


class Attention(nn.Module):
    """Self-attention on a grid of tokens, global or in windows, with relative positions.

    Args:
        dim: Number of channels C.
        num_heads: Number of heads.
        qkv_bias: Bias of the projection to queries, keys and values.
        use_rel_pos: Use relative positions.
        size: (rows, columns) of the tokens that attend to each other: the window or the grid.
        window_size: Side of the windows in tokens; 0 for global attention.
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
        self.num_heads = num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.window_size = window_size
        self.use_rel_pos = use_rel_pos
        self.size = tuple(size)
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)
        self.rel_pos_h = self.rel_pos_w = None
        if use_rel_pos:
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * size[0] - 1, dim // num_heads))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * size[1] - 1, dim // num_heads))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        qkv = self.qkv(x)
        if self.window_size:
            # the released code pads with zeros before the projection, which makes them its bias
            padding = self.qkv.bias
            tables = (self.rel_pos_h, self.rel_pos_w)
            return self.proj(window_attention(qkv, self.num_heads, self.window_size, *tables, padding))
        batch, height, width, channels = x.shape
        heads = qkv.view(batch, height * width, 3, self.num_heads, channels // self.num_heads)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        out = rel_attention(query, key, value, self.rel_pos_h, self.rel_pos_w, (height, width))
        return self.proj(out.transpose(1, 2).reshape(batch, height, width, channels))


class Block(nn.Module):
    """Transformer block: ``x + attn(norm1(x))``, then ``x + mlp(norm2(x))``.

    Args:
        dim: As in :class:`Attention`.
        num_heads: As in :class:`Attention`.
        mlp_ratio: Hidden channels of the MLP divided by ``dim``.
        qkv_bias: As in :class:`Attention`.
        use_rel_pos: As in :class:`Attention`.
        size: As in :class:`Attention`.
        window_size: As in :class:`Attention`.
        drop_path_rate: Rate of stochastic depth of both branches.
        eps: Added to the variance by the layer norms.
    """

    def __init__(  # noqa: PLR0913  the arguments of the official class
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
        self.drop_path = DropPath(drop_path_rate)
        self.window_size = window_size
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, qkv_bias, use_rel_pos, size, window_size)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = MLPBlock(dim, int(dim * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) to the same shape."""
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


@MODELS.register_module()
class SAMImageEncoder(BaseModule):
    """Encode images as feature maps that are 16 times smaller and have 256 channels.

    Names and arguments are those of the official ``ImageEncoderViT``.

    Args:
        img_size: Side of the padded images in pixels. Tables of another size are resized when they are
            loaded.
        patch_size: Side of a patch in pixels.
        in_chans: Channels of the images.
        embed_dim: Channels of the tokens.
        depth: Number of blocks.
        num_heads: Number of heads.
        mlp_ratio: Hidden channels of the MLPs divided by ``embed_dim``.
        out_chans: Channels of the result.
        qkv_bias: Bias of the projections to queries, keys and values.
        use_abs_pos: Use absolute positions.
        use_rel_pos: Use relative positions.
        window_size: Side of the windows in patches.
        global_attn_indexes: Blocks with global attention.
        drop_path_rate: Rate of stochastic depth of the last block, rising linearly from 0.
        with_cp: Keep only the input of each block for the backward pass and compute the block again.
        arch: 'vit_b', 'vit_l' or 'vit_h' instead of embed_dim, depth, num_heads and global_attn_indexes.
        init_cfg: Passed on to mmengine's BaseModule. ``dict(type='Pretrained', checkpoint=...,
            prefix='backbone.')`` also takes a plain ViT, such as an MAE encoder.
        in_channels: ``in_chans`` under the name that it has in other backbones.

    Raises:
        ValueError: An unknown ``arch``, an image size that is not divisible by the patch size, or a global
            block that does not exist.
    """

    COMPILED_BLOCKS = ('blocks',)

    def __init__(  # noqa: PLR0913  the arguments of the official class
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
        in_channels: int | None = None,
    ):
        super().__init__(init_cfg)
        in_chans = in_channels or in_chans
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
        self.img_size = img_size
        self.patch_size = patch_size
        self.embed_dim = embed_dim
        self.out_chans = out_chans
        self.with_cp = with_cp
        side = img_size // patch_size
        self.grid = (side, side)
        self.patch_embed = PatchEmbed(patch_size, in_chans, embed_dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, side, side, embed_dim)) if use_abs_pos else None
        rates = torch.linspace(0, drop_path_rate, depth, device='cpu').tolist()
        self.blocks = nn.ModuleList()
        for index, rate in enumerate(rates):
            window = 0 if index in global_attn_indexes else window_size
            size = (window, window) if window else self.grid
            self.blocks.append(
                Block(embed_dim, num_heads, mlp_ratio, qkv_bias, use_rel_pos, size, window, rate)
            )
        self.neck = Neck(embed_dim, out_chans)
        self.register_load_state_dict_pre_hook(fit_weights)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw linear layers and positions from N(0, 0.02), as ViTDet does; relative positions are zero."""
        reset_weights(self)
        for name, parameter in self.named_parameters():
            if name == 'pos_embed' or ('blocks.' in name and parameter.ndim == 2 and 'rel_pos' not in name):
                nn.init.trunc_normal_(parameter, std=0.02)
            elif 'rel_pos' in name or ('blocks.' in name and name.endswith('bias')):
                nn.init.zeros_(parameter)

    def init_weights(self) -> None:
        """Reset all weights; an ``init_cfg`` of type 'Pretrained' is loaded afterwards."""
        self.reset_parameters()
        super().init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """Encode images.

        Args:
            x: (B, 3, H, W), normalised and padded, with H and W divisible by the patch size. If they are not
                ``img_size``, the tables of positions are resized.

        Returns:
            (B, out_chans, H / patch_size, W / patch_size).
        """
        if x.ndim != 4 or x.shape[-2] % self.patch_size or x.shape[-1] % self.patch_size:
            raise ValueError(
                f'images of shape {tuple(x.shape)} for an encoder of {self.patch_size} pixel patches; give '
                f'(B, 3, H, W), padded to multiples of {self.patch_size} (SAM.preprocess does it)'
            )
        x = self.patch_embed(x)
        if self.pos_embed is not None:
            x = x + resize_positions(self.pos_embed, x.shape[1:3])
        for block in self.blocks:
            if self.with_cp and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple[int, int]:
        """(depth, number of depths) of a parameter for layer-wise rates: 0 is the stem, the last the neck."""
        depths = len(self.blocks) + 2
        name = param_name[len(prefix) :]
        if param_name.startswith(prefix) and name.startswith(('pos_embed', 'patch_embed')):
            return 0, depths
        if param_name.startswith(prefix) and name.startswith('blocks.'):
            return int(name.split('.')[1]) + 1, depths
        return depths - 1, depths
