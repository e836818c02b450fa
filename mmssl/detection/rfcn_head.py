"""The box head of R-FCN: position-sensitive score maps, pooled and voted (Dai et al., NIPS 2016, arXiv:1605.06409); its deformable form.

Everything with weights lies before the RoIs: k * k maps a class and k * k * 4 maps of box offsets. A RoI
    takes its bin (i, j) from the map
of that bin only, and the mean of its bins is the score: 2000 RoIs cost hardly more than 100.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.losses import accuracy
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.task_modules.samplers import SamplingResult
from torch import Tensor
from torch.nn import functional as F

from mmssl.layers.pointwise import PointwiseConv2d
from mmssl.ops import deform_ps_roi_pool, ps_roi_align, ps_roi_pool
from mmssl.registry import MODELS

CONVENTIONS = ('caffe', 'torchvision', 'align')


def hardest(losses: Tensor, counts: Sequence[int], keep: int) -> Tensor:
    """The ``keep`` RoIs with the largest loss of every image, whatever their labels (OHEM as in section 2.3 of R-FCN).

    Args:
        losses: (N,) loss of every RoI, image after image.
        counts: RoIs of each image; their sum is N.
        keep: how many stay an image.

    Returns:
        (N,) bool.
    """
    chosen = torch.zeros_like(losses, dtype=torch.bool)
    begin = 0
    for part in losses.detach().split(list(counts)):
        chosen[begin + part.topk(min(keep, len(part))).indices] = True
        begin += len(part)
    return chosen


@MODELS.register_module()
class RFCNBBoxHead(BBoxHead):
    """Scores and boxes of RoIs by position-sensitive pooling and voting; mmdet's heads have weights behind the RoIs.

    A map (B, in_channels, H, W) and RoIs (N, 5) to scores (N, num_classes + 1), background last as everywhere
    in mmdet, and box offsets (N, 4) or (N, 4 * num_classes). Channels of the maps are class-major, bin-minor:
    (class * k + row) * k + column.

    Deformable (arXiv:1703.06211, figure 4): 1x1 convolutions give maps of offsets, which are pooled by the
        same RoIs; every class has
    offsets of its own for its scores, and the box has one set. They start at zero, where the head pools means
    of ``sample_per_part`` ** 2 bilinear samples a bin.

    Args:
        in_channels: channels of the map.
        num_classes: without background.
        roi_feat_size: k, 7 or 3 in the paper.
        hidden_channels: of the 1x1 reduction with ReLU in front of the maps, None for none.
        stride: pixels of the image a cell of the map.
        reg_class_agnostic: one box for all classes, or one each.
        deformable: learn where the bins lie.
        trans_std: an offset of 1 moves a bin by this share of the RoI.
        sample_per_part: samples a bin and axis, of the deformable pooling.
        convention: of the plain pooling, 'caffe' (the released code's), 'torchvision', or 'align' for
            bilinear samples, four a bin (PSRoIAlign): whole cells tell RoIs of few cells hardly apart.
        loss_cls, loss_bbox: any of mmdet's that gives a loss a RoI with ``reduction_override='none'``.
        others: of mmdet's BBoxHead (``bbox_coder``, ``reg_decoded_bbox``, ``init_cfg``).

    Raises:
        ValueError: sizes below 1, an unknown convention.
    """

    def __init__(
        self,
        in_channels: int = 2048,
        num_classes: int = 20,
        roi_feat_size: int = 7,
        hidden_channels: int | None = 1024,
        stride: int = 16,
        reg_class_agnostic: bool = True,
        deformable: bool = False,
        trans_std: float = 0.1,
        sample_per_part: int = 4,
        convention: str = 'caffe',
        **kwargs,
    ):
        for name, value in dict(
            in_channels=in_channels, num_classes=num_classes, roi_feat_size=roi_feat_size, stride=stride
        ).items():
            if value < 1:
                raise ValueError(f'{name}={value} of RFCNBBoxHead must be at least 1')
        # the host's fully connected layers, as small as they go, make place for convolutions
        super().__init__(
            in_channels=1,
            roi_feat_size=1,
            num_classes=num_classes,
            reg_class_agnostic=reg_class_agnostic,
            **{'init_cfg': None, **kwargs},
        )
        del self.fc_cls, self.fc_reg
        k = roi_feat_size
        self.k, self.stride, self.convention = k, stride, convention
        self.in_channels = in_channels
        if convention not in CONVENTIONS:
            raise ValueError(
                f'convention={convention!r} of RFCNBBoxHead is not one of {", ".join(CONVENTIONS)}'
            )
        self.trans_std, self.sample_per_part = trans_std, sample_per_part
        width = hidden_channels or in_channels
        self.conv_new = PointwiseConv2d(in_channels, hidden_channels) if hidden_channels else None
        self.box_dim = self.bbox_coder.encode_size * (1 if reg_class_agnostic else num_classes)
        self.rfcn_cls = PointwiseConv2d(width, k * k * (num_classes + 1))
        self.rfcn_bbox = PointwiseConv2d(width, k * k * self.box_dim)
        self.deformable = deformable
        if deformable:
            self.rfcn_cls_offset = PointwiseConv2d(width, 2 * k * k * (num_classes + 1))
            self.rfcn_bbox_offset = PointwiseConv2d(width, 2 * k * k)
        if kwargs.get('init_cfg') is None:
            zero = [
                dict(type='Constant', name=name, val=0.0)
                for name in ('rfcn_cls_offset', 'rfcn_bbox_offset')
                if deformable
            ]
            self.init_cfg = dict(
                type='Normal', layer='Conv2d', std=0.01, **(dict(override=zero) if zero else {})
            )

    def forward(self, x: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and box offsets of RoIs.

        Args:
            x: (B, in_channels, H, W).
            rois: (N, 5) as (image, x1, y1, x2, y2), in pixels of the image.

        Returns:
            (N, num_classes + 1) logits and (N, 4) or (N, 4 * num_classes) normalised offsets.
        """
        if self.conv_new is not None:
            x = F.relu(self.conv_new(x), inplace=True)
        scores, boxes = self.rfcn_cls(x), self.rfcn_bbox(x)
        rois = rois.to(torch.promote_types(scores.dtype, rois.dtype))
        if self.deformable:
            return (
                self._pool_deformable(scores, self.rfcn_cls_offset(x), rois, self.num_classes + 1),
                self._pool_deformable(boxes, self.rfcn_bbox_offset(x), rois, 1),
            )
        return self._pool(scores, rois), self._pool(boxes, rois)

    def _pool(self, maps: Tensor, rois: Tensor) -> Tensor:
        """(B, D * k * k, H, W) to (N, D)."""
        sizes = self.k, 1 / self.stride, maps.shape[1] // self.k**2
        if self.convention == 'align':
            out = ps_roi_align(maps, rois, *sizes, vote=True)
        else:
            out = ps_roi_pool(maps, rois, *sizes, convention=self.convention, vote=True)
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def _pool_deformable(self, maps: Tensor, offsets: Tensor, rois: Tensor, classes: int) -> Tensor:
        """(B, D * k * k, H, W), with maps of offsets (B, 2 * classes * k * k, H, W), to (N, D)."""
        settings: dict[str, Any] = dict(
            output_size=self.k,
            spatial_scale=1 / self.stride,
            group_size=self.k,
            part_size=self.k,
            sample_per_part=self.sample_per_part,
            trans_std=self.trans_std,
        )
        trans = deform_ps_roi_pool(offsets, rois, None, output_dim=2 * classes, **settings)
        out = deform_ps_roi_pool(
            maps, rois, trans, output_dim=maps.shape[1] // self.k**2, vote=True, **settings
        )
        return out.to(torch.promote_types(out.dtype, torch.float32))

    def loss_and_target(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        sampling_results: list[SamplingResult],
        rcnn_train_cfg,
        concat: bool = True,
        reduction_override: str | None = None,
    ) -> dict:
        """Targets by mmdet's rules, and the losses; ``rcnn_train_cfg.ohem`` is the number of RoIs an image that are learned from.

        Returns:
            dict of ``loss_bbox`` (a dict of losses, as in the host) and ``bbox_targets``.
        """
        targets = self.get_targets(sampling_results, rcnn_train_cfg, concat=True)
        counts = [len(result.priors) for result in sampling_results]
        labels, label_weights, bbox_targets, bbox_weights = targets
        losses = self.loss(
            cls_score,
            bbox_pred,
            rois,
            labels,
            label_weights,
            bbox_targets,
            bbox_weights,
            counts=counts,
            ohem=rcnn_train_cfg.get('ohem'),
        )
        return dict(loss_bbox=losses, bbox_targets=targets)

    def loss(
        self,
        cls_score: Tensor,
        bbox_pred: Tensor,
        rois: Tensor,
        labels: Tensor,
        label_weights: Tensor,
        bbox_targets: Tensor,
        bbox_weights: Tensor,
        reduction_override: str | None = None,
        counts: Sequence[int] | None = None,
        ohem: int | None = None,
    ) -> dict:
        """Cross entropy and smooth L1; with ``ohem``, of the hardest RoIs of every image by the sum of both, from these very scores.

        The box loss is divided by ``ohem`` times images (the released code's 1 / BATCH_ROIS_OHEM), without
        ``ohem`` by the RoIs as in mmdet; the other by the RoIs that count. The keys are the same, and all
        parameters get gradients, whatever the images hold.

        Args:
            cls_score: (N, num_classes + 1).
            bbox_pred: (N, 4) or (N, 4 * num_classes).
            rois: (N, 5).
            labels: (N,), ``num_classes`` for background.
            label_weights: (N,).
            bbox_targets, bbox_weights: (N, 4), of the RoIs on objects; zero elsewhere.
            counts: RoIs of each image, all in one image by default.
            ohem: RoIs kept an image, None for all.

        Returns:
            ``loss_cls``, ``loss_bbox``, ``acc``, and with ``ohem`` ``num_pos``, the chosen RoIs on objects an
            image.
        """
        counts = [len(labels)] if counts is None else counts
        if not len(labels):
            losses = dict(
                loss_cls=cls_score.sum() * 0, loss_bbox=bbox_pred.sum() * 0, acc=cls_score.new_zeros(1)
            )
            return dict(losses, num_pos=cls_score.new_zeros(())) if ohem else losses
        cls_losses = self.loss_cls(cls_score, labels, label_weights, reduction_override='none')
        if self.reg_class_agnostic:
            own = bbox_pred
        else:
            index = labels.clamp(max=self.num_classes - 1)
            own = bbox_pred.view(len(labels), self.num_classes, -1)[
                torch.arange(len(labels), device=labels.device), index
            ]
        if self.reg_decoded_bbox:
            own = self.bbox_coder.decode(rois[:, 1:], own)
        box_losses = self.loss_bbox(own, bbox_targets, bbox_weights, reduction_override='none')
        # without any object mmdet's losses give one sum, of zero
        box_losses = (
            box_losses.view(len(labels), -1).sum(1) if box_losses.dim() else box_losses.expand(len(labels))
        )
        weights = (label_weights > 0).to(cls_losses.dtype)
        boxes = len(labels)
        if ohem:
            weights = weights * hardest(cls_losses + box_losses, counts, ohem).to(weights.dtype)
            boxes = ohem * len(counts)
        losses = dict(
            loss_cls=(cls_losses * weights).sum() / weights.sum().clamp(min=1),
            loss_bbox=(box_losses * weights).sum() / boxes,
            acc=accuracy(cls_score, labels),
        )
        if ohem:
            losses['num_pos'] = (weights * (labels < self.num_classes)).sum() / len(counts)
        return losses
