"""Boxes inside a graph: decoding, non-maximum suppression and the best of each image.

All numbers of boxes per image are equal until the results are selected at the end, so that a batch of any
size is one graph: boxes that do not count have the score -1.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmssl.errors import UserError

REMOVED = -1.0


def decode_boxes(coder: Any, priors: Tensor, deltas: Tensor, image: Tensor) -> Tensor:
    """Apply predicted deltas to boxes, and clip the results to the image.

    Args:
        coder: A DeltaXYWHBBoxCoder of mmdet.
        priors: (N, 4), x1, y1, x2, y2.
        deltas: (N, 4).
        image: (B, 3, H, W), whose size limits the boxes.

    Returns:
        (N, 4).
    """
    from mmdet.models.task_modules.coders.delta_xywh_bbox_coder import delta2bbox

    boxes = delta2bbox(
        priors,
        deltas,
        coder.means,
        coder.stds,
        add_ctr_clamp=coder.add_ctr_clamp,
        ctr_clamp=coder.ctr_clamp,
    )
    if not coder.clip_border:
        return boxes
    shape = torch._shape_as_tensor(image)
    limits = torch.stack((shape[3], shape[2], shape[3], shape[2])).to(boxes.dtype)
    return torch.minimum(boxes.clamp(min=0), limits)


class NonMaxSuppression(torch.autograd.Function):
    """Non-maximum suppression of a batch: the operator of ONNX, and torchvision's for the trace."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
        """Return the boxes that remain, of those with a score of at least 0.

        Args:
            ctx: Not used.
            boxes: (B, N, 4).
            scores: (B, N).
            iou_threshold: A box is removed if its overlap with a better one is greater.

        Returns:
            (M, 2) int64, image and box.
        """
        import torchvision

        rows = []
        for image in range(len(boxes)):
            index = (scores[image] >= 0).nonzero()[:, 0]
            remaining = torchvision.ops.nms(boxes[image, index], scores[image, index], iou_threshold)
            index = index[remaining]
            rows.append(torch.stack((torch.full_like(index, image), index), 1))
        return torch.cat(rows)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou_threshold: float) -> Any:
        """Return the nodes of the graph."""

        def constant(value: Any, dtype: torch.dtype) -> Any:
            return g.op('Constant', value_t=torch.tensor(value, dtype=dtype))

        by_class = g.op('Unsqueeze', scores, constant([1], torch.int64))
        selected = g.op(
            'NonMaxSuppression',
            boxes,
            by_class,
            constant([2**31 - 1], torch.int64),
            constant([iou_threshold], torch.float32),
            constant([REMOVED / 2], torch.float32),
        )
        # (image, class, box)
        return g.op('Gather', selected, constant([0, 2], torch.int64), axis_i=1)


def suppress(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Return the scores of the boxes, with -1 for those that a better one of their group overlaps.

    As in mmcv, groups are moved apart by the largest coordinate, with the same rounding.

    Args:
        boxes: (B, N, 4).
        scores: (B, N), -1 for boxes that do not count.
        groups: (N,), classes or levels, between which nothing is suppressed.
        iou_threshold: Overlap above which a box is removed.
    """
    counted = torch.where(scores >= 0, boxes.amax(2), torch.zeros_like(scores))
    shift = groups.to(boxes.dtype) * (counted.amax(1, keepdim=True) + 1)
    selected = NonMaxSuppression.apply(boxes + shift[..., None], scores, iou_threshold)
    image, index = selected[:, 0], selected[:, 1]
    return torch.full_like(scores, REMOVED).index_put((image, index), scores[image, index])


def best_boxes(boxes: Tensor, scores: Tensor, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sort the boxes of each image by their scores, and return at most ``limit`` (-1: all).

    Args:
        boxes: (B, N, 4).
        scores: (B, N).
        limit: Number of boxes.

    Returns:
        Boxes (B, M, 4), scores (B, M), and their indices (B, M).
    """
    scores, order = scores.sort(dim=1, descending=True)
    if limit > 0:  # a slice may be longer than the tensor
        scores, order = scores[:, :limit], order[:, :limit]
    return boxes.gather(1, order[..., None].expand(-1, -1, 4)), scores, order


def nms_threshold(settings: Mapping[str, Any], name: str) -> float:
    """Return the threshold of an NMS.

    Args:
        settings: ``nms`` of a ``test_cfg``.
        name: Which one, for the message.

    Raises:
        UserError: It is of another type than 'nms', or has settings that ONNX has no operator for.
    """
    others = set(settings) - {'type', 'iou_threshold', 'class_agnostic', 'split_thr'}
    if settings.get('type', 'nms') != 'nms' or others:
        raise UserError(
            f'test_cfg.{name}.nms={dict(settings)} has no operator in ONNX; set it to '
            "dict(type='nms', iou_threshold=...), for example with --cfg-options"
        )
    return float(settings['iou_threshold'])
