"""R-FCN: object detection via region-based fully convolutional networks (Dai et al., NIPS 2016, arXiv:1605.06409).

A region proposal network on conv4 and position-sensitive maps on conv5, whose stride of 32 becomes 16 by
dilation; nothing has weights behind the RoIs.
"""

import torch
from mmdet.models.backbones import ResNet
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.task_modules.samplers import BaseSampler
from mmdet.registry import MODELS as HOST_MODELS
from mmdet.registry import TASK_UTILS
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from torch import Tensor

from mmssl.layers.folded_backbone import FoldedBackbone
from mmssl.layers.memory_format import memory_format_of
from mmssl.registry import MODELS

Levels = tuple[Tensor, ...]


def _in_float32(head, inputs, outputs):
    """Outputs of a head, nested in tuples and lists; those of autocast in float32, as losses and NMS want them."""
    if isinstance(outputs, (tuple, list)):
        return type(outputs)(_in_float32(head, inputs, one) for one in outputs)
    low = isinstance(outputs, Tensor) and outputs.dtype in (torch.bfloat16, torch.float16)
    return outputs.float() if low and torch.is_autocast_enabled(outputs.device.type) else outputs


class AllSampler(BaseSampler):
    """All proposals and the ground truth, as OHEM chooses among them; mmdet's PseudoSampler leaves the ground truth out."""

    def __init__(self):
        super().__init__(num=0, pos_fraction=1.0, add_gt_as_proposals=True)

    def _sample_pos(self, assign_result, num_expected: int, **kwargs) -> Tensor:
        return (assign_result.gt_inds > 0).nonzero().flatten()

    def _sample_neg(self, assign_result, num_expected: int, **kwargs) -> Tensor:
        return (assign_result.gt_inds == 0).nonzero().flatten()


@MODELS.register_module()
class RFCNRoIHead(StandardRoIHead):
    """RoI head of R-FCN: the map goes to the box head whole, where mmdet's cuts a feature out of it for every RoI.

    Of ``train_cfg``: ``assigner`` as in mmdet; ``sampler``, None for all proposals with the ground truth
        added; ``ohem``, how many of the
    hardest RoIs an image are learned from, None for all that were sampled.

    Maps are a tuple of one (B, C, H, W).

    Args:
        bbox_head: an RFCNBBoxHead.
        others: of mmdet's StandardRoIHead, except extractors and masks.

    Raises:
        ValueError: an extractor, a mask head or a shared head.
    """

    def __init__(self, bbox_head, **kwargs):
        unused = sorted(
            name
            for name in ('bbox_roi_extractor', 'mask_roi_extractor', 'mask_head', 'shared_head')
            if kwargs.get(name)
        )
        if unused:
            raise ValueError(
                f'RFCNRoIHead has no place for {", ".join(unused)}: its bbox_head pools by itself; leave {unused[0]} out'
            )
        super().__init__(bbox_head=bbox_head, **kwargs)

    def init_bbox_head(self, bbox_roi_extractor, bbox_head) -> None:
        """Build the box head, which pools by itself."""
        self.bbox_head = HOST_MODELS.build(bbox_head)

    def init_assigner_sampler(self) -> None:
        """Assigner and sampler of the training."""
        self.bbox_assigner = self.bbox_sampler = None
        if self.train_cfg:
            self.bbox_assigner = TASK_UTILS.build(self.train_cfg['assigner'])
            sampler = self.train_cfg.get('sampler')
            self.bbox_sampler = (
                TASK_UTILS.build(sampler, default_args=dict(context=self)) if sampler else AllSampler()
            )

    def _bbox_forward(self, x: Levels, rois: Tensor) -> dict:
        cls_score, bbox_pred = _in_float32(self.bbox_head, None, self.bbox_head(x[0], rois))
        if not self.training and not bool(torch.isfinite(cls_score).all() & torch.isfinite(bbox_pred).all()):
            raise ValueError(
                'R-FCN predicts NaN or infinite scores or boxes: the checkpoint or the image holds them'
            )
        return dict(cls_score=cls_score, bbox_pred=bbox_pred, bbox_feats=None)


@MODELS.register_module()
class RFCN(TwoStageDetector):
    """Two-stage detector whose two stages see different levels of the backbone; mmdet's give both the same.

    The last map goes to the RoI head, those before it to the RPN: a ResNet with ``strides=(1, 2, 2, 1),
        dilations=(1, 1, 1, 2),
    out_indices=(2, 3)`` gives conv4 and dilated conv5, both of stride 16. Any backbone with two levels
    serves, and any RoI head: a Faster R-CNN of this form has mmdet's StandardRoIHead.

    Images (B, 3, H, W) go in. Ground truth that is empty is trained through; boxes without area are left out;
    NaN boxes and labels beyond the classes are refused.

    Args:
        others: of mmdet's TwoStageDetector.
    """

    def __init__(self, *args, train_cfg=None, test_cfg=None, rpn_head=None, roi_head=None, **kwargs):
        wrap = [
            ConfigDict(cfg) if isinstance(cfg, dict) else cfg
            for cfg in (train_cfg, test_cfg, rpn_head, roi_head)
        ]
        super().__init__(
            *args, train_cfg=wrap[0], test_cfg=wrap[1], rpn_head=wrap[2], roi_head=wrap[3], **kwargs
        )
        if (
            self.with_rpn
        ):  # mmcv's NMS takes scores and boxes of one type, and its head gives scores of autocast's
            self.rpn_head.register_forward_hook(_in_float32)
        self._warned = False
        self.memory_format = memory_format_of(self.backbone)
        self._folded: FoldedBackbone | None = None

    def extract_feat(self, batch_inputs: Tensor) -> Levels:
        """Maps of the backbone and the neck for images (B, 3, H, W)."""
        images = batch_inputs.contiguous(memory_format=self.memory_format)
        if not isinstance(self.backbone, ResNet):
            maps = self.backbone(images)
        else:  # holds its children in the order of their calls, which folding needs to know
            if self._folded is None or self._folded.backbone is not self.backbone:
                self._folded = FoldedBackbone(self.backbone)
            maps = self._folded(images)
        return self.neck(maps) if self.with_neck else maps

    def levels(self, images: Tensor) -> tuple[Levels, Levels]:
        """Maps of (B, 3, H, W) images: those of the RPN and that of the RoI head.

        Raises:
            ValueError: one level only, or a map whose stride is not the head's.
        """
        maps = self.extract_feat(images)
        if len(maps) < 2:
            raise ValueError(
                f'R-FCN needs two levels, one for the RPN and one for the RoI head; {type(self.backbone).__name__} gives '
                f'{len(maps)}: set its out_indices, for a ResNet to (2, 3)'
            )
        stride = getattr(getattr(self.roi_head, 'bbox_head', None), 'stride', None)
        if stride and any(
            abs(image / stride - cells) > 1
            for image, cells in zip(images.shape[2:], maps[-1].shape[2:], strict=True)
        ):
            raise ValueError(
                f'the last map is {tuple(maps[-1].shape[2:])} for images of {tuple(images.shape[2:])}, but stride={stride} of '
                'roi_head.bbox_head; dilate the last stage, or set that stride'
            )
        return tuple(maps[:-1]), tuple(maps[-1:])

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Losses of the RPN (``loss_rpn_cls``, ``loss_rpn_bbox``) and of the RoI head.

        Args:
            batch_inputs: (B, 3, H, W), normalised.
            batch_data_samples: with ``gt_instances``, and ``proposals`` where there is no RPN.

        Raises:
            ValueError: NaN boxes, or labels beyond the classes of the head.
        """
        samples = [self.check_objects(sample) for sample in batch_data_samples]
        rpn_maps, roi_maps = self.levels(batch_inputs)
        losses = {}
        if self.with_rpn:
            cfg = self.train_cfg.get('rpn_proposal', self.test_cfg.rpn)
            rpn_losses, proposals = self.rpn_head.loss_and_predict(
                rpn_maps, [_one_class(sample) for sample in samples], proposal_cfg=cfg
            )
            losses = {name if 'rpn' in name else f'rpn_{name}': value for name, value in rpn_losses.items()}
        else:
            proposals = _given_proposals(samples)
        # where a weight has become NaN, the loss says so, and a hook decides; a NaN box must not reach the
        # operators
        proposals = [found[torch.isfinite(found.bboxes).all(1)] for found in proposals]
        losses.update(self.roi_head.loss(roi_maps, proposals, samples))
        return losses

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """Detections of (B, 3, H, W) images, written into the samples as ``pred_instances``.

        Args:
            batch_inputs: (B, 3, H, W), normalised.
            batch_data_samples: of the images; their ``proposals`` are used where they have some.
            rescale: boxes in pixels of the original images.

        Raises:
            ValueError: NaN or infinite proposals, scores or boxes.
        """
        rpn_maps, roi_maps = self.levels(batch_inputs)
        proposals = self._propose(rpn_maps, batch_data_samples)
        results = self.roi_head.predict(roi_maps, proposals, batch_data_samples, rescale=rescale)
        return self.add_pred_to_datasample(batch_data_samples, results)

    def _forward(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample] | None = None) -> tuple:
        rpn_maps, roi_maps = self.levels(batch_inputs)
        shape = tuple(batch_inputs.shape[2:])
        samples = batch_data_samples or [DetDataSample(metainfo=dict(img_shape=shape)) for _ in batch_inputs]
        return (self.roi_head.forward(roi_maps, self._propose(rpn_maps, samples), samples),)

    def _propose(self, rpn_maps: Levels, samples: list[DetDataSample]) -> list[InstanceData]:
        if samples[0].get('proposals', None) is not None or not self.with_rpn:
            return _given_proposals(samples)
        proposals = self.rpn_head.predict(rpn_maps, samples, rescale=False)
        # the host drops NaN boxes, and would find nothing in silence
        broken = not all(bool(torch.isfinite(found.scores).all()) for found in proposals)
        if not all(map(len, proposals)):
            broken = broken or not all(
                bool(torch.isfinite(score).all()) for score in self.rpn_head(rpn_maps)[0]
            )
        if broken:
            raise ValueError(
                'the RPN predicts NaN or infinite scores: the checkpoint or the image holds them'
            )
        return proposals

    def check_objects(self, sample: DetDataSample) -> DetDataSample:
        """The sample, without boxes that have no area.

        Raises:
            ValueError: a box that is not finite, or a label beyond the classes; names the image.
        """
        objects = sample.gt_instances
        boxes, labels = get_box_tensor(objects.bboxes), objects.labels
        if not len(labels):
            return sample
        image = sample.metainfo.get('img_path', 'an image')
        finite = torch.isfinite(boxes).all(1)
        if not bool(finite.all()):
            raise ValueError(
                f'{image}: object {int((~finite).nonzero()[0])} has the box {boxes[~finite][0].tolist()}; '
                'correct it in the annotations, or look at the transforms'
            )
        classes = getattr(getattr(self.roi_head, 'bbox_head', None), 'num_classes', None)
        if classes is not None and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            wrong = int(labels.max() if labels.max() >= classes else labels.min())
            raise ValueError(
                f'{image}: label {wrong}, but roi_head.bbox_head predicts {classes} classes, 0 to {classes - 1}; set '
                f'model.roi_head.bbox_head.num_classes, or metainfo=dict(classes=...) of the dataset'
            )
        solid = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        if bool(solid.all()):
            return sample
        if not self._warned:
            self._warned = True
            print_log(
                f'{image}: {int((~solid).sum())} boxes without area are left out; so are others like them',
                'current',
                30,
            )
        kept = sample.new()
        kept.gt_instances = objects[solid]
        return kept


def _one_class(sample: DetDataSample) -> DetDataSample:
    """The same boxes, all labelled 0: what the RPN learns from."""
    out = DetDataSample(metainfo=sample.metainfo)
    out.gt_instances = InstanceData(
        bboxes=sample.gt_instances.bboxes, labels=torch.zeros_like(sample.gt_instances.labels)
    )
    if 'ignored_instances' in sample:
        out.ignored_instances = sample.ignored_instances
    return out


def _given_proposals(samples: list[DetDataSample]) -> list[InstanceData]:
    missing = [
        sample.metainfo.get('img_path', number)
        for number, sample in enumerate(samples)
        if sample.get('proposals', None) is None
    ]
    if missing:
        raise ValueError(
            f'no proposals for {missing[0]}: give the model an rpn_head, or the samples proposals'
        )
    proposals = [sample.proposals.new() for sample in samples]
    for found, sample in zip(proposals, samples, strict=True):
        if not bool(torch.isfinite(found.bboxes).all()):
            raise ValueError(
                f'proposals of {sample.metainfo.get("img_path", "an image")} are NaN or infinite'
            )
    return proposals
