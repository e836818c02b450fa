"""Box head of R-FCN and of deformable R-FCN (Dai et al., arXiv:1605.06409 and arXiv:1703.06211).

Position-sensitive score maps, k * k per class, and k * k * 4 maps of box offsets come from 1x1 convolutions.
Bin (i, j) of a RoI is pooled from map (i, j) only, and the mean over the bins ("vote") is the score.
Everything with weights runs before the RoIs, so that 2000 RoIs cost hardly more than 100.
"""

from collections.abc import Sequence
from typing import Any

import torch
from mmdet.models.losses import accuracy
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.task_modules.samplers import SamplingResult
from torch import Tensor, nn
from torch.nn import functional as F

from mmssl.layers.unused_arguments import refuse_unused
from mmssl.ops import deform_ps_roi_pool, ps_roi_align, ps_roi_pool
from mmssl.registry import MODELS

# settings of mmdet's BBoxHead for its fully connected layers, and their defaults
UNUSED = {
    'with_avg_pool': False,
    'with_cls': True,
    'with_reg': True,
    'cls_predictor_cfg': {'type': 'Linear'},
    'reg_predictor_cfg': {'type': 'Linear'},
}
CONVENTIONS = ('caffe', 'torchvision', 'align')


def hardest(losses: Tensor, counts: Sequence[int], keep: int) -> Tensor:
    """Select the RoIs with the largest losses of each image, whatever their labels (OHEM, R-FCN section 2.3).

    Args:
        losses: (N,) loss of each RoI, grouped by image.
        counts: Number of RoIs of each image; they sum to N.
        keep: Number of RoIs to select per image.

    Returns:
        (N,) bool.
    """
    selected = torch.zeros_like(losses, dtype=torch.bool)
    start = 0
    for image_losses in losses.detach().split(list(counts)):
        hardest_rois = image_losses.topk(min(keep, len(image_losses))).indices
        selected.scatter_(0, start + hardest_rois, True)  # assigning True to an index would copy it
        start += len(image_losses)
    return selected


@MODELS.register_module()
class RFCNBBoxHead(BBoxHead):
    """Scores and boxes of RoIs by position-sensitive pooling and voting.

    Feature maps (B, in_channels, H, W) and RoIs (N, 5) give scores (N, num_classes + 1), with background last
    as everywhere in mmdet, and box offsets (N, 4) or (N, 4 * num_classes). Map (class * k + row) * k + column
    is the one for bin (row, column) of a class.

    The deformable head (arXiv:1703.06211, figure 4) has further 1x1 convolutions, whose maps are pooled with
    the same RoIs to the offsets of the bins: each class has its own for its score, and the box has one set.
    They are initialised with zero, where each bin is the mean of ``sample_per_part ** 2`` bilinear samples.

    Args:
        in_channels: Channels of the feature map.
        num_classes: Number of classes without background.
        roi_feat_size: k, the number of bins per axis; 7 or 3 in the paper.
        hidden_channels: Channels of the 1x1 convolution with ReLU before the score maps; None for no such
            convolution.
        stride: Stride of the feature map in the image, in pixels.
        reg_class_agnostic: Predict one box for all classes instead of one per class.
        deformable: Learn offsets of the bins.
        trans_std: Shift of a bin by an offset of 1, as a fraction of the size of the RoI.
        sample_per_part: Samples per bin and axis of deformable pooling.
        convention: Plain pooling: 'caffe' as in the released code, 'torchvision', or 'align' for bilinear
            samples, four per bin (PSRoIAlign). Small RoIs need 'align', since rounded to whole pixels of the
            map they hardly differ from each other.
        **kwargs: Passed on to mmdet's BBoxHead: ``bbox_coder``, ``reg_decoded_bbox``, ``loss_cls``,
            ``loss_bbox``, ``init_cfg``. The losses must return a loss per RoI for
            ``reduction_override='none'``; that of the classes is a softmax cross entropy.

    Raises:
        ValueError: A size is below 1, the convention is unknown, ``loss_cls`` is not of softmax scores of
            num_classes + 1 columns, or a setting of mmdet's BBoxHead would have no effect.
    """

    def __init__(  # noqa: PLR0913
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
        sizes = dict(
            in_channels=in_channels, num_classes=num_classes, roi_feat_size=roi_feat_size, stride=stride
        )
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f'{name}={value} of RFCNBBoxHead must be at least 1')
        if convention not in CONVENTIONS:
            raise ValueError(
                f'convention={convention!r} of RFCNBBoxHead is not one of {", ".join(CONVENTIONS)}'
            )
        refuse_unused('RFCNBBoxHead', kwargs, UNUSED, 'its scores and boxes are pooled from convolutions')
        # mmdet's fully connected layers are built as small as possible, and replaced by convolutions
        super().__init__(
            in_channels=1,
            roi_feat_size=1,
            num_classes=num_classes,
            reg_class_agnostic=reg_class_agnostic,
            **{'init_cfg': None, **kwargs},
        )
        del self.fc_cls, self.fc_reg
        self._check_loss()
        self.in_channels = in_channels
        self.k = roi_feat_size
        self.stride = stride
        self.convention = convention
        self.deformable = deformable
        self.trans_std = trans_std
        self.sample_per_part = sample_per_part
        self.box_dim = self.bbox_coder.encode_size * (1 if reg_class_agnostic else num_classes)

        bins = self.k**2
        width = hidden_channels or in_channels
        self.conv_new = nn.Conv2d(in_channels, hidden_channels, 1) if hidden_channels else None
        self.rfcn_cls = nn.Conv2d(width, bins * (num_classes + 1), 1)
        self.rfcn_bbox = nn.Conv2d(width, bins * self.box_dim, 1)
        if deformable:
            self.rfcn_cls_offset = nn.Conv2d(width, 2 * bins * (num_classes + 1), 1)
            self.rfcn_bbox_offset = nn.Conv2d(width, 2 * bins, 1)
        if kwargs.get('init_cfg') is None:
            self.init_cfg = dict(type='Normal', layer='Conv2d', std=0.01)
            if deformable:
                self.init_cfg['override'] = [
                    dict(type='Constant', name=name, val=0.0)
                    for name in ('rfcn_cls_offset', 'rfcn_bbox_offset')
                ]

    def _check_loss(self) -> None:
        """Refuse a classification loss that the scores, a softmax with background last, are not made for."""
        loss = self.loss_cls
        for setting in ('use_sigmoid', 'use_mask', 'custom_cls_channels', 'custom_activation'):
            if getattr(loss, setting, False):
                raise ValueError(
                    f'loss_cls={type(loss).__name__} of RFCNBBoxHead has {setting}=True, but the head '
                    "predicts a softmax over the classes and background; use dict(type='CrossEntropyLoss')"
                )

    def forward(self, x: Tensor, rois: Tensor) -> tuple[Tensor, Tensor]:
        """Predict scores and box offsets of RoIs.

        Args:
            x: (B, in_channels, H, W).
            rois: (N, 5) as (image, x1, y1, x2, y2), in pixels of the image.

        Returns:
            (N, num_classes + 1) logits and (N, 4) or (N, 4 * num_classes) normalised offsets.
        """
        if self.conv_new is not None:
            x = F.relu(self.conv_new(x), inplace=True)
        score_maps = self.rfcn_cls(x)
        box_maps = self.rfcn_bbox(x)
        rois = rois.to(torch.promote_types(score_maps.dtype, rois.dtype))
        if self.deformable:
            scores = self._pool_deformable(score_maps, self.rfcn_cls_offset(x), rois, self.num_classes + 1)
            boxes = self._pool_deformable(box_maps, self.rfcn_bbox_offset(x), rois, 1)
        else:
            scores = self._pool(score_maps, rois)
            boxes = self._pool(box_maps, rois)
        return scores, boxes

    def _pool(self, maps: Tensor, rois: Tensor) -> Tensor:
        """(B, D * k * k, H, W) to (N, D), by position-sensitive pooling and voting."""
        sizes = self.k, 1 / self.stride, maps.shape[1] // self.k**2
        if self.convention == 'align':
            pooled = ps_roi_align(maps, rois, *sizes, vote=True)
        else:
            pooled = ps_roi_pool(maps, rois, *sizes, convention=self.convention, vote=True)
        return pooled.to(torch.promote_types(pooled.dtype, torch.float32))

    def _pool_deformable(self, maps: Tensor, offset_maps: Tensor, rois: Tensor, classes: int) -> Tensor:
        """(B, D * k * k, H, W) and offset maps (B, 2 * classes * k * k, H, W) to (N, D)."""
        settings: dict[str, Any] = dict(
            output_size=self.k,
            spatial_scale=1 / self.stride,
            group_size=self.k,
            part_size=self.k,
            sample_per_part=self.sample_per_part,
            trans_std=self.trans_std,
        )
        trans = deform_ps_roi_pool(offset_maps, rois, None, output_dim=2 * classes, **settings)
        pooled = deform_ps_roi_pool(
            maps, rois, trans, output_dim=maps.shape[1] // self.k**2, vote=True, **settings
        )
        return pooled.to(torch.promote_types(pooled.dtype, torch.float32))

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
        """Compute mmdet's targets, and the losses of all RoIs or of the ``rcnn_train_cfg.ohem`` hardest.

        Returns:
            ``loss_bbox``, a dict of losses as in mmdet, and ``bbox_targets``.
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

    def loss(  # noqa: PLR0913  mmdet's signature
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
        """Classification and box loss; with ``ohem``, of the RoIs of each image whose sum of both is largest.

        The box loss is divided by ``ohem`` times the number of images (1 / BATCH_ROIS_OHEM in the released
        code), or without ``ohem`` by the number of RoIs as in mmdet; the classification loss by the number of
        RoIs that contribute. Whatever the images contain, the keys are the same and all parameters get a
        gradient.

        Args:
            cls_score: (N, num_classes + 1) logits.
            bbox_pred: (N, 4) or (N, 4 * num_classes).
            rois: (N, 5).
            labels: (N,), ``num_classes`` for background.
            label_weights: (N,).
            bbox_targets: (N, 4), zero for background.
            bbox_weights: (N, 4), zero for background.
            reduction_override: Not used; kept for mmdet.
            counts: Number of RoIs of each image; by default all RoIs belong to one image.
            ohem: Number of RoIs per image that contribute; None for all.

        Returns:
            ``loss_cls``, ``loss_bbox``, ``acc``, and with ``ohem`` also ``num_pos``, the mean number of
            selected foreground RoIs per image.
        """
        if not len(labels):
            losses = dict(
                loss_cls=cls_score.sum() * 0, loss_bbox=bbox_pred.sum() * 0, acc=cls_score.new_zeros(1)
            )
            return dict(losses, num_pos=cls_score.new_zeros(())) if ohem else losses
        counts = [len(labels)] if counts is None else counts
        cls_losses = self._per_roi(
            self.loss_cls(cls_score, labels, label_weights, reduction_override='none'), len(labels)
        )
        box_losses = self._box_losses(bbox_pred, rois, labels, bbox_targets, bbox_weights)
        weights = (label_weights > 0).to(cls_losses.dtype)
        box_normalizer = len(labels)
        if ohem:
            weights = weights * hardest(cls_losses + box_losses, counts, ohem).to(weights.dtype)
            box_normalizer = ohem * len(counts)
        losses = dict(
            loss_cls=(cls_losses * weights).sum() / weights.sum().clamp(min=1),
            loss_bbox=(box_losses * weights).sum() / box_normalizer,
            acc=accuracy(cls_score, labels),
        )
        if ohem:
            losses['num_pos'] = (weights * (labels < self.num_classes)).sum() / len(counts)
        return losses

    def _box_losses(
        self, bbox_pred: Tensor, rois: Tensor, labels: Tensor, bbox_targets: Tensor, bbox_weights: Tensor
    ) -> Tensor:
        """Box loss of each RoI, (N,)."""
        boxes = bbox_pred
        if not self.reg_class_agnostic:
            by_class = bbox_pred.view(len(labels), self.num_classes, -1)
            index = labels.clamp(max=self.num_classes - 1)  # background has no box, and weight 0
            boxes = by_class[torch.arange(len(labels), device=labels.device), index]
        if self.reg_decoded_bbox:
            boxes = self.bbox_coder.decode(rois[:, 1:], boxes)
        losses = self.loss_bbox(boxes, bbox_targets, bbox_weights, reduction_override='none')
        # mmdet's IoU losses return a scalar 0 if no RoI has an object
        return self._per_roi(losses, len(labels)) if losses.dim() else losses.expand(len(labels))

    @staticmethod
    def _per_roi(losses: Tensor, rois: int) -> Tensor:
        """(N,) or (N, D) losses to their sum for each RoI, (N,)."""
        if not losses.dim() or len(losses) != rois:
            raise ValueError(
                f'a loss of RFCNBBoxHead returned {tuple(losses.shape)} for {rois} RoIs with '
                "reduction_override='none'; it must return a loss for each RoI"
            )
        return losses.flatten(1).sum(1) if losses.dim() > 1 else losses
