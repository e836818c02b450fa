"""Two-stage detectors as graphs from images to boxes: Faster R-CNN, Mask R-CNN and R-FCN."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmssl.apis.onnx_models.boxes import REMOVED, best_boxes, decode_boxes, nms_threshold, suppress
from mmssl.apis.onnx_models.inputs import ImageInput
from mmssl.apis.onnx_models.pooling import check_extractor, pool_regions
from mmssl.errors import UserError


class DetectorGraph(nn.Module):
    """Detect objects in a batch of images of one size, as ``predict`` of the detector.

    Layers compute in the data type of the detector's weights; boxes, scores and the pooling of regions are
    float32.

    Args:
        detector: Detector of mmdet or of this package, in evaluation mode.

    Raises:
        UserError: A part cannot be exported.
    """

    def __init__(self, detector: Any):
        super().__init__()
        check_detector(detector)
        self.detector = detector
        self.dtype = next(detector.parameters()).dtype
        self.input = ImageInput(detector.data_preprocessor, self.dtype)
        self.splits_levels = type(detector).__name__ == 'RFCN'
        self.has_masks = bool(detector.with_mask)
        self.names = ['boxes', 'scores', 'labels', 'images', *(['masks'] if self.has_masks else [])]

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Detect objects.

        Args:
            image: (B, 3, H, W), RGB, 0 to 255.

        Returns:
            Boxes (N, 4), x1, y1, x2, y2 in pixels of the image; scores (N,), best first in each image; labels
            (N,); index of their image (N,); for detectors with masks also probabilities of the masks
            (N, S, S), which cover the boxes.
        """
        # not extract_feat, where R-FCN folds batch norms into a copy of the backbone
        maps = self.detector.backbone(self.input(image))
        maps = self.detector.neck(maps) if self.detector.with_neck else maps
        rpn_maps, roi_maps = (maps[:-1], maps[-1:]) if self.splits_levels else (maps, maps)
        proposals, proposal_scores = self._propose(rpn_maps, image)
        boxes, scores, labels = self._classify(roi_maps, proposals, proposal_scores, image)
        images, index = (scores >= 0).nonzero().unbind(1)
        results = (boxes[images, index], scores[images, index], labels[images, index], images)
        if not self.has_masks:
            return results
        return (*results, self._masks(roi_maps, *results))

    def _propose(self, maps: Sequence[Tensor], image: Tensor) -> tuple[Tensor, Tensor]:
        """Return proposals (B, P, 4) and their scores (B, P), -1 for those that do not count."""
        head = self.detector.rpn_head
        cfg = self.detector.test_cfg.rpn
        boxes, scores, levels = [], [], []
        for level, (logits, deltas) in enumerate(zip(*head(maps), strict=True)):
            level_boxes, level_scores = self._level_proposals(level, logits.float(), deltas.float(), image)
            boxes.append(level_boxes)
            scores.append(level_scores)
            levels.append(torch.full_like(level_scores[0], level))
        all_boxes, all_scores = torch.cat(boxes, 1), torch.cat(scores, 1)
        if cfg.get('min_bbox_size', -1) >= 0:
            sizes = all_boxes[..., 2:] - all_boxes[..., :2]
            is_large = (sizes > cfg.min_bbox_size).all(2)
            all_scores = torch.where(is_large, all_scores, torch.full_like(all_scores, REMOVED))
        threshold = nms_threshold(cfg.nms, 'rpn')
        all_scores = suppress(all_boxes, all_scores, torch.cat(levels), threshold)
        return best_boxes(all_boxes, all_scores, cfg.max_per_img)[:2]

    def _level_proposals(
        self, level: int, logits: Tensor, deltas: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the best boxes (B, P, 4) of a level, and their scores (B, P)."""
        head = self.detector.rpn_head
        batch, _, height, width = logits.shape
        logits = logits.permute(0, 2, 3, 1).reshape(batch, -1, head.cls_out_channels)
        scores = logits.sigmoid()[..., 0] if head.use_sigmoid_cls else logits.softmax(-1)[..., 0]
        deltas = deltas.permute(0, 2, 3, 1).reshape(batch, -1, 4)
        priors = head.prior_generator.single_level_grid_priors((height, width), level, device=image.device)
        priors = priors[None].expand(batch, -1, -1)
        limit = self.detector.test_cfg.rpn.get('nms_pre', -1)
        deltas, scores, order = best_boxes(deltas, scores, limit)
        priors = priors.gather(1, order[..., None].expand(-1, -1, 4))
        boxes = decode_boxes(head.bbox_coder, priors.reshape(-1, 4), deltas.reshape(-1, 4), image)
        return boxes.reshape(batch, -1, 4), scores

    def _classify(
        self, maps: Sequence[Tensor], proposals: Tensor, proposal_scores: Tensor, image: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return boxes (B, N, 4), scores (B, N), -1 for those that do not count, and labels (B, N)."""
        roi_head, cfg = self.detector.roi_head, self.detector.test_cfg.rcnn
        head = roi_head.bbox_head
        batch, count = proposals.shape[:2]
        images = torch.arange(batch, device=image.device)[:, None].expand(-1, count)
        rois = torch.cat((images.reshape(-1, 1).to(proposals.dtype), proposals.reshape(-1, 4)), 1)
        logits, deltas = self._score_regions(maps, rois)
        classes = head.num_classes
        scores = logits.softmax(-1)[:, :-1].reshape(batch, count, classes)
        boxes_per_roi = 1 if head.reg_class_agnostic else classes
        priors = rois[:, None, 1:].expand(-1, boxes_per_roi, 4).reshape(-1, 4)
        boxes = decode_boxes(head.bbox_coder, priors, deltas.reshape(-1, 4), image)
        boxes = boxes.reshape(batch, count, boxes_per_roi, 4).expand(-1, -1, classes, -1)
        boxes = boxes.reshape(batch, -1, 4)
        is_counted = (scores > cfg.score_thr) & (proposal_scores >= 0)[..., None]
        scores = torch.where(is_counted, scores, torch.full_like(scores, REMOVED)).reshape(batch, -1)
        labels = torch.arange(classes, device=image.device)[None, :].expand(count, -1).reshape(-1)
        groups = torch.zeros_like(labels) if cfg.nms.get('class_agnostic') else labels
        scores = suppress(boxes, scores, groups, nms_threshold(cfg.nms, 'rcnn'))
        boxes, scores, order = best_boxes(boxes, scores, cfg.max_per_img)
        return boxes, scores, labels[order]

    def _score_regions(self, maps: Sequence[Tensor], rois: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and deltas of regions (N, 5), float32."""
        roi_head = self.detector.roi_head
        if type(roi_head).__name__ == 'RFCNRoIHead':
            logits, deltas = roi_head.bbox_head(maps[0], rois)
        else:
            features = pool_regions(roi_head.bbox_roi_extractor, maps, rois).to(self.dtype)
            if roi_head.with_shared_head:
                features = roi_head.shared_head(features)
            logits, deltas = roi_head.bbox_head(features)
        return logits.float(), deltas.float()

    def _masks(
        self, maps: Sequence[Tensor], boxes: Tensor, scores: Tensor, labels: Tensor, images: Tensor
    ) -> Tensor:
        """Return probabilities (N, S, S) of the masks of detected objects."""
        roi_head = self.detector.roi_head
        rois = torch.cat((images[:, None].to(boxes.dtype), boxes), 1)
        features = pool_regions(roi_head.mask_roi_extractor, maps, rois).to(self.dtype)
        if roi_head.with_shared_head:
            features = roi_head.shared_head(features)
        masks = roi_head.mask_head(features).float().sigmoid()
        if roi_head.mask_head.class_agnostic:
            return masks[:, 0]
        index = labels[:, None, None, None].expand(-1, 1, *masks.shape[2:])
        return masks.gather(1, index)[:, 0]


# classes whose forward passes are written out here; those derived from them may compute something else
DETECTORS = ('FasterRCNN', 'MaskRCNN', 'RFCN', 'TwoStageDetector')
ROI_HEADS = ('StandardRoIHead', 'RFCNRoIHead')


def check_detector(detector: Any) -> None:
    """Raise UserError if a part of a detector is of a type that cannot be exported."""
    roi_head, rpn_head = getattr(detector, 'roi_head', None), getattr(detector, 'rpn_head', None)
    _check_type('model', detector, DETECTORS)
    _check_type('rpn_head', rpn_head, ('RPNHead',))
    _check_type('roi_head', roi_head, ROI_HEADS)
    assert roi_head is not None and rpn_head is not None  # checked above
    for name, coder in (('rpn_head', rpn_head.bbox_coder), ('roi_head', roi_head.bbox_head.bbox_coder)):
        _check_type(f'{name}.bbox_coder', coder, ('DeltaXYWHBBoxCoder',))
    _check_type('rpn_head.anchor_generator', rpn_head.prior_generator, ('AnchorGenerator',))
    if roi_head.bbox_head.custom_cls_channels:
        loss = type(roi_head.bbox_head.loss_cls).__name__
        raise UserError(
            f'roi_head.bbox_head has loss_cls={loss}, whose scores are no softmax; none can be exported'
        )
    if type(roi_head).__name__ == 'StandardRoIHead':
        check_extractor(roi_head.bbox_roi_extractor, 'roi_head.bbox_roi_extractor')
    if detector.with_mask:
        check_extractor(roi_head.mask_roi_extractor, 'roi_head.mask_roi_extractor')
        _check_type('roi_head.mask_head', roi_head.mask_head, ('FCNMaskHead',))
    for name in ('rpn', 'rcnn'):
        nms_threshold(detector.test_cfg[name].nms, name)


def _check_type(name: str, part: Any, allowed: Sequence[str]) -> None:
    if type(part).__name__ not in allowed:
        raise UserError(
            f'{name} is a {type(part).__name__}, which cannot be exported to ONNX; '
            f'supported: {", ".join(allowed)}'
        )
