"""Large kernels for segmentation: the global convolutional network, GCN (Peng et al., CVPR 2017, 1703.02719).

Classifying a pixel needs a kernel as large as the object. A k x k kernel is factorised into k x 1 followed by
1 x k, plus 1 x k followed by k x 1, without a nonlinearity in between, so that k may be as large as the map.
A residual block then refines the boundaries.
"""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from mmseg.models.backbones import ResNet
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.layers.unused_arguments import refuse_unused
from mmssl.ops.switch import always, fast_form, tracing
from mmssl.registry import MODELS
from mmssl.segmentation.large_kernels import StackedConvBlock, TrivialConvBlock

# from this ratio of input to output channels and this kernel size on, one matrix product is faster than the
# two first convolutions
MIN_CHANNEL_RATIO = 24
MIN_FUSED_KERNEL = 9
# settings of mmseg's heads for hidden layers, and their defaults
UNUSED = {'conv_cfg': None, 'norm_cfg': None, 'act_cfg': {'type': 'ReLU'}}


class GlobalConvBlock(nn.Module):
    """Global convolution: k x 1 then 1 x k, plus 1 x k then k x 1 (figure 3, block B).

    Args:
        in_channels: Input channels C.
        out_channels: Output channels K, the number of classes.
        kernel_size: k, odd.
        bias: Whether the four convolutions have biases; without them the block has the number of parameters
            in the paper (table 2).
        stride: Stride of the block; each convolution of a branch strides along its own kernel.
        fused: Compute the two first convolutions as one matrix product, equal up to rounding; None decides by
            the channels and the kernel.

    Raises:
        ValueError: The kernel is even, or ``fused=True`` is combined with a stride.
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
                f'kernel_size={kernel_size} of a global convolution must be odd, so that the map keeps its '
                f'size; use {max(1, kernel_size - 1)} or {kernel_size + 1}'
            )
        pad = kernel_size // 2
        vertical = {'kernel_size': (kernel_size, 1), 'padding': (pad, 0), 'stride': (stride, 1)}
        horizontal = {'kernel_size': (1, kernel_size), 'padding': (0, pad), 'stride': (1, stride)}
        self.left1 = nn.Conv2d(in_channels, out_channels, bias=bias, **vertical)
        self.left2 = nn.Conv2d(out_channels, out_channels, bias=bias, **horizontal)
        self.right1 = nn.Conv2d(in_channels, out_channels, bias=bias, **horizontal)
        self.right2 = nn.Conv2d(out_channels, out_channels, bias=bias, **vertical)
        self.kernel_size = kernel_size
        if fused is None:
            few_outputs = in_channels >= MIN_CHANNEL_RATIO * out_channels
            fused = stride == 1 and kernel_size >= MIN_FUSED_KERNEL and few_outputs
        if fused and stride > 1:
            raise ValueError(
                f'a global convolution with stride={stride} cannot be fused; leave out fused=True'
            )
        self.fused = fused

    @fast_form('mmssl.ops.fast.global_conv:first_convolutions', when=always)
    def first(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """First convolution of each branch: (B, C, H, W) to twice (B, K, H, W)."""
        return self.left1(x), self.right1(x)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to scores (B, K, H, W)."""
        left, right = self.first(x)
        return self.left2(left) + self.right2(right)


class BoundaryRefine(nn.Module):
    """Residual block that refines scores: x + conv(ReLU(conv(x))), 3 x 3, without batch norm (figure 2 C).

    Args:
        channels: Channels of the scores, K.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, K, H, W) to the same shape."""
        return x + self.conv2(F.relu(self.conv1(x), inplace=True))


class Upsample(nn.Module):
    """Upsampling by a whole factor, bilinear or by a transposed convolution that is initialised as bilinear.

    Args:
        channels: Channels of the map, K.
        factor: Upsampling factor, even, or 1 for none.
        learned: Use the transposed convolution.
    """

    def __init__(self, channels: int, factor: int, learned: bool):
        super().__init__()
        if factor != 1 and (factor < 1 or factor % 2):
            raise ValueError(f'the upsampling factor must be 1 or even, not {factor}')
        self.factor = factor
        self.deconv = None
        if learned and factor > 1:
            self.deconv = nn.ConvTranspose2d(channels, channels, 2 * factor, factor, factor // 2, bias=False)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the weights to bilinear interpolation of each channel (Long et al., CVPR 2015, section 3.3)."""
        if self.deconv is None:
            return
        size = self.deconv.kernel_size[0]
        ramp = 1 - (torch.arange(size) - (size - 1) / 2).abs() / self.factor
        self.deconv.weight.zero_()
        for channel in range(len(self.deconv.weight)):
            self.deconv.weight[channel, channel] = ramp[:, None] * ramp

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """(B, K, H, W) to (B, K, factor * H, factor * W), or to ``size`` where a stride was rounded."""
        if self.deconv is not None:
            x = self.deconv(x)
            target = size
        else:
            target = size or (self.factor * x.shape[-2], self.factor * x.shape[-1])
        # a trace has no branches: resizing to the same size changes nothing
        if target is None or (not tracing() and tuple(x.shape[-2:]) == tuple(target)):
            return x
        return F.interpolate(x, size=tuple(target), mode='bilinear', align_corners=False)


@MODELS.register_module()
class GlobalConvHead(BaseDecodeHead):
    """Decode head of GCN (figure 2).

    Each level of the backbone gets scores by a global convolution and a boundary refinement. From the
    coarsest level up, the scores are upsampled, added to those of the next level and refined; at the end they
    are upsampled by 2 and refined twice, to the size of the image if the first level has stride 4.

    Args:
        in_channels: Channels of the levels, finest first.
        num_classes: K.
        kernel_size: k of the global convolutions, or a list with a k for each level.
        convolution: 'global', or what the paper compares it with: 'trivial', k x k, or 'stack', (k - 1) / 2
            convolutions of 3 x 3.
        hidden_channels: Channels within a stack; those of the level if None.
        boundary_refine: Use the boundary refinements, nine for four levels.
        upsample: 'deconv', learned and initialised as bilinear interpolation as in the paper, or 'bilinear'.
        strides: Strides of the levels in the image; levels of equal stride are added without upsampling, as
            for a dilated backbone or a ViT.
        in_index: Indices of the backbone's outputs; all of them in order if None.
        **kwargs: Passed on to mmseg's BaseDecodeHead. ``dropout_ratio``, 0 by default, is applied to the maps
            of the backbone, from which the scores are computed.

    Raises:
        ValueError: A kernel is even, the numbers of levels differ, a stride is not a multiple of the one
            before, or a setting of mmseg's heads would have no effect, such as ``norm_cfg``.
    """

    # mmseg's GCHead is another method, the global context block

    def __init__(  # noqa: PLR0913  called by configs
        self,
        in_channels: Sequence[int],
        num_classes: int,
        kernel_size: int | Sequence[int] = 15,
        convolution: str = 'global',
        hidden_channels: int | None = None,
        boundary_refine: bool = True,
        upsample: str = 'deconv',
        strides: Sequence[int] = (4, 8, 16, 32),
        in_index: Sequence[int] | None = None,
        **kwargs,
    ):
        levels = len(in_channels)
        kernels = [kernel_size] * levels if isinstance(kernel_size, int) else list(kernel_size)
        block = _block(convolution, hidden_channels)
        if upsample not in ('deconv', 'bilinear'):
            raise ValueError(f"upsample={upsample!r} of GlobalConvHead; 'deconv' or 'bilinear'")
        if not len(kernels) == len(strides) == levels:
            raise ValueError(
                f'GlobalConvHead has {levels} levels, {len(kernels)} kernel sizes and {len(strides)} '
                'strides; '
                'these numbers must be equal'
            )
        if any(coarse % fine for fine, coarse in pairwise(strides)):
            raise ValueError(
                f'strides={tuple(strides)} of GlobalConvHead: each must be a multiple of the previous one'
            )
        unused = {**UNUSED, 'channels': num_classes, 'input_transform': 'multiple_select'}
        refuse_unused('GlobalConvHead', kwargs, unused, 'it has neither hidden channels nor batch norms')
        settings = {'dropout_ratio': 0.0, 'init_cfg': None, **kwargs}
        super().__init__(
            **{
                **settings,
                'in_channels': list(in_channels),
                'channels': num_classes,
                'num_classes': num_classes,
                'input_transform': 'multiple_select',
                'in_index': list(range(levels)) if in_index is None else list(in_index),
            }
        )
        scores = self.out_channels
        self.conv_seg = None  # the levels are scores already
        learned = upsample == 'deconv'
        refine = BoundaryRefine if boundary_refine else lambda channels: nn.Identity()
        self.gcn = nn.ModuleList(
            block(width, scores, k) for width, k in zip(in_channels, kernels, strict=True)
        )
        self.refine_level = nn.ModuleList(refine(scores) for _ in range(levels))
        self.up = nn.ModuleList(
            Upsample(scores, coarse // fine, learned) for fine, coarse in pairwise(strides)
        )
        self.refine_sum = nn.ModuleList(refine(scores) for _ in range(levels - 1))
        self.last_up = nn.ModuleList(Upsample(scores, 2, learned) for _ in range(2))
        self.refine_last = nn.ModuleList(refine(scores) for _ in range(2))

    def init_weights(self) -> None:
        """Initialise convolutions by He's rule, refinements near identity, deconvolutions as bilinear.

        A given ``init_cfg`` is applied afterwards.
        """
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
        if self.init_cfg:
            super().init_weights()

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Feature maps to scores (B, K, 4 * H, 4 * W), with H and W of the finest level."""
        maps = self._transform_inputs(inputs)
        if self.dropout is not None:
            maps = [self.dropout(level) for level in maps]
        scores = [
            refine(gcn(level)) for level, gcn, refine in zip(maps, self.gcn, self.refine_level, strict=True)
        ]
        out = scores.pop()
        for level, up, refine in reversed(list(zip(scores, self.up, self.refine_sum, strict=True))):
            out = refine(up(out, level.shape[-2:]) + level)
        for up, refine in zip(self.last_up, self.refine_last, strict=True):
            out = refine(up(out))
        return out


def _block(convolution: str, hidden_channels: int | None) -> Callable[[int, int, int], nn.Module]:
    """Return what makes a block of (in_channels, out_channels, kernel_size)."""
    blocks = {'global': GlobalConvBlock, 'trivial': TrivialConvBlock, 'stack': StackedConvBlock}
    if convolution not in blocks:
        raise ValueError(f'convolution={convolution!r} of GlobalConvHead; one of {", ".join(blocks)}')
    if convolution == 'stack':
        return partial(StackedConvBlock, hidden_channels=hidden_channels)
    if hidden_channels is not None:
        raise ValueError(
            f"hidden_channels={hidden_channels} of GlobalConvHead is for convolution='stack'; leave it out"
        )
    return blocks[convolution]


@MODELS.register_module()
class GCNResNet(ResNet):
    """ResNet-GCN: a ResNet with global convolutions in its bottlenecks instead of 3 x 3 ones (section 4.3).

    The batch norms stay. Images (B, 3, H, W) become the maps of the four stages, with strides 4, 8, 16 and
    32. State-dict keys are those of a ResNet except ``layer*.*.conv2``; all other weights of a ResNet fit.

    Args:
        depth: 50, 101 or 152.
        kernel_size: k of the global convolutions, or a list with a k for each stage; 0 leaves a stage as it
            is.
        **kwargs: Passed on to mmseg's ResNet.

    Raises:
        ValueError: The depth has no bottlenecks, a stage is dilated, or the number of kernels is not the
            number of stages.
    """

    def __init__(self, depth: int = 50, kernel_size: int | Sequence[int] = 5, **kwargs):
        if depth < 50:
            raise ValueError(f'depth={depth} of GCNResNet has no bottlenecks; there are 50, 101 and 152')
        refuse_unused('GCNResNet', kwargs, {'dcn': None}, 'global convolutions replace the 3 x 3 ones')
        super().__init__(depth=depth, **kwargs)
        kernels = [kernel_size] * len(self.res_layers) if isinstance(kernel_size, int) else list(kernel_size)
        if len(kernels) != len(self.res_layers):
            raise ValueError(
                f'kernel_size={kernel_size} of GCNResNet names {len(kernels)} stages, the network has '
                f'{len(self.res_layers)}'
            )
        for name, k in zip(self.res_layers, kernels, strict=True):
            for block in getattr(self, name) if k else ():
                conv = block.conv2
                if max(conv.dilation) > 1:
                    raise ValueError(
                        f'{name} of GCNResNet has a dilation of {conv.dilation[0]}, which a global '
                        'convolution '
                        'does not need; leave out dilations and strides'
                    )
                block.conv2 = GlobalConvBlock(conv.in_channels, conv.out_channels, k, stride=conv.stride[0])
        self._freeze_stages()

    def train(self, mode: bool = True) -> 'GCNResNet':
        """Set the training mode and return the module, which mmseg's method does not."""
        super().train(mode)
        return self
