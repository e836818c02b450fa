"""Deformable layers and backbones (Dai et al., arXiv:1703.06211; Zhu et al., arXiv:1811.11168; Wang et al., arXiv:2211.05778).

The layers stand where a host takes a convolution, ``conv_cfg=dict(type='mmssl.DeformConv')`` or a backbone's
``dcn=``, compute on our own operators and need no compiled ones. Names of weights are those of the released
files.
"""

from collections.abc import Sequence

import torch
from mmcv.cnn import build_conv_layer
from mmcv.ops import ModulatedDeformConv2d
from mmdet.models.backbones import ResNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from mmssl.ops import dcnv3, deform_conv2d
from mmssl.registry import MODELS


@MODELS.register_module()
class DeformConv(ModulatedDeformConv2d):
    """Convolution that predicts where its taps read, and by how much each counts: mmcv's ``DCNv2``, or ``DCN`` without ``modulated``.

    Begins as a convolution; with ``modulated`` as half of one, since every tap counts sigmoid(0). Host
    classes are its parents, so that ``paramwise_cfg=dict(dcn_offset_lr_mult=0.1)`` finds it; v1 of the host
    keeps random offsets when a backbone is initialised, here they are zero.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias: as of ``nn.Conv2d``.
        deform_groups: parts of the input channels with offsets of their own.
        modulated: weigh the taps (v2).
        backend: of :func:`mmssl.ops.deform_conv2d`.

    Raises:
        ValueError: channels that do not divide into the groups.
    """

    _version = 2

    def __init__(
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
                f'DeformConv with {in_channels} input and {out_channels} output channels does not divide into '
                f'deform_groups={deform_groups} and groups={groups}'
            )
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, deform_groups, bias
        )
        self.modulated, self.backend = modulated, backend
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
        """Weights uniform in +-1 / sqrt(fan in), offsets zero."""
        super().init_weights()
        if hasattr(self, 'conv_offset'):  # the host's constructor calls this too
            nn.init.zeros_(self.conv_offset.weight)
            nn.init.zeros_(self.conv_offset.bias)

    def offsets(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Offsets (B, 2 * deform_groups * K, H', W'), (y, x) of a tap in turn, and weights (B, deform_groups * K, H', W') of the taps."""
        moved = self.conv_offset(x)
        if not self.modulated:
            return moved, None
        two_thirds = moved.shape[1] // 3 * 2
        return moved[:, :two_thirds], moved[:, two_thirds:].sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H', W')."""
        offset, mask = self.offsets(x)
        return deform_conv2d(
            x, offset, self.weight, self.bias, self.stride, self.padding, self.dilation, mask, self.backend
        )

    def extra_repr(self) -> str:
        """Settings in the model's text."""
        return (
            f'{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, '
            f'dilation={self.dilation}, groups={self.groups}, deform_groups={self.deform_groups}, modulated={self.modulated}'
        )


class _ChannelsLast(nn.Module):
    """(B, C, H, W) to (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


@MODELS.register_module()
class DCNv3(nn.Module):
    """Deformable convolution of InternImage: no weights a tap, but softmaxed ones that every position predicts for groups of channels.

    Has the names of InternImage's module (``dw_conv``, ``offset``, ``mask``, ``input_proj``, ``output_proj``)
    and the arguments of a convolution, so that ``conv_cfg`` can name it. Begins as the mean over its taps
    between two linear layers.

    Args:
        in_channels, out_channels, stride, dilation, bias: as of ``nn.Conv2d``; ``bias`` is that of the last
            linear layer.
        groups: 1; convolutions are built with it.
        kernel_size: K of both sides.
        padding: by default dilation * (K - 1) / 2.
        deform_groups: parts of the channels with offsets and weights of their own.
        dw_kernel_size: of the depthwise layer that sees where to look; by default K.
        offset_scale: multiplies the distance of the taps from their centre.
        center_feature_scale: mix the input back in, by a share a group (InternImage-H); needs stride 1 and as
            many channels out as in.
        remove_center: without the middle tap.
        channels_last: maps are (B, H, W, C), as inside InternImage.

    Raises:
        ValueError: channels that do not divide into the groups, or settings that do not go together.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        deform_groups: int = 4,
        dw_kernel_size: int | None = None,
        offset_scale: float = 1.0,
        center_feature_scale: bool = False,
        remove_center: bool = False,
        channels_last: bool = False,
    ):
        super().__init__()
        out_channels = in_channels if out_channels is None else out_channels
        kernel, steps, spread = _pair(kernel_size), _pair(stride), _pair(dilation)
        if groups != 1:
            raise ValueError(
                f'groups={groups}: DCNv3 has no weights that groups could split; deform_groups splits its offsets'
            )
        if in_channels % deform_groups:
            raise ValueError(
                f'DCNv3 with {in_channels} channels does not divide into deform_groups={deform_groups}'
            )
        if center_feature_scale and (steps != (1, 1) or out_channels != in_channels):
            raise ValueError(
                f'center_feature_scale of DCNv3 adds its input: stride {steps} must be 1 and out_channels={out_channels} '
                f'must be in_channels={in_channels}'
            )
        self.kernel_size, self.stride, self.dilation = kernel, steps, spread
        same = tuple(d * (k - 1) // 2 for d, k in zip(spread, kernel, strict=True))
        self.padding = same if padding is None else _pair(padding)
        if self.padding != same:
            raise ValueError(
                f'padding={self.padding} of DCNv3 must be {same}, so that its offsets have the size of its output'
            )
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, deform_groups
        self.offset_scale, self.remove_center, self.channels_last = offset_scale, remove_center, channels_last
        seen = kernel_size if dw_kernel_size is None else dw_kernel_size
        taps = deform_groups * (kernel[0] * kernel[1] - int(remove_center))
        self.dw_conv = nn.Sequential(
            nn.Conv2d(
                in_channels,
                in_channels,
                seen,
                steps,
                tuple((side - 1) // 2 for side in _pair(seen)),
                groups=in_channels,
            ),
            nn.Sequential(_ChannelsLast(), nn.LayerNorm(in_channels)),
            nn.GELU(),
        )
        self.offset = nn.Linear(in_channels, 2 * taps)
        self.mask = nn.Linear(in_channels, taps)
        self.input_proj = nn.Linear(in_channels, in_channels)
        self.output_proj = nn.Linear(in_channels, out_channels, bias=bias)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(deform_groups, in_channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(deform_groups))
        self.center_feature_scale = center_feature_scale
        self.transposed, self.output_padding = (
            False,
            (0, 0),
        )  # what the host's ConvModule asks of a convolution
        self.init_weights()

    def init_weights(self) -> None:
        """Projections by Xavier, offsets and mask zero."""
        for part in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)
        self.dw_conv[0].reset_parameters()
        for part in (self.offset, self.mask):
            nn.init.zeros_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H', W'); with ``channels_last`` (B, H, W, C) to (B, H', W', D)."""
        last = x if self.channels_last else x.permute(0, 2, 3, 1)
        projected = self.input_proj(last)
        seen = self.dw_conv(last.permute(0, 3, 1, 2))
        mask = self.mask(seen).unflatten(-1, (self.groups, -1)).softmax(-1).flatten(-2)
        out = dcnv3(
            projected,
            self.offset(seen),
            mask,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            self.offset_scale,
            self.remove_center,
        )
        if self.center_feature_scale:
            share = F.linear(
                seen, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
            ).sigmoid()
            share = share.repeat_interleave(self.in_channels // self.groups, dim=-1)
            out = out * (1 - share) + projected * share
        out = self.output_proj(out)
        return out if self.channels_last else out.permute(0, 3, 1, 2)


@MODELS.register_module()
class DeformResNet(ResNet):
    """ResNet whose 3x3 convolutions of chosen blocks are deformable; names of weights as the host's with ``dcn=``.

    For what ``dcn=`` of mmdet's ResNet cannot say: only the last blocks of a stage (the FPN of Deformable
    ConvNets takes res3b3, res4b22 and all of res5), ResNet-18 and 34, ``fallback_on_stride`` in every stage
    (the host takes it out of the settings at the first block). The settings stay as they are, and the offsets
    begin at zero whichever layer it is. By default R-FCN's: conv5, version 1, 4 groups. (B, 3, H, W) goes to
    the maps of the stages.

    Args:
        depth: 18, 34, 50, 101 or 152.
        dcn: the layer; ``fallback_on_stride=True`` leaves a convolution with a stride as it is.
        deform_blocks: of each stage, how many of its last blocks; True for all.
        others: of mmdet's ResNet.

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
        super().__init__(depth=depth, **kwargs)
        dcn = (
            {'type': 'mmssl.DeformConv', 'deform_groups': 4, 'modulated': False} if dcn is None else dict(dcn)
        )
        fallback = dcn.pop('fallback_on_stride', False)
        if len(deform_blocks) != self.num_stages:
            raise ValueError(
                f'deform_blocks={tuple(deform_blocks)} must have {self.num_stages} entries, one a stage'
            )
        self.deform_blocks = tuple(deform_blocks)
        for name, count in zip(self.res_layers, deform_blocks, strict=True):
            stage = getattr(self, name)
            if not 0 <= count <= len(stage):
                raise ValueError(
                    f'deform_blocks={tuple(deform_blocks)}: {name} of a ResNet-{depth} has {len(stage)} blocks'
                )
            for block in list(stage)[0 if count is True else len(stage) - count :]:
                if not (fallback and block.conv2.stride != (1, 1)):
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
        """As the host's; offsets begin at zero, unless they come with pre-trained weights."""
        super().init_weights()
        if not (isinstance(self.init_cfg, dict) and self.init_cfg.get('type') == 'Pretrained'):
            for name, parameter in self.named_parameters():
                if '.conv_offset.' in name:
                    nn.init.zeros_(parameter)

    def train(self, mode: bool = True) -> 'DeformResNet':
        """As the host's, which forgets to return the module."""
        super().train(mode)
        return self
