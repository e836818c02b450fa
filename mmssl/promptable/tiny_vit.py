"""TinyViT (arXiv:2207.10666) as an image encoder, under the names of MobileSAM's files (arXiv:2306.14289)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmssl.layers.drop_path import DropPath
from mmssl.ops.attention import biased_attention
from mmssl.promptable.common import Neck, reset_weights
from mmssl.registry import MODELS


class ConvBN(nn.Sequential):
    """Convolution ``c`` without bias, padded to keep the size, and batch norm ``bn``.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        kernel_size: Side of the kernel.
        stride: Stride of the convolution.
        groups: Groups of the convolution.
        scale: Initial weight of the norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        groups: int = 1,
        scale: float = 1.0,
    ):
        super().__init__()
        padding = kernel_size // 2
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.add_module('c', conv)
        self.add_module('bn', nn.BatchNorm2d(out_channels))
        self.scale = scale
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reset both layers, and set the weight of the norm to ``scale``."""
        reset_weights(self)
        nn.init.constant_(self.bn.weight, self.scale)


class Stem(nn.Module):
    """Two convolutions of stride 2.

    Args:
        in_chans: Channels of the images.
        embed_dim: Channels of the result.
    """

    def __init__(self, in_chans: int, embed_dim: int):
        super().__init__()
        self.seq = nn.Sequential(
            ConvBN(in_chans, embed_dim // 2, 3, 2), nn.GELU(), ConvBN(embed_dim // 2, embed_dim, 3, 2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, C, H / 4, W / 4)."""
        return self.seq(x)


class MBConv(nn.Module):
    """Inverted residual block.

    Args:
        channels: Number of channels.
        expand_ratio: Hidden channels divided by ``channels``.
        drop_path_rate: Rate of stochastic depth.
    """

    def __init__(self, channels: int, expand_ratio: float, drop_path_rate: float):
        super().__init__()
        hidden = int(channels * expand_ratio)
        self.conv1 = ConvBN(channels, hidden)
        self.conv2 = ConvBN(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvBN(hidden, channels, scale=0.0)
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        branch = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return F.gelu(x + self.drop_path(branch))


class PatchMerging(nn.Module):
    """Downsampling between stages: 1 x 1, 3 x 3 depthwise with the stride, and 1 x 1 convolutions.

    Args:
        in_channels: Input channels.
        out_channels: Output channels.
        stride: Stride of the depthwise convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.conv1 = ConvBN(in_channels, out_channels)
        self.conv2 = ConvBN(out_channels, out_channels, 3, stride, groups=out_channels)
        self.conv3 = ConvBN(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H / stride, W / stride)."""
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


class Attention(nn.Module):
    """Attention in a window, with a learned bias for each head and each distance in rows and columns.

    Args:
        dim: Number of channels C.
        num_heads: Number of heads.
        window_size: Side of the window in pixels.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'{dim} channels do not divide into {num_heads} heads')
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size**2))
        position = torch.arange(window_size)
        distance = (position[:, None] - position).abs()
        index = distance[:, None, :, None] * window_size + distance[None, :, None, :]
        self.register_buffer('attention_bias_idxs', index.flatten(2).flatten(0, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, window_size ** 2, C) to the same shape."""
        batch, length, _ = x.shape
        # query, key and value of a head are adjacent
        heads = self.qkv(self.norm(x)).view(batch, length, self.num_heads, 3, -1)
        query, key, value = heads.permute(3, 0, 2, 1, 4).unbind(0)
        bias = self.attention_biases[:, self.attention_bias_idxs]
        out = biased_attention(query, key, value, bias)
        return self.proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Norm, linear layer, GELU, linear layer.

    Args:
        dim: Number of channels C.
        hidden: Number of hidden channels.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyViTBlock(nn.Module):
    """Attention in windows, a depthwise convolution, and an MLP.

    Args:
        dim: As in :class:`Attention`.
        num_heads: As in :class:`Attention`.
        window_size: As in :class:`Attention`.
        mlp_ratio: Hidden channels of the MLP divided by ``dim``.
        drop_path_rate: Rate of stochastic depth.
        local_conv_size: Side of the kernel of the convolution.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        window_size: int,
        mlp_ratio: float,
        drop_path_rate: float,
        local_conv_size: int,
    ):
        super().__init__()
        self.window_size = window_size
        self.drop_path = DropPath(drop_path_rate)
        self.attn = Attention(dim, num_heads, window_size)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.local_conv = ConvBN(dim, dim, local_conv_size, groups=dim)

    def attend(self, x: Tensor) -> Tensor:
        """Attention of (B, C, H, W); zeros fill the windows at the border and attend too."""
        batch, channels, height, width = x.shape
        side = self.window_size
        rows, columns = -(-height // side), -(-width // side)
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, columns * side - width, 0, rows * side - height))
        x = (
            x.reshape(batch, rows, side, columns, side, channels)
            .transpose(2, 3)
            .reshape(-1, side * side, channels)
        )
        x = self.attn(x).view(batch, rows, columns, side, side, channels).transpose(2, 3)
        return x.reshape(batch, rows * side, columns * side, channels)[:, :height, :width].permute(0, 3, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        x = x + self.drop_path(self.attend(x))
        x = self.local_conv(x).permute(0, 2, 3, 1)
        return (x + self.drop_path(self.mlp(x))).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks, and the downsampling to the next stage.

    Args:
        blocks: Blocks of the stage.
        downsample: Downsampling after them, or None.
    """

    COMPILED_BLOCKS = ('blocks',)

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x: Tensor, with_cp: bool = False) -> Tensor:
        """(B, C, H, W) to (B, D, H / stride, W / stride)."""
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if with_cp else block(x)
        return x if self.downsample is None else self.downsample(x)


@MODELS.register_module()
class SAMTinyViT(BaseModule):
    """The image encoder of MobileSAM, with the names and arguments of its ``TinyViT``.

    Args:
        img_size: Side of the padded images in pixels, a multiple of 16.
        in_chans: Channels of the images.
        num_classes: Classes of the classifier, which is in the file and not used; 0 for no classifier.
        embed_dims: Channels of the four stages.
        depths: Blocks of the four stages.
        num_heads: Heads of the four stages; the first has none.
        window_sizes: Sides of the windows of the four stages; the first has none.
        mlp_ratio: Hidden channels of the MLPs divided by those of the stage.
        mbconv_expand_ratio: Hidden channels of the inverted residual blocks divided by those of the stage.
        drop_path_rate: Rate of stochastic depth of the last block, rising linearly from 0.
        local_conv_size: Side of the kernels of the blocks' convolutions.
        out_chans: Channels of the result.
        with_cp: Keep only the input of each block for the backward pass and compute the block again.
        init_cfg: Passed on to mmengine's BaseModule.
        in_channels: ``in_chans`` under the name that it has in other backbones.
    """

    def __init__(  # noqa: PLR0913  the arguments of the official class
        self,
        img_size: int = 1024,
        in_chans: int = 3,
        num_classes: int = 1000,
        embed_dims: Sequence[int] = (64, 128, 160, 320),
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (2, 4, 5, 10),
        window_sizes: Sequence[int] = (7, 7, 14, 7),
        mlp_ratio: float = 4.0,
        mbconv_expand_ratio: float = 4.0,
        drop_path_rate: float = 0.0,
        local_conv_size: int = 3,
        out_chans: int = 256,
        with_cp: bool = False,
        init_cfg: dict | list | None = None,
        in_channels: int | None = None,
    ):
        super().__init__(init_cfg)
        in_chans = in_channels or in_chans
        if img_size % 16:
            raise ValueError(f'img_size {img_size} does not divide by 16; take {-(-img_size // 16) * 16}')
        self.img_size = img_size
        self.out_chans = out_chans
        self.with_cp = with_cp
        self.grid = (img_size // 16, img_size // 16)
        self.patch_embed = Stem(in_chans, embed_dims[0])
        rates = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist()
        self.layers = nn.ModuleList()
        for stage, dim in enumerate(embed_dims):
            stage_rates = rates[sum(depths[:stage]) : sum(depths[: stage + 1])]
            blocks = [
                MBConv(dim, mbconv_expand_ratio, rate)
                if stage == 0
                else TinyViTBlock(
                    dim, num_heads[stage], window_sizes[stage], mlp_ratio, rate, local_conv_size
                )
                for rate in stage_rates
            ]
            last = stage == len(embed_dims) - 1
            # the result has a sixteenth of the size: the last downsampling keeps it
            step = None if last else PatchMerging(dim, embed_dims[stage + 1], 2 if stage < 2 else 1)
            self.layers.append(Stage(blocks, step))
        self.norm_head = nn.LayerNorm(embed_dims[-1]) if num_classes else None
        self.head = nn.Linear(embed_dims[-1], num_classes) if num_classes else None
        self.neck = Neck(embed_dims[-1], out_chans)
        for module in (self.norm_head, self.head):
            if module is not None:
                module.requires_grad_(False)

    def init_weights(self) -> None:
        """Reset all weights; the last norm of an inverted residual block starts at zero."""
        reset_weights(self)
        for module in self.modules():  # after their own convolutions and norms
            if isinstance(module, ConvBN):
                module.reset_parameters()
            elif isinstance(module, Attention):
                nn.init.zeros_(module.attention_biases)
        super().init_weights()

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W), normalised and padded, to (B, out_chans, H / 16, W / 16)."""
        if x.ndim != 4 or x.shape[-2] % 16 or x.shape[-1] % 16:
            raise ValueError(
                f'images of shape {tuple(x.shape)}; give (B, 3, H, W), padded to multiples of 16 '
                '(SAM.preprocess does it)'
            )
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x, self.with_cp and self.training)
        return self.neck(x)
