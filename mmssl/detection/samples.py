"""Ground truth and proposals of a batch, checked before they reach a detector."""

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData

CHECKED = 'checked_by_detector'


def check_objects(sample: DetDataSample, num_classes: int | None) -> None:
    """Check the boxes and labels of ``sample.gt_instances``, which waits for the device if they are on one.

    Args:
        sample: Ground truth of an image.
        num_classes: Number of classes of the box head; None skips the check of the labels.

    Raises:
        ValueError: A box is NaN or infinite, or a label is not in [0, num_classes). The image is named.
    """
    boxes = get_box_tensor(sample.gt_instances.bboxes)
    labels = sample.gt_instances.labels
    if not len(labels):
        return
    finite = torch.isfinite(boxes).all(1)
    if not bool(finite.all()):
        raise ValueError(
            f'{image_of(sample)}: object {int((~finite).nonzero()[0])} has the box '
            f'{boxes[~finite][0].tolist()}; correct the annotations, or check the transforms'
        )
    if num_classes is not None and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        invalid = int(labels.max() if labels.max() >= num_classes else labels.min())
        raise ValueError(
            f'{image_of(sample)}: label {invalid}, but roi_head.bbox_head predicts {num_classes} classes, '
            f'0 to {num_classes - 1}; set model.roi_head.bbox_head.num_classes, or '
            'metainfo=dict(classes=...) '
            'of the dataset'
        )


def mark_checked(sample: DetDataSample) -> DetDataSample:
    """Note in the sample that it was checked on the CPU: a second check would wait for the device."""
    sample.set_metainfo({CHECKED: True})
    return sample


def is_checked(sample: DetDataSample) -> bool:
    """Whether :func:`mark_checked` was called for the sample or for what it was copied from."""
    return bool(sample.get(CHECKED, False))


def without_flat_boxes(sample: DetDataSample) -> DetDataSample:
    """Return the sample without boxes that have no area; the sample itself where all boxes have one."""
    boxes = get_box_tensor(sample.gt_instances.bboxes)
    has_area = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    if bool(has_area.all()):
        return sample
    filtered = sample.new()
    filtered.gt_instances = sample.gt_instances[has_area]
    return filtered


def as_single_class(sample: DetDataSample) -> DetDataSample:
    """Return the same boxes with all labels 0, as the RPN is trained on them."""
    objects = sample.gt_instances
    single = DetDataSample(metainfo=sample.metainfo)
    single.gt_instances = InstanceData(bboxes=objects.bboxes, labels=torch.zeros_like(objects.labels))
    if 'ignored_instances' in sample:
        single.ignored_instances = sample.ignored_instances
    return single


def finite_boxes(proposals: InstanceData) -> InstanceData:
    """Return the proposals with empty boxes in place of NaN and infinite ones.

    They are replaced and not left out, since their number would have to be read from the device.
    """
    finite = torch.isfinite(proposals.bboxes).all(dim=1, keepdim=True)
    replaced = proposals.new()
    replaced.bboxes = torch.where(finite, proposals.bboxes, 0)
    return replaced


def external_proposals(samples: list[DetDataSample]) -> list[InstanceData]:
    """Return copies of the proposals that come with the samples.

    Raises:
        ValueError: A sample has no proposals, or a proposal is NaN or infinite. The image is named.
    """
    for index, sample in enumerate(samples):
        if sample.get('proposals', None) is None:
            raise ValueError(
                f'no proposals for {sample.metainfo.get("img_path", index)}: give the model an rpn_head, or '
                'the samples proposals'
            )
        if not is_checked(sample) and not bool(torch.isfinite(sample.proposals.bboxes).all()):
            raise ValueError(f'proposals of {image_of(sample)} are NaN or infinite')
    return [sample.proposals.new() for sample in samples]


def image_of(sample: DetDataSample) -> str:
    """Return the path of the image, for messages."""
    return sample.metainfo.get('img_path', 'an image')
