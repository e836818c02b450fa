"""Large kernels for segmentation: the global convolutional network, GCN (Peng et al., CVPR 2017, arXiv:1703.02719).

Classifying a pixel wants a kernel as large as the object. A k x k kernel is split into k x 1 with 1 x k and 1
x k with k x 1, without a nonlinearity between them, so that k may be as large as the map; a residual block
sharpens the boundaries.
"""

from collections.abc import Sequence

import torch
from mmseg.models.backbones import ResNet
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.registry import MODELS

# from this many input channels an output channel and this kernel on, one product is faster than two
# convolutions with few output channels
FUSE_FROM = 24
FUSE_KERNEL = 9


class GlobalConvBlock(nn.Module):
    """k x 1 then 1 x k, plus 1 x k then k x 1 (figure 3, block B).

    Args:
        in_channels, out_channels: widths; the second is the number of classes.
        kernel_size: k, odd.
        bias: of the four convolutions; without them the block has the paper's number of parameters (table 2).
        stride: of the block; each of its two convolutions in a row strides along its own kernel.
        fused: compute the two first convolutions as one product with the patches' columns added afterwards,
            the same numbers to rounding; None chooses by the widths and the kernel.

    Raises:
        ValueError: an even kernel; ``fused=True`` with a stride.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 15,
        bias: bool = False,
        stride: int = 1,
        fused: bool | None = None,
    ):
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(
                f'kernel_size={kernel_size} of a global convolution must be odd, so that the map keeps its size; '
                f'give {max(1, kernel_size - 1)} or {kernel_size + 1}'
            )
        pad = kernel_size // 2
        tall = {'kernel_size': (kernel_size, 1), 'padding': (pad, 0), 'stride': (stride, 1)}
        wide = {'kernel_size': (1, kernel_size), 'padding': (0, pad), 'stride': (1, stride)}
        self.left1 = nn.Conv2d(in_channels, out_channels, bias=bias, **tall)
        self.left2 = nn.Conv2d(out_channels, out_channels, bias=bias, **wide)
        self.right1 = nn.Conv2d(in_channels, out_channels, bias=bias, **wide)
        self.right2 = nn.Conv2d(out_channels, out_channels, bias=bias, **tall)
        self.kernel_size = kernel_size
        worthwhile = kernel_size >= FUSE_KERNEL and stride == 1 and in_channels >= FUSE_FROM * out_channels
        self.fused = worthwhile if fused is None else fused
        if self.fused and stride > 1:
            raise ValueError(
                f'a global convolution with stride={stride} cannot be fused; leave out fused=True'
            )

    def first_fused(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both first convolutions of (B, C, H, W): every tap's product with every position at once, then each moved to where it counts."""
        k, (height, width) = self.kernel_size, x.shape[-2:]
        # flipped: the last tap looks furthest down, so that its products move up
        taps = [
            weight.squeeze(axis).flip(2).permute(0, 2, 1).flatten(0, 1)
            for weight, axis in ((self.left1.weight, 3), (self.right1.weight, 2))
        ]
        products = torch.cat(taps).to(x.dtype) @ x.flatten(2)
        moved = []
        for part, conv, kernel, padding in zip(
            products.chunk(2, dim=1),
            (self.left1, self.right1),
            ((k, 1), (1, k)),
            ((k // 2, 0), (0, k // 2)),
            strict=True,
        ):
            out = F.fold(part, (height, width), kernel, padding=padding)
            moved.append(out if conv.bias is None else out + conv.bias.view(1, -1, 1, 1))
        return moved[0], moved[1]

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to scores (B, K, H, W)."""
        left, right = self.first_fused(x) if self.fused else (self.left1(x), self.right1(x))
        return self.left2(left) + self.right2(right)


class BoundaryRefine(nn.Module):
    """A residual block that sharpens scores: x + conv(ReLU(conv(x))), 3 x 3, no batch norm (figure 2 C).

    Args:
        channels: of the scores.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, H, W) to the same shape."""
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class Upsample(nn.Module):
    """Enlarge a map by a whole factor: by a learned transposed convolution that begins as bilinear interpolation, or by that itself.

    Args:
        channels: of the map.
        factor: even, or 1 for none.
        learned: the transposed convolution.
    """

    def __init__(self, channels: int, factor: int, learned: bool):
        super().__init__()
        if factor != 1 and (factor < 1 or factor % 2):
            raise ValueError(f'a map is enlarged by 1 or an even factor, not {factor}')
        self.factor = factor
        self.deconv = None
        if learned and factor > 1:
            self.deconv = nn.ConvTranspose2d(channels, channels, 2 * factor, factor, factor // 2, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Bilinear interpolation of every channel by itself (Long et al., CVPR 2015, section 3.3)."""
        if self.deconv is None:
            return
        size = self.deconv.kernel_size[0]
        ramp = 1 - (torch.arange(size) - (size - 1) / 2).abs() / self.factor
        self.deconv.weight.zero_()
        for channel in range(len(self.deconv.weight)):
            self.deconv.weight[channel, channel] = ramp[:, None] * ramp

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """(B, K, H, W) to (B, K, factor * H, factor * W), or to ``size`` where odd sizes were rounded."""
        if self.deconv is not None:
            x = self.deconv(x)
            target = size
        else:
            target = size or (self.factor * x.shape[-2], self.factor * x.shape[-1])
        if target is None or tuple(x.shape[-2:]) == tuple(target):
            return x
        return F.interpolate(x, size=tuple(target), mode='bilinear', align_corners=False)


@MODELS.register_module()
class GlobalConvHead(BaseDecodeHead):
    """Decode head of GCN (figure 2): scores of every level by a large kernel, added from the top down, refined nine times.

    mmseg has no GCN (its GCHead is the global context block). Scores of the four levels (global convolution,
    refinement); from the smallest
    up: enlarge, add the next level's, refine; then twice enlarge and refine, to the size of the image where
        the first level has a stride of
    4.

    Args:
        in_channels: widths of the levels, finest first.
        num_classes: K.
        kernel_size: k of the global convolutions, or one a level.
        boundary_refine: with the nine refinements.
        upsample: 'deconv', learned from bilinear interpolation as in the paper, or 'bilinear'.
        strides: of the levels in the image; equal ones are added without enlarging, as from a dilated
            backbone or a ViT.
        in_index: which outputs of the backbone; all of them in order when None.
        others: of mmseg's BaseDecodeHead.

    Raises:
        ValueError: an even kernel, numbers of levels that differ, strides that do not double.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        kernel_size: int | Sequence[int] = 15,
        boundary_refine: bool = True,
        upsample: str = 'deconv',
        strides: Sequence[int] = (4, 8, 16, 32),
        in_index: Sequence[int] | None = None,
        **kwargs,
    ):
        levels = len(in_channels)
        kernels = [kernel_size] * levels if isinstance(kernel_size, int) else list(kernel_size)
        if upsample not in ('deconv', 'bilinear'):
            raise ValueError(f"upsample={upsample!r} of GlobalConvHead; 'deconv' or 'bilinear'")
        if not len(kernels) == len(strides) == levels:
            raise ValueError(
                f'GlobalConvHead has {levels} levels, {len(kernels)} kernel sizes and {len(strides)} strides; each level has '
                'one of both'
            )
        if any(below % above for above, below in zip(strides, strides[1:], strict=False)):
            raise ValueError(
                f'strides={tuple(strides)} of GlobalConvHead: each must be a multiple of the one before'
            )
        settings = {'dropout_ratio': 0.0, 'init_cfg': None, **kwargs}
        settings.pop('channels', None)
        super().__init__(
            in_channels=list(in_channels),
            channels=num_classes,
            num_classes=num_classes,
            input_transform='multiple_select',
            in_index=list(range(levels)) if in_index is None else list(in_index),
            **settings,
        )
        scores = self.out_channels
        self.conv_seg = None  # every level has scores already
        learned = upsample == 'deconv'
        refine = BoundaryRefine if boundary_refine else lambda channels: nn.Identity()
        self.gcn = nn.ModuleList(
            GlobalConvBlock(width, scores, k) for width, k in zip(in_channels, kernels, strict=True)
        )
        self.refine_level = nn.ModuleList(refine(scores) for _ in range(levels))
        self.up = nn.ModuleList(
            Upsample(scores, below // above, learned)
            for above, below in zip(strides, strides[1:], strict=False)
        )
        self.refine_sum = nn.ModuleList(refine(scores) for _ in range(levels - 1))
        self.last_up = nn.ModuleList(Upsample(scores, 2, learned) for _ in range(2))
        self.refine_last = nn.ModuleList(refine(scores) for _ in range(2))

    def init_weights(self) -> None:
        """Convolutions by He's rule for their inputs, refinements near the identity, deconvolutions bilinear."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity='linear')
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for module in self.modules():
            if isinstance(module, BoundaryRefine):
                nn.init.normal_(module.conv2.weight, std=0.01)
            elif isinstance(module, Upsample):
                module.reset_parameters()

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Maps of the backbone to scores (B, K, 4 * H, 4 * W), H and W of the finest level."""
        maps = self._transform_inputs(inputs)
        scores = [
            refine(gcn(level)) for refine, gcn, level in zip(self.refine_level, self.gcn, maps, strict=True)
        ]
        out = scores.pop()
        for index in reversed(range(len(scores))):
            out = self.refine_sum[index](self.up[index](out, scores[index].shape[-2:]) + scores[index])
        for up, refine in zip(self.last_up, self.refine_last, strict=True):
            out = refine(up(out))
        return out


@MODELS.register_module()
class GCNResNet(ResNet):
    """ResNet-GCN: a ResNet whose bottlenecks hold a global convolution in the place of the 3 x 3 one, its batch norm kept (section 4.3).

    (B, 3, H, W) goes to the maps of the four stages with strides of 4, 8, 16, 32. State-dict keys are those
    of any ResNet but for ``layer*.*.conv2``; weights of a plain ResNet fit all the rest.

    Args:
        depth: 50, 101 or 152.
        kernel_size: k of the global convolutions, or one a stage; 0 leaves a stage as it is.
        others: of mmseg's ResNet.

    Raises:
        ValueError: a depth without bottlenecks, a dilated stage, a number of kernels that differs from that
            of the stages.
    """

    def __init__(self, depth: int = 50, kernel_size: int | Sequence[int] = 5, **kwargs):
        if depth < 50:
            raise ValueError(f'depth={depth} of GCNResNet has no bottlenecks; there are 50, 101 and 152')
        super().__init__(depth=depth, **kwargs)
        kernels = [kernel_size] * len(self.res_layers) if isinstance(kernel_size, int) else list(kernel_size)
        if len(kernels) != len(self.res_layers):
            raise ValueError(
                f'kernel_size={kernel_size} of GCNResNet names {len(kernels)} stages, the network has {len(self.res_layers)}'
            )
        for name, k in zip(self.res_layers, kernels, strict=True):
            for block in getattr(self, name) if k else ():
                conv = block.conv2
                if max(conv.dilation) > 1:
                    raise ValueError(
                        f'{name} of GCNResNet has a dilation of {conv.dilation[0]}, which a global convolution does not need; '
                        'leave out dilations and strides'
                    )
                block.conv2 = GlobalConvBlock(conv.in_channels, conv.out_channels, k, stride=conv.stride[0])
        self._freeze_stages()

    def train(self, mode: bool = True) -> 'GCNResNet':
        """As the host's, which forgets to return the module."""
        super().train(mode)
        return self
