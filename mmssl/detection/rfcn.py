"""R-FCN: object detection via region-based fully convolutional networks (Dai et al., arXiv:1605.06409).

A region proposal network runs on conv4 and the position-sensitive score maps on conv5, whose stride is
reduced from 32 to 16 by dilation. No layer with weights is applied per RoI.
"""

import logging

import torch
from mmdet.models.backbones import ResNet
from mmdet.models.detectors import TwoStageDetector
from mmdet.models.roi_heads import StandardRoIHead
from mmdet.models.task_modules.samplers import BaseSampler
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.registry import TASK_UTILS
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from mmengine.structures import InstanceData
from torch import Tensor

from mmssl.detection.samples import (
    as_single_class,
    check_objects,
    external_proposals,
    finite_boxes,
    image_of,
    is_checked,
    mark_checked,
    without_flat_boxes,
)
from mmssl.layers.folded_backbone import FoldedBackbone
from mmssl.layers.memory_format import memory_format_of
from mmssl.ops.precision import full_precision
from mmssl.registry import MODELS

Levels = tuple[Tensor, ...]


def _outputs_in_full_precision(head, inputs, outputs):
    return full_precision(outputs)


class AllSampler(BaseSampler):
    """Sample all proposals and the ground-truth boxes, among which OHEM then chooses.

    mmdet's PseudoSampler leaves the ground truth out.
    """

    def __init__(self):
        super().__init__(num=0, pos_fraction=1.0, add_gt_as_proposals=True)

    def _sample_pos(self, assign_result, num_expected: int, **kwargs) -> Tensor:
        return (assign_result.gt_inds > 0).nonzero().flatten()

    def _sample_neg(self, assign_result, num_expected: int, **kwargs) -> Tensor:
        return (assign_result.gt_inds == 0).nonzero().flatten()


@MODELS.register_module()
class RFCNRoIHead(StandardRoIHead):
    """RoI head of R-FCN, which passes the whole feature map to the box head instead of a crop per RoI.

    Feature maps are a tuple of a single tensor (B, C, H, W). Keys of ``train_cfg``: ``assigner`` as in mmdet;
    ``sampler``, None for all proposals plus the ground truth; ``ohem``, the number of hardest RoIs per image
    that contribute to the loss, None for all sampled RoIs.

    Args:
        bbox_head: An :class:`mmssl.detection.rfcn_head.RFCNBBoxHead` or its config.
        **kwargs: Passed on to mmdet's StandardRoIHead, except RoI extractors, mask head and shared head.

    Raises:
        ValueError: A RoI extractor, a mask head or a shared head is given.
    """

    def __init__(self, bbox_head, **kwargs):
        for name in ('bbox_roi_extractor', 'mask_head', 'mask_roi_extractor', 'shared_head'):
            if kwargs.get(name):
                raise ValueError(
                    f'RFCNRoIHead has no place for {name}: its bbox_head pools the RoIs itself; leave it out'
                )
        super().__init__(bbox_head=bbox_head, **kwargs)

    def init_bbox_head(self, bbox_roi_extractor, bbox_head) -> None:
        """Build the box head, which needs no RoI extractor."""
        self.bbox_head = MMDET_MODELS.build(bbox_head)

    def init_assigner_sampler(self) -> None:
        """Build the assigner and the sampler that training needs."""
        self.bbox_assigner = None
        self.bbox_sampler = None
        if self.train_cfg:
            self.bbox_assigner = TASK_UTILS.build(self.train_cfg['assigner'])
            sampler = self.train_cfg.get('sampler')
            self.bbox_sampler = (
                TASK_UTILS.build(sampler, default_args=dict(context=self)) if sampler else AllSampler()
            )

    def _bbox_forward(self, x: Levels, rois: Tensor) -> dict:
        cls_score, bbox_pred = self.bbox_head(x[0], rois)
        cls_score = full_precision(cls_score)
        bbox_pred = full_precision(bbox_pred)
        if not self.training and not bool(torch.isfinite(cls_score).all() & torch.isfinite(bbox_pred).all()):
            raise ValueError(
                'R-FCN predicts NaN or infinite scores or boxes: the checkpoint or the image contains such '
                'values'
            )
        return dict(cls_score=cls_score, bbox_pred=bbox_pred, bbox_feats=None)


@MODELS.register_module()
class RFCN(TwoStageDetector):
    """Two-stage detector whose RPN and RoI head use different levels of the backbone.

    The last feature map goes to the RoI head, all others to the RPN: a ResNet with ``strides=(1, 2, 2, 1),
    dilations=(1, 1, 1, 2), out_indices=(2, 3)`` gives conv4 and dilated conv5, both of stride 16. Any
    backbone with two levels and any RoI head can be used: with mmdet's StandardRoIHead this is Faster R-CNN
    on conv4 and conv5.

    Images without objects are used in training, boxes without area are left out.

    Args:
        *args: Passed on to mmdet's TwoStageDetector.
        train_cfg: Settings of training, under 'rpn', 'rpn_proposal' and 'rcnn'.
        test_cfg: Settings of inference, under 'rpn' and 'rcnn'.
        rpn_head: Region proposal network; None if the samples bring proposals.
        roi_head: Second stage, such as :class:`RFCNRoIHead`.
        **kwargs: Passed on to mmdet's TwoStageDetector.

    Attributes:
        host_syncs: How often the package, besides mmdet, may wait for the GPU in a training step.
        host_syncs_per_image: The same for each image: :class:`AllSampler` lists objects and background.
    """

    host_syncs = 0
    host_syncs_per_image = 2

    def __init__(self, *args, train_cfg=None, test_cfg=None, rpn_head=None, roi_head=None, **kwargs):
        configs = dict(train_cfg=train_cfg, test_cfg=test_cfg, rpn_head=rpn_head, roi_head=roi_head)
        # TwoStageDetector reads these by attribute
        configs = {name: ConfigDict(cfg) if isinstance(cfg, dict) else cfg for name, cfg in configs.items()}
        super().__init__(*args, **configs, **kwargs)
        if self.with_rpn:
            # mmcv's NMS requires scores and boxes of the same type, and autocast gives scores of another
            self.rpn_head.register_forward_hook(_outputs_in_full_precision)
        self.memory_format = memory_format_of(self.backbone)
        self._folded: FoldedBackbone | None = None
        self._warned_of_flat_boxes = False
        # before the batch is copied to the device: a check there would wait for it
        self.data_preprocessor.register_forward_pre_hook(self._check_batch, with_kwargs=True)

    def extract_feat(self, batch_inputs: Tensor) -> Levels:
        """Feature maps of the backbone and the neck for images (B, 3, H, W)."""
        images = batch_inputs.contiguous(memory_format=self.memory_format)
        maps = self._backbone()(images)
        return self.neck(maps) if self.with_neck else maps

    def _backbone(self):
        if not isinstance(self.backbone, ResNet):  # folding needs children in the order of their calls
            return self.backbone
        if self._folded is None or self._folded.backbone is not self.backbone:
            self._folded = FoldedBackbone(self.backbone)
        return self._folded

    def levels(self, images: Tensor) -> tuple[Levels, Levels]:
        """Feature maps of images (B, 3, H, W): those for the RPN, and the one for the RoI head.

        Raises:
            ValueError: The backbone returns a single level, or the stride of the last map is not the one that
                the box head is configured for.
        """
        maps = self.extract_feat(images)
        if len(maps) < 2:
            raise ValueError(
                'R-FCN needs two levels, one for the RPN and one for the RoI head; '
                f'{type(self.backbone).__name__} gives {len(maps)}: set its out_indices, for a ResNet to (2, '
                '3)'
            )
        stride = getattr(getattr(self.roi_head, 'bbox_head', None), 'stride', None)
        image_size = tuple(images.shape[2:])
        map_size = tuple(maps[-1].shape[2:])
        if stride and any(abs(image_size[axis] / stride - map_size[axis]) > 1 for axis in range(2)):
            raise ValueError(
                f'the last map is {map_size} for images of {image_size}, but stride={stride} of '
                'roi_head.bbox_head; dilate the last stage, or set that stride'
            )
        return tuple(maps[:-1]), tuple(maps[-1:])

    def loss(self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample]) -> dict[str, Tensor]:
        """Losses of the RPN (``loss_rpn_cls``, ``loss_rpn_bbox``) and of the RoI head.

        Args:
            batch_inputs: (B, 3, H, W), normalised.
            batch_data_samples: Samples with ``gt_instances``, and with ``proposals`` if there is no RPN.

        Raises:
            ValueError: A ground-truth box is NaN or infinite, or a label is not a class of the box head.
        """
        samples = [self.check_objects(sample) for sample in batch_data_samples]
        rpn_maps, roi_maps = self.levels(batch_inputs)
        losses = {}
        if self.with_rpn:
            cfg = self.train_cfg.get('rpn_proposal', self.test_cfg.rpn)
            rpn_losses, proposals = self.rpn_head.loss_and_predict(
                rpn_maps, [as_single_class(sample) for sample in samples], proposal_cfg=cfg
            )
            losses = {name if 'rpn' in name else f'rpn_{name}': value for name, value in rpn_losses.items()}
        else:
            proposals = external_proposals(samples)
        # once a weight is NaN the loss is NaN too, which a hook handles; NaN boxes must not reach the
        # operators
        proposals = [finite_boxes(boxes) for boxes in proposals]
        losses.update(self.roi_head.loss(roi_maps, proposals, samples))
        return losses

    def predict(
        self, batch_inputs: Tensor, batch_data_samples: list[DetDataSample], rescale: bool = True
    ) -> list[DetDataSample]:
        """Detect objects, and write them into the samples as ``pred_instances``.

        Args:
            batch_inputs: (B, 3, H, W), normalised.
            batch_data_samples: Samples of the images; their ``proposals`` replace those of the RPN if
                present.
            rescale: Return boxes in pixels of the original images.

        Raises:
            ValueError: Proposals, scores or boxes are NaN or infinite.
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
        external = any(sample.get('proposals', None) is not None for sample in samples)
        if external or not self.with_rpn:
            return external_proposals(samples)
        proposals = self.rpn_head.predict(rpn_maps, samples, rescale=False)
        finite = all(bool(torch.isfinite(boxes.scores).all()) for boxes in proposals)
        # mmdet drops NaN boxes, so an image without proposals may be one whose scores are all NaN
        if finite and not all(map(len, proposals)):
            finite = all(bool(torch.isfinite(score).all()) for score in self.rpn_head(rpn_maps)[0])
        if not finite:
            raise ValueError(
                'the RPN predicts NaN or infinite scores: the checkpoint or the image contains such values'
            )
        return proposals

    def _check_batch(self, preprocessor, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        """Check the training samples that come from the loader."""
        call = dict(zip(('data', 'training'), args, strict=False)) | kwargs
        samples = call['data'].get('data_samples') if isinstance(call['data'], dict) else None
        if not call.get('training') or not samples:
            return None
        checked = [mark_checked(self.check_objects(sample)) for sample in samples]
        return ({**call['data'], 'data_samples': checked}, call['training']), {}

    def check_objects(self, sample: DetDataSample) -> DetDataSample:
        """Check the ground truth of an image, and return it without boxes that have no area.

        The data preprocessor does this on the CPU. Samples that did not pass it are checked where they are.

        Raises:
            ValueError: A box is NaN or infinite, or a label is not a class of the box head; without an RPN
                also if a proposal is missing, NaN or infinite.
        """
        if is_checked(sample):
            return sample
        if not self.with_rpn:
            external_proposals([sample])
        check_objects(sample, getattr(getattr(self.roi_head, 'bbox_head', None), 'num_classes', None))
        filtered = without_flat_boxes(sample)
        flat = len(sample.gt_instances.labels) - len(filtered.gt_instances.labels)
        if flat and not self._warned_of_flat_boxes:
            self._warned_of_flat_boxes = True
            print_log(
                f'{image_of(sample)}: {flat} boxes without area are left out; so are others like them',
                'current',
                logging.WARNING,
            )
        return filtered
