"""Deformable RoI pooling with fully connected offsets, for Faster R-CNN (Dai et al., ICCV 2017, arXiv:1703.06211, figure 3)."""

from collections.abc import Sequence

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.ops import deform_ps_roi_pool
from mmssl.registry import MODELS


@MODELS.register_module()
class DeformRoIExtractor(SingleRoIExtractor):
    """Pool RoIs, predict from the result how far each bin moves, and pool again.

    mmcv's DeformRoIPoolPack needs a GPU, has three layers for the offsets, and takes bin centres; here it is
    one layer, as in the released code, whose learning rate is a hundredth
    (``paramwise_cfg=dict(custom_keys={'offset_fc': dict(lr_mult=0.01)})``) and which begins at zero. One
    layer serves all levels. Maps (B, C, H, W) and RoIs (N, 5) give (N, out_channels, P, P).

    Args:
        out_channels: of the pooled RoIs.
        featmap_strides: pixels of the image a cell, of each level.
        roi_feat_size: P.
        in_channels: reduce maps of so many channels to ``out_channels`` first, by a 1x1 convolution with
            ReLU; None where they have them.
        trans_std: an offset of 1 moves a bin by this share of the RoI.
        sample_per_part: samples a bin and axis.
        others: of mmdet's SingleRoIExtractor (``finest_scale``, ``init_cfg``).
    """

    def __init__(
        self,
        out_channels: int,
        featmap_strides: Sequence[int],
        roi_feat_size: int = 7,
        in_channels: int | None = None,
        trans_std: float = 0.1,
        sample_per_part: int = 4,
        **kwargs,
    ):
        super().__init__(
            roi_layer={}, out_channels=out_channels, featmap_strides=list(featmap_strides), **kwargs
        )
        self.roi_feat_size = roi_feat_size
        self.trans_std, self.sample_per_part = trans_std, sample_per_part
        self.conv_new = nn.Conv2d(in_channels, out_channels, 1) if in_channels else None
        self.offset_fc = nn.Linear(out_channels * roi_feat_size**2, 2 * roi_feat_size**2)
        if kwargs.get('init_cfg') is None:
            self.init_cfg = dict(
                type='Normal',
                layer='Conv2d',
                std=0.01,
                override=dict(type='Constant', name='offset_fc', val=0.0),
            )

    def build_roi_layers(self, layer_cfg, featmap_strides) -> nn.ModuleList:
        """None: the operator has no weights."""
        return nn.ModuleList()

    def forward(self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """(B, C, H, W) maps and RoIs (N, 5) in pixels of the image to (N, out_channels, P, P)."""
        maps = list(feats) if self.conv_new is None else [F.relu(self.conv_new(level)) for level in feats]
        levels = self.map_roi_levels(rois, len(maps)) if len(maps) > 1 else None
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        plain = self._pool(maps, rois, levels, None)
        trans = self.offset_fc(plain.flatten(1)).view(-1, 2, self.roi_feat_size, self.roi_feat_size)
        return self._pool(maps, rois, levels, trans)

    def _pool(self, maps: list[Tensor], rois: Tensor, levels: Tensor | None, trans: Tensor | None) -> Tensor:
        size = self.roi_feat_size
        settings = dict(
            output_size=size,
            output_dim=self.out_channels,
            group_size=1,
            part_size=size,
            trans_std=self.trans_std,
            sample_per_part=self.sample_per_part,
        )
        if levels is None:
            return deform_ps_roi_pool(
                maps[0], rois, trans, spatial_scale=1 / self.featmap_strides[0], **settings
            )
        parts, order = [], []
        for number, (level, stride) in enumerate(zip(maps, self.featmap_strides, strict=True)):
            index = (levels == number).nonzero().flatten()
            order.append(index)
            # a level without RoIs takes part with none, so that its weights have gradients on every process
            parts.append(
                deform_ps_roi_pool(
                    level,
                    rois[index],
                    None if trans is None else trans[index],
                    spatial_scale=1 / stride,
                    **settings,
                )
            )
        return torch.cat(parts)[torch.cat(order).argsort()]
