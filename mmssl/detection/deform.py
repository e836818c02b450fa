"""Deformable convolution as a layer and in a ResNet (DCN, arXiv:1703.06211; DCNv2, arXiv:1811.11168).

The layers take the place of a convolution in the toolboxes, by ``conv_cfg=dict(type='mmssl.DeformConv')`` or
by ``dcn=`` of a backbone. They use :mod:`mmssl.ops` and need no compiled operators. Parameter names are those
of the released checkpoints.
"""

from collections.abc import Sequence

from mmcv.cnn import build_conv_layer
from mmcv.ops import ModulatedDeformConv2d
from mmdet.models.backbones import ResNet
from torch import Tensor, nn

from mmssl.detection.dcnv3 import DCNv3
from mmssl.layers.unused_arguments import refuse_unused
from mmssl.ops import deform_conv2d
from mmssl.registry import MODELS

__all__ = ['DCNv3', 'DeformConv', 'DeformResNet']


@MODELS.register_module()
class DeformConv(ModulatedDeformConv2d):
    """Deformable convolution, which predicts an offset of each tap and, if modulated, its weight.

    Replaces ``DCNv2`` of mmcv, or ``DCN`` without ``modulated``. With zero offsets it is a convolution, or
    with ``modulated`` half of it, since each tap is weighted by sigmoid(0). It derives from mmcv's class, so
    that ``paramwise_cfg=dict(dcn_offset_lr_mult=0.1)`` applies.

    Args:
        in_channels: Input channels C.
        out_channels: Output channels D.
        kernel_size: Side or (height, width) of the kernel, K taps in all.
        stride: Stride of the convolution.
        padding: Zeros on each side of the map.
        dilation: Distance of the taps.
        groups: Number of groups of channels, as in ``nn.Conv2d``.
        deform_groups: Number of groups of input channels, each with its own offsets.
        bias: Whether the output has a bias.
        modulated: Weight the taps (v2).
        backend: Backend of :func:`mmssl.ops.deform_conv2d`.

    Raises:
        ValueError: The channels do not divide into the groups.
    """

    _version = 2

    def __init__(  # noqa: PLR0913
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        deform_groups: int = 1,
        bias: bool = True,
        modulated: bool = True,
        backend: str = 'auto',
    ):
        if in_channels % deform_groups or in_channels % groups or out_channels % groups:
            raise ValueError(
                f'DeformConv with {in_channels} input and {out_channels} output channels does not divide '
                'into '
                f'deform_groups={deform_groups} and groups={groups}'
            )
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, deform_groups, bias
        )
        self.modulated = modulated
        self.backend = backend
        taps = self.kernel_size[0] * self.kernel_size[1]
        self.conv_offset = nn.Conv2d(
            in_channels,
            (3 if modulated else 2) * deform_groups * taps,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
        )
        self.init_weights()

    def init_weights(self) -> None:
        """Initialise weights uniformly in +-1 / sqrt(fan in), and offsets with zero."""
        super().init_weights()
        if hasattr(self, 'conv_offset'):  # mmcv's constructor calls this too
            nn.init.zeros_(self.conv_offset.weight)
            nn.init.zeros_(self.conv_offset.bias)

    def offsets(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Predict the offsets and weights of the taps.

        Args:
            x: (B, C, H, W).

        Returns:
            Offsets (B, 2 * deform_groups * K, H', W') with y and x of a tap in turn, and tap weights
            (B, deform_groups * K, H', W'), None without ``modulated``.
        """
        predicted = self.conv_offset(x)
        if not self.modulated:
            return predicted, None
        two_thirds = predicted.shape[1] // 3 * 2
        return predicted[:, :two_thirds], predicted[:, two_thirds:].sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H', W')."""
        offset, mask = self.offsets(x)
        return deform_conv2d(
            x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask, self.backend
        )

    def extra_repr(self) -> str:
        """Settings shown by ``print(model)``."""
        return (
            f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, '
            f'padding={self.padding}, dilation={self.dilation}, groups={self.groups}, '
            f'deform_groups={self.deform_groups}, modulated={self.modulated}'
        )


@MODELS.register_module()
class DeformResNet(ResNet):
    """ResNet with deformable 3x3 convolutions in the last blocks of chosen stages.

    Goes beyond ``dcn=`` of mmdet's ResNet in four ways: only the last blocks of a stage can be deformable
    (the FPN of Deformable ConvNets uses res3b3, res4b22 and all of res5); ResNet-18 and 34 are supported;
    ``fallback_on_stride`` holds for all stages; offsets are initialised with zero for any layer type.
    Parameter names are mmdet's. The defaults are those of deformable R-FCN: all of conv5, version 1, 4
    groups. Images (B, 3, H, W) become the feature maps of the stages.

    Args:
        depth: 18, 34, 50, 101 or 152.
        dcn: Config of the layer; ``fallback_on_stride=True`` keeps convolutions with a stride as they are.
        deform_blocks: Number of deformable blocks of each stage, counted from its end; True for all.
        **kwargs: Passed on to mmdet's ResNet.

    Raises:
        ValueError: ``deform_blocks`` does not fit the stages.
    """

    def __init__(
        self,
        depth: int,
        dcn: dict | None = None,
        deform_blocks: Sequence[int | bool] = (0, 0, 0, True),
        **kwargs,
    ):
        unused = {'stage_with_dcn': (False, False, False, False)}
        refuse_unused(type(self).__name__, kwargs, unused, 'deform_blocks names the deformable blocks')
        super().__init__(depth=depth, **kwargs)
        if dcn is None:
            dcn = {'type': 'mmssl.DeformConv', 'deform_groups': 4, 'modulated': False}
        dcn = dict(
            dcn
        )  # a copy: mmdet pops fallback_on_stride from the config itself, for the first block only
        fallback_on_stride = dcn.pop('fallback_on_stride', False)
        if len(deform_blocks) != self.num_stages:
            raise ValueError(
                f'deform_blocks={tuple(deform_blocks)} must have {self.num_stages} entries, for each stage '
                'one'
            )
        self.deform_blocks = tuple(deform_blocks)
        for name, count in zip(self.res_layers, deform_blocks, strict=True):
            blocks = list(getattr(self, name))
            if not 0 <= count <= len(blocks):
                raise ValueError(
                    f'deform_blocks={tuple(deform_blocks)}: {name} of a ResNet-{depth} has {len(blocks)} '
                    'blocks'
                )
            for block in blocks if count is True else blocks[len(blocks) - count :]:
                if not (fallback_on_stride and block.conv2.stride != (1, 1)):
                    block.conv2 = self._deformable(block.conv2, dcn)
        self._freeze_stages()

    @staticmethod
    def _deformable(conv: nn.Conv2d, dcn: dict) -> nn.Module:
        return build_conv_layer(
            dcn,
            conv.in_channels,
            conv.out_channels,
            kernel_size=conv.kernel_size,
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            bias=False,
        )

    def init_weights(self) -> None:
        """Initialise as mmdet does, and set offsets to zero unless they come with pre-trained weights."""
        super().init_weights()
        if not (isinstance(self.init_cfg, dict) and self.init_cfg.get('type') == 'Pretrained'):
            for name, parameter in self.named_parameters():
                if '.conv_offset.' in name:
                    nn.init.zeros_(parameter)

    def train(self, mode: bool = True) -> 'DeformResNet':
        """Set the training mode and return the module, which mmdet's method does not."""
        super().train(mode)
        return self
