"""DenseASPP: dilated convolutions, each of which reads all before it (Yang et al., CVPR 2018).

Layer l has the dilation d_l and computes, with brackets for concatenated channels (equation 2),

    y_l = H_{3, d_l}([y_{l-1}, y_{l-2}, ..., y_0])

so that the last layers have seen the map at every sum of dilations, where parallel branches (ASPP) see it at
each dilation alone.
"""

from collections.abc import Sequence

import torch
from mmcv.cnn import ConvModule
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from torch import Tensor, nn

from mmssl.layers.unused_arguments import refuse_unused
from mmssl.registry import MODELS


@MODELS.register_module()
class DenseASPPHead(BaseDecodeHead):
    """Decode head of densely connected dilated convolutions (figure 3).

    A feature map (B, C, H, W) and the outputs of all layers are concatenated and classified by a 1 x 1
    convolution to scores (B, num_classes, H, W). Each layer is a batch norm, ReLU and 1 x 1 convolution to
    C / 2 channels, then a batch norm, ReLU and dilated 3 x 3 convolution to C / 8 channels.

    Args:
        in_channels: C.
        num_classes: Number of classes.
        dilations: d_1, ..., d_L.
        bottleneck_channels: Channels of the 1 x 1 convolutions; C / 2 if None.
        growth: Channels of the dilated convolutions; C / 8 if None.
        norm_cfg: Normalisation in the layers.
        **kwargs: Passed on to mmseg's BaseDecodeHead.

    Raises:
        ValueError: A dilation is below 1, there are several feature maps, or ``channels`` is given, which
            follows from the others.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        dilations: Sequence[int] = (3, 6, 12, 18, 24),
        bottleneck_channels: int | None = None,
        growth: int | None = None,
        norm_cfg: dict | None = None,
        **kwargs,
    ):
        if not dilations or min(dilations) < 1:
            raise ValueError(
                f'dilations={tuple(dilations)} of DenseASPPHead must be 1 or more, such as (3, 6)'
            )
        if not isinstance(in_channels, int):
            raise ValueError(
                f'in_channels={in_channels} of DenseASPPHead: it reads a single feature map; choose it '
                'by in_index'
            )
        growth = growth or max(1, in_channels // 8)
        channels = in_channels + growth * len(dilations)
        refuse_unused(
            'DenseASPPHead', kwargs, {'channels': channels}, 'it follows from in_channels and growth'
        )
        kwargs['channels'] = channels
        super().__init__(in_channels=in_channels, num_classes=num_classes, norm_cfg=norm_cfg, **kwargs)
        norm = dict(type='BN') if norm_cfg is None else norm_cfg
        hidden = bottleneck_channels or max(1, in_channels // 2)
        common = dict(norm_cfg=norm, act_cfg=self.act_cfg, order=('norm', 'act', 'conv'), bias=False)
        self.layers = nn.ModuleList(
            nn.Sequential(
                ConvModule(in_channels + index * growth, hidden, 1, inplace=False, **common),
                ConvModule(hidden, growth, 3, padding=rate, dilation=rate, **common),
            )
            for index, rate in enumerate(dilations)
        )

    def forward(self, inputs: Sequence[Tensor]) -> Tensor:
        """Feature maps, of which one (B, C, H, W) is read, to scores (B, num_classes, H, W)."""
        maps = [self._transform_inputs(inputs)]
        for layer in self.layers:
            maps.append(layer(torch.cat(maps[::-1], dim=1)))
        return self.cls_seg(torch.cat(maps[::-1], dim=1))
