"""How many objects automatic masks find: average recall without classes, as COCO and LVIS evaluate proposals."""

from collections.abc import Sequence

import numpy as np

from mmssl.evaluation.segmentation import AccumulatingMetric
from mmssl.registry import METRICS

# COCO's: 0.50, 0.55, ... 0.95
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def matched(ious: np.ndarray, thresholds: np.ndarray = THRESHOLDS) -> np.ndarray:
    """How many objects are found, each by a mask of its own: masks choose in their order the free object that they overlap most.

    Args:
        ious: (M, N) of masks, most confident first, and objects.
        thresholds: (T,) least IoU.

    Returns:
        (T,) int64.
    """
    counts = np.zeros(len(thresholds), dtype=np.int64)
    for place, threshold in enumerate(thresholds):
        free = np.ones(ious.shape[1], dtype=bool)
        for row in ious[(ious >= threshold).any(1)] if ious.size else ():
            candidates = np.where(free, row, -1.0)
            best = int(candidates.argmax())
            if candidates[best] >= threshold:
                free[best] = False
        counts[place] = (~free).sum()
    return counts


def encoded(masks) -> list[dict]:
    """Run lengths of (N, H, W) bool masks; run lengths stay as they are."""
    from pycocotools import mask as coco

    if len(masks) and isinstance(masks[0], dict):
        return list(masks)
    return [coco.encode(np.asfortranarray(np.asarray(mask, dtype=np.uint8))) for mask in masks]


@METRICS.register_module()
class AverageRecall(AccumulatingMetric):
    """``AR@1000`` of automatic masks, in percent: the mean over IoUs from 0.50 to 0.95 of the share of objects that are found.

    mmdet's CocoMetric needs boxes, classes and a COCO file. This one reads 'masks' (M, H, W) bool or a list
    of compressed run lengths and 'scores' (M,), and ``gt_instances.masks`` (N, H, W) bool of the same size.
    Memory does not grow.

    Args:
        max_masks: of an image, most confident first.
        field: of the samples with the masks; :class:`mmssl.InteractiveSAM` with ``automatic`` gives
            'automatic'.
        prefix: of the names.

    Raises:
        ValueError: ``max_masks`` below 1; samples without the field.
    """

    def __init__(self, max_masks: int = 1000, field: str = 'pred_instances', prefix: str | None = None):
        super().__init__(prefix=prefix)
        if max_masks < 1:
            raise ValueError(f'max_masks={max_masks} of AverageRecall must be at least 1')
        self.max_masks, self.field = max_masks, field

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Take in a batch."""
        from pycocotools import mask as coco

        for sample in data_samples:
            if 'masks' not in sample.get(self.field, ()):
                raise ValueError(
                    f'AverageRecall needs masks in {self.field!r} of the samples; set model.automatic=dict() for '
                    "InteractiveSAM, and field='automatic'"
                )
            found, objects = sample[self.field], encoded(sample['gt_instances']['masks'])
            order = np.argsort(-np.asarray(found['scores'], dtype=np.float64), kind='stable')[
                : self.max_masks
            ]
            masks = encoded(found['masks'])
            masks = [masks[number] for number in order]
            ious = (
                np.asarray(coco.iou(masks, objects, [0] * len(objects)))
                if masks and objects
                else np.zeros((len(masks), len(objects)))
            )
            self.add(
                {
                    'found': matched(ious),
                    'objects': np.int64(len(objects)),
                    'masks': np.int64(len(masks)),
                    'images': np.int64(1),
                }
            )

    def compute_sum(self, total: dict) -> dict[str, float]:
        """'AR@...' and 'AR50@...' in percent, and how many masks an image has."""
        if not total or not total['objects']:
            raise ValueError(
                'no object was evaluated: the data set is empty, or none of its images has a mask'
            )
        recall = 100 * total['found'] / int(total['objects'])
        return {
            f'AR@{self.max_masks}': float(recall.mean()),
            f'AR50@{self.max_masks}': float(recall[0]),
            'masks_per_image': int(total['masks']) / int(total['images']),
        }
