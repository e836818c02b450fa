"""Average recall of automatic masks without classes, as COCO and LVIS evaluate proposals."""

from collections.abc import Sequence

import numpy as np

from mmssl.evaluation.accumulating import AccumulatingMetric
from mmssl.registry import METRICS

# IoU thresholds of COCO: 0.50, 0.55, ... 0.95
THRESHOLDS = np.linspace(0.5, 0.95, 10)


def matched(ious: np.ndarray, thresholds: np.ndarray = THRESHOLDS) -> np.ndarray:
    """Count the objects that are matched by a mask; each mask matches the free object that it overlaps most.

    Args:
        ious: (M, N) IoUs of masks, most confident first, and objects.
        thresholds: (T,) minimum IoUs of a match.

    Returns:
        (T,) int64.
    """
    counts = np.zeros(len(thresholds), dtype=np.int64)
    for index, threshold in enumerate(thresholds):
        free = np.ones(ious.shape[1], dtype=bool)
        for row in ious[(ious >= threshold).any(1)] if ious.size else ():
            candidates = np.where(free, row, -1.0)
            best = int(candidates.argmax())
            if candidates[best] >= threshold:
                free[best] = False
        counts[index] = (~free).sum()
    return counts


def encoded(masks) -> list[dict]:
    """Encode (N, H, W) bool masks as compressed run lengths; run lengths are returned unchanged."""
    from pycocotools import mask as coco

    if len(masks) and isinstance(masks[0], dict):
        return list(masks)
    return [coco.encode(np.asfortranarray(np.asarray(mask, dtype=np.uint8))) for mask in masks]


@METRICS.register_module()
class AverageRecall(AccumulatingMetric):
    """Average recall of automatic masks, in percent.

    ``AR@1000`` is the mean over IoU thresholds from 0.50 to 0.95, ``AR50@1000`` the recall at 0.50.

    Predictions are 'masks', (M, H, W) bool or a list of compressed run lengths, and 'scores' (M,); the
    objects are ``gt_instances.masks`` (N, H, W) bool of the same size. Memory does not grow with the dataset.

    Args:
        max_masks: Number of masks per image that are used, most confident first.
        field: Field of the samples with the predictions; :class:`mmssl.InteractiveSAM` with ``automatic``
            writes 'automatic'.
        prefix: Prefix of the names of the scores.

    Raises:
        ValueError: ``max_masks`` is below 1, or samples lack the field.
    """

    # mmdet's CocoMetric needs boxes, classes and a COCO file

    def __init__(self, max_masks: int = 1000, field: str = 'pred_instances', prefix: str | None = None):
        super().__init__(prefix=prefix)
        if max_masks < 1:
            raise ValueError(f'max_masks={max_masks} of AverageRecall must be at least 1')
        self.max_masks = max_masks
        self.field = field

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Match the masks of a batch with its objects."""
        from pycocotools import mask as coco

        for sample in data_samples:
            if 'masks' not in sample.get(self.field, ()):
                raise ValueError(
                    f'AverageRecall needs masks in {self.field!r} of the samples; set model.automatic=dict() '
                    'for '
                    "InteractiveSAM, and field='automatic'"
                )
            predictions = sample[self.field]
            scores = np.asarray(predictions['scores'], dtype=np.float64)
            order = np.argsort(-scores, kind='stable')[: self.max_masks]
            masks = encoded(predictions['masks'])
            masks = [masks[index] for index in order]
            objects = encoded(sample['gt_instances']['masks'])
            ious = np.zeros((len(masks), len(objects)))
            if masks and objects:
                ious = np.asarray(coco.iou(masks, objects, [0] * len(objects)))
            self.add(
                {
                    'matched': matched(ious),
                    'objects': np.int64(len(objects)),
                    'masks': np.int64(len(masks)),
                    'images': np.int64(1),
                },
                sample,
            )

    def compute_sum(self, total: dict) -> dict[str, float]:
        """Return 'AR@...' and 'AR50@...' in percent, and the mean number of masks per image."""
        if not total or not total['objects']:
            raise ValueError(
                'no object was evaluated: the dataset is empty, or none of its images has a mask'
            )
        recall = 100 * total['matched'] / int(total['objects'])
        return {
            f'AR@{self.max_masks}': float(recall.mean()),
            f'AR50@{self.max_masks}': float(recall[0]),
            'masks_per_image': int(total['masks']) / int(total['images']),
        }
