"""TinyViT (arXiv:2207.10666) as an image encoder, under the names of MobileSAM's files (arXiv:2306.14289)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmssl.layers.transformer import drop_path
from mmssl.promptable.common import Neck, reset_weights
from mmssl.registry import MODELS


class ConvBN(nn.Sequential):
    """Convolution ``c`` without bias and batch norm ``bn``.

    Args:
        in_channels, out_channels, kernel_size, stride, groups: of the convolution, padded to keep the size.
        scale: that the norm begins with.
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
        self.add_module(
            'c',
            nn.Conv2d(
                in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False
            ),
        )
        self.add_module('bn', nn.BatchNorm2d(out_channels))
        self.scale = scale
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As torch does, the norm scaled by ``scale``."""
        reset_weights(self)
        nn.init.constant_(self.bn.weight, self.scale)


class Stem(nn.Module):
    """Two convolutions of stride 2.

    Args:
        in_chans, embed_dim: widths.
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
        channels: width.
        expand_ratio: hidden width over ``channels``.
        drop_path_rate: stochastic depth.
    """

    def __init__(self, channels: int, expand_ratio: float, drop_path_rate: float):
        super().__init__()
        hidden = int(channels * expand_ratio)
        self.conv1, self.conv2 = ConvBN(channels, hidden), ConvBN(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvBN(hidden, channels, scale=0.0)
        self.drop_path_rate = drop_path_rate

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        branch = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return F.gelu(x + drop_path(branch, self.drop_path_rate, self.training))


class PatchMerging(nn.Module):
    """To the next stage: 1 x 1, 3 x 3 depthwise with the stride, 1 x 1.

    Args:
        in_channels, out_channels, stride: of the step.
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
    """Attention in a window, with a learned number for each head and each distance in rows and columns.

    Args:
        dim: width C.
        num_heads: heads.
        window_size: side of the window.
    """

    def __init__(self, dim: int, num_heads: int, window_size: int):
        super().__init__()
        if dim % num_heads:
            raise ValueError(f'{dim} channels do not divide into {num_heads} heads')
        self.num_heads = num_heads
        self.norm = nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attention_biases = nn.Parameter(torch.zeros(num_heads, window_size**2))
        place = torch.arange(window_size)
        apart = (place[:, None] - place).abs()
        index = apart[:, None, :, None] * window_size + apart[None, :, None, :]
        self.register_buffer('attention_bias_idxs', index.flatten(2).flatten(0, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, window cells, C) to the same shape."""
        batch, length, _ = x.shape
        # a head's query, key and value lie together
        query, key, value = (
            self.qkv(self.norm(x)).view(batch, length, self.num_heads, 3, -1).permute(3, 0, 2, 1, 4).unbind(0)
        )
        bias = self.attention_biases[:, self.attention_bias_idxs].to(query.dtype)
        if (
            bias.requires_grad and torch.is_grad_enabled()
        ):  # torch's fused kernel for the CPU gives no gradient of the bias
            out = (query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + bias).softmax(dim=-1) @ value
        else:
            out = F.scaled_dot_product_attention(query, key, value, bias[None])
        return self.proj(out.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Norm, Linear, GELU, Linear.

    Args:
        dim, hidden: widths.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(..., C) to (..., C)."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyViTBlock(nn.Module):
    """Attention in windows, a depthwise convolution, an MLP.

    Args:
        dim, num_heads, window_size: as in :class:`Attention`.
        mlp_ratio: hidden width over ``dim``.
        drop_path_rate: stochastic depth.
        local_conv_size: kernel of the convolution.
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
        self.window_size, self.drop_path_rate = window_size, drop_path_rate
        self.attn = Attention(dim, num_heads, window_size)
        self.mlp = MLP(dim, int(dim * mlp_ratio))
        self.local_conv = ConvBN(dim, dim, local_conv_size, groups=dim)

    def attend(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape, channels last in memory; cells of zeros fill the windows at the border, and attend."""
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
        x = x + drop_path(self.attend(x), self.drop_path_rate, self.training)
        x = self.local_conv(x).permute(0, 2, 3, 1)
        return (x + drop_path(self.mlp(x), self.drop_path_rate, self.training)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """Blocks, and the step to the next stage.

    Args:
        blocks: of the stage.
        downsample: the step, or None.
    """

    def __init__(self, blocks: list[nn.Module], downsample: nn.Module | None):
        super().__init__()
        self.blocks, self.downsample = nn.ModuleList(blocks), downsample

    def forward(self, x: Tensor, with_cp: bool = False) -> Tensor:
        """(B, C, H, W) to (B, D, H / stride, W / stride)."""
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if with_cp else block(x)
        return x if self.downsample is None else self.downsample(x)


@MODELS.register_module()
class SAMTinyViT(BaseModule):
    """The image encoder of MobileSAM. Names and arguments as in its ``TinyViT``; the sizes are those of its file.

    Args:
        img_size: side of the padded images in pixels, a multiple of 16.
        in_chans: channels of the images.
        num_classes: of the classifier that is in the file and is not used; 0 leaves it out.
        embed_dims, depths, num_heads, window_sizes: of the four stages; the first has no heads.
        mlp_ratio, mbconv_expand_ratio: hidden widths.
        drop_path_rate: stochastic depth, rising from 0 linearly by block.
        local_conv_size: kernel of the blocks' convolutions.
        out_chans: width of the result.
        with_cp: keep only the input of each block for the backward pass.
        init_cfg: mmengine's.
    """

    def __init__(
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
    ):
        super().__init__(init_cfg)
        if img_size % 16:
            raise ValueError(f'img_size {img_size} does not divide by 16; take {-(-img_size // 16) * 16}')
        self.img_size, self.out_chans, self.with_cp = img_size, out_chans, with_cp
        self.grid = (img_size // 16, img_size // 16)
        self.patch_embed = Stem(in_chans, embed_dims[0])
        rates = torch.linspace(0, drop_path_rate, sum(depths), device='cpu').tolist()
        self.layers = nn.ModuleList()
        for stage, dim in enumerate(embed_dims):
            own = rates[sum(depths[:stage]) : sum(depths[: stage + 1])]
            blocks = [
                MBConv(dim, mbconv_expand_ratio, rate)
                if stage == 0
                else TinyViTBlock(
                    dim, num_heads[stage], window_sizes[stage], mlp_ratio, rate, local_conv_size
                )
                for rate in own
            ]
            last = stage == len(embed_dims) - 1
            # a map of a sixteenth: the step to the last stage keeps the size
            step = None if last else PatchMerging(dim, embed_dims[stage + 1], 2 if stage < 2 else 1)
            self.layers.append(Stage(blocks, step))
        self.norm_head = nn.LayerNorm(embed_dims[-1]) if num_classes else None
        self.head = nn.Linear(embed_dims[-1], num_classes) if num_classes else None
        self.neck = Neck(embed_dims[-1], out_chans)
        for module in (self.norm_head, self.head):
            if module is not None:
                module.requires_grad_(False)

    def init_weights(self) -> None:
        """Draw the initial weights anew, as torch does; the last norm of an inverted residual at zero."""
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
                f'images of shape {tuple(x.shape)}; give (B, 3, H, W), padded to multiples of 16 (SAM.preprocess does it)'
            )
        x = self.patch_embed(x)
        for layer in self.layers:
            x = layer(x, self.with_cp and self.training and torch.is_grad_enabled())
        return self.neck(x)
