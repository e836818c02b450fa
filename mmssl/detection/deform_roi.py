"""Deformable RoI pooling for Faster R-CNN (arXiv:1703.06211), also modulated (DCNv2, arXiv:1811.11168)."""

from collections.abc import Sequence

import torch
from mmdet.models.roi_heads.roi_extractors import SingleRoIExtractor
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.ops import deform_ps_roi_pool
from mmssl.registry import MODELS


@MODELS.register_module()
class DeformRoIExtractor(SingleRoIExtractor):
    """Deformable RoI pooling: pool the RoIs, predict an offset of each bin from the result, and pool again.

    Feature maps (B, C, H, W) and RoIs (N, 5) give (N, out_channels, P, P) (figure 3 of the paper). As in the
    released code, the offsets come from one layer, shared by all levels and initialised with zero, with a
    hundredth of the learning rate: ``paramwise_cfg=dict(custom_keys={'offset_fc': dict(lr_mult=0.01)})``.

    With ``modulated_channels``, each bin also has a weight in (0, 1), as in DCNv2 (section 3.2):

        y(k) = m_k * mean over the samples p of bin k of x(p0 + p + dp_k),  m_k = sigmoid(...)

    Offsets and weights come from two layers of this width with ReLU, and a third one that is initialised with
    zero, with a tenth of the learning rate: ``custom_keys={'modulation_fc': dict(lr_mult=0.1)}``.

    Args:
        out_channels: Channels of the pooled RoIs.
        featmap_strides: Stride of each level in the image, in pixels.
        roi_feat_size: P, the number of bins per axis.
        in_channels: Channels of the feature maps, if a 1x1 convolution with ReLU is to reduce them to
            ``out_channels`` first; None if they have ``out_channels`` already.
        trans_std: Shift of a bin by an offset of 1, as a fraction of the size of the RoI.
        sample_per_part: Samples per bin and axis.
        modulated_channels: Width of the layers of modulated pooling, 1024 in the paper; None for no weights.
        **kwargs: Passed on to mmdet's SingleRoIExtractor (``finest_scale``, ``init_cfg``).
    """

    # mmcv's DeformRoIPoolPack needs a GPU, has three layers for the offsets, and samples at bin centres

    def __init__(
        self,
        out_channels: int,
        featmap_strides: Sequence[int],
        roi_feat_size: int = 7,
        in_channels: int | None = None,
        trans_std: float = 0.1,
        sample_per_part: int = 4,
        modulated_channels: int | None = None,
        **kwargs,
    ):
        super().__init__(
            roi_layer={}, out_channels=out_channels, featmap_strides=list(featmap_strides), **kwargs
        )
        self.roi_feat_size = roi_feat_size
        self.trans_std = trans_std
        self.sample_per_part = sample_per_part
        self.conv_new = nn.Conv2d(in_channels, out_channels, 1) if in_channels else None
        pooled, bins = out_channels * roi_feat_size**2, roi_feat_size**2
        self.modulated = modulated_channels is not None
        if modulated_channels is None:
            self.offset_fc = nn.Linear(pooled, 2 * bins)
        else:
            self.modulation_fc = nn.Sequential(
                nn.Linear(pooled, modulated_channels),
                nn.ReLU(inplace=True),
                nn.Linear(modulated_channels, modulated_channels),
                nn.ReLU(inplace=True),
                nn.Linear(modulated_channels, 3 * bins),
            )
        if kwargs.get('init_cfg') is None:
            self.init_cfg = dict(type='Normal', layer='Conv2d', std=0.01)
            if not self.modulated:
                self.init_cfg['override'] = dict(type='Constant', name='offset_fc', val=0.0)

    def init_weights(self) -> None:
        """Initialise as ``init_cfg`` says; at first modulated pooling shifts no bin and halves all."""
        super().init_weights()
        if self.modulated:
            nn.init.zeros_(self.modulation_fc[-1].weight)
            nn.init.zeros_(self.modulation_fc[-1].bias)

    def build_roi_layers(self, layer_cfg, featmap_strides) -> nn.ModuleList:
        """Return an empty list: the operator has no weights."""
        return nn.ModuleList()

    def forward(self, feats: Sequence[Tensor], rois: Tensor, roi_scale_factor: float | None = None) -> Tensor:
        """Pool RoIs (N, 5), in pixels of the image, from maps (B, C, H, W) to (N, out_channels, P, P)."""
        maps = list(feats)
        if self.conv_new is not None:
            maps = [F.relu(self.conv_new(level)) for level in feats]
        levels = self.map_roi_levels(rois, len(maps)) if len(maps) > 1 else None
        if roi_scale_factor is not None:
            rois = self.roi_rescale(rois, roi_scale_factor)
        undeformed = self._pool(maps, rois, levels, None)
        side = self.roi_feat_size
        if not self.modulated:
            trans = self.offset_fc(undeformed.flatten(1)).view(-1, 2, side, side)
            return self._pool(maps, rois, levels, trans)
        predicted = self.modulation_fc(undeformed.flatten(1)).view(-1, 3, side, side)
        pooled = self._pool(maps, rois, levels, predicted[:, :2])
        return pooled * predicted[:, 2:].sigmoid().to(pooled.dtype)

    def _pool(self, maps: list[Tensor], rois: Tensor, levels: Tensor | None, trans: Tensor | None) -> Tensor:
        """Pool each RoI from its level, with bins shifted by ``trans`` (N, 2, P, P)."""
        if levels is None:
            return self._pool_level(maps[0], rois, trans, self.featmap_strides[0])
        pooled, indices = [], []
        for index, (level, stride) in enumerate(zip(maps, self.featmap_strides, strict=True)):
            members = (levels == index).nonzero().flatten()
            member_trans = None if trans is None else trans[members]
            # also without RoIs, so that the weights of the level have gradients on every process
            pooled.append(self._pool_level(level, rois[members], member_trans, stride))
            indices.append(members)
        return torch.cat(pooled)[torch.cat(indices).argsort()]

    def _pool_level(self, level: Tensor, rois: Tensor, trans: Tensor | None, stride: int) -> Tensor:
        return deform_ps_roi_pool(
            level,
            rois,
            trans,
            output_size=self.roi_feat_size,
            spatial_scale=1 / stride,
            output_dim=self.out_channels,
            group_size=1,
            part_size=self.roi_feat_size,
            sample_per_part=self.sample_per_part,
            trans_std=self.trans_std,
        )
