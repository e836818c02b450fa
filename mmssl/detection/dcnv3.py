"""DCNv3, the deformable convolution of InternImage (Wang et al., CVPR 2023, arXiv:2211.05778)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.utils import _pair

from mmssl.ops import dcnv3
from mmssl.registry import MODELS


class _ChannelsLast(nn.Module):
    """(B, C, H, W) to (B, H, W, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(0, 2, 3, 1)


@MODELS.register_module()
class DCNv3(nn.Module):
    """Deformable convolution whose taps are weighted by a softmax that each position predicts for each group.

    The kernel has no weights of its own. Parameter names are those of InternImage (``dw_conv``, ``offset``,
    ``mask``, ``input_proj``, ``output_proj``), arguments those of a convolution, so that ``conv_cfg`` can
    name this class. It is initialised as the mean over its taps between two linear layers.

    Args:
        in_channels: Input channels C.
        out_channels: Output channels D; C if None.
        kernel_size: K, the side of the kernel.
        stride: Stride of the convolution.
        padding: Must be dilation * (K - 1) / 2, the default.
        dilation: Distance of the taps.
        groups: Must be 1; toolboxes build convolutions with this argument.
        bias: Whether the last linear layer has a bias.
        deform_groups: Number of groups of channels, each with its own offsets and tap weights.
        dw_kernel_size: Kernel size of the depthwise convolution that predicts offsets and weights; K if None.
        offset_scale: Factor on the distance of the taps from the centre.
        center_feature_scale: Blend the output with the input by a predicted weight per group
            (InternImage-H); requires stride 1 and equal input and output channels.
        remove_center: Leave out the centre tap.
        channels_last: Feature maps are (B, H, W, C), as inside InternImage.

    Raises:
        ValueError: The channels do not divide into the groups, or settings are incompatible.
    """

    def __init__(  # noqa: PLR0913
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
        self.in_channels = in_channels
        self.out_channels = in_channels if out_channels is None else out_channels
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(stride)
        self.dilation = _pair(dilation)
        same = tuple(d * (k - 1) // 2 for d, k in zip(self.dilation, self.kernel_size, strict=True))
        self.padding = same if padding is None else _pair(padding)
        self.groups = deform_groups
        self.offset_scale = offset_scale
        self.center_feature_scale = center_feature_scale
        self.remove_center = remove_center
        self.channels_last = channels_last
        # mmcv's ConvModule reads these of a convolution
        self.transposed = False
        self.output_padding = (0, 0)
        self._check(groups, same)

        depthwise_kernel = _pair(kernel_size if dw_kernel_size is None else dw_kernel_size)
        self.dw_conv = nn.Sequential(
            nn.Conv2d(
                in_channels,
                in_channels,
                depthwise_kernel,
                self.stride,
                padding=tuple((k - 1) // 2 for k in depthwise_kernel),
                groups=in_channels,
            ),
            nn.Sequential(_ChannelsLast(), nn.LayerNorm(in_channels)),
            nn.GELU(),
        )
        taps = deform_groups * (self.kernel_size[0] * self.kernel_size[1] - int(remove_center))
        self.offset = nn.Linear(in_channels, 2 * taps)
        self.mask = nn.Linear(in_channels, taps)
        self.input_proj = nn.Linear(in_channels, in_channels)
        self.output_proj = nn.Linear(in_channels, self.out_channels, bias=bias)
        if center_feature_scale:
            self.center_feature_scale_proj_weight = nn.Parameter(torch.zeros(deform_groups, in_channels))
            self.center_feature_scale_proj_bias = nn.Parameter(torch.zeros(deform_groups))
        self.init_weights()

    def _check(self, conv_groups: int, same: tuple[int, ...]) -> None:
        if conv_groups != 1:
            raise ValueError(
                f'groups={conv_groups}: DCNv3 has no weights that groups could split; deform_groups splits '
                'its '
                'offsets'
            )
        if self.in_channels % self.groups:
            raise ValueError(
                f'DCNv3 with {self.in_channels} channels does not divide into deform_groups={self.groups}'
            )
        if self.center_feature_scale and (self.stride != (1, 1) or self.out_channels != self.in_channels):
            raise ValueError(
                f'center_feature_scale of DCNv3 adds its input: stride {self.stride} must be 1 and '
                f'out_channels={self.out_channels} must be in_channels={self.in_channels}'
            )
        if self.padding != same:
            raise ValueError(
                f'padding={self.padding} of DCNv3 must be {same}, so that its offsets have the size of its '
                'output'
            )

    def init_weights(self) -> None:
        """Initialise the projections by Xavier's rule, offsets and tap weights with zero."""
        for projection in (self.input_proj, self.output_proj):
            nn.init.xavier_uniform_(projection.weight)
            if projection.bias is not None:
                nn.init.zeros_(projection.bias)
        self.dw_conv[0].reset_parameters()
        for predictor in (self.offset, self.mask):
            nn.init.zeros_(predictor.weight)
            nn.init.zeros_(predictor.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, D, H', W'), or with ``channels_last`` (B, H, W, C) to (B, H', W', D)."""
        x = x if self.channels_last else x.permute(0, 2, 3, 1)
        value = self.input_proj(x)
        features = self.dw_conv(x.permute(0, 3, 1, 2))
        mask = self.mask(features).unflatten(-1, (self.groups, -1)).softmax(-1).flatten(-2)
        out = dcnv3(
            value,
            self.offset(features),
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
            center = F.linear(
                features, self.center_feature_scale_proj_weight, self.center_feature_scale_proj_bias
            ).sigmoid()
            center = center.repeat_interleave(self.in_channels // self.groups, dim=-1)
            out = out * (1 - center) + value * center
        out = self.output_proj(out)
        return out if self.channels_last else out.permute(0, 3, 1, 2)
