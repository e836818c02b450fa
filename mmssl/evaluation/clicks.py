"""How good a promptable segmenter is: the IoU after 1, 2, ... clicks of a simulated user, the number of clicks for an IoU, boxes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger

from mmssl.evaluation.segmentation import AccumulatingMetric
from mmssl.registry import METRICS

# sums of whole numbers do not depend on their order
UNIT = 2**32
# COCO's: pixels of a small and of a medium object
SIZES = {'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, float('inf'))}


def number_of_clicks(ious: np.ndarray, threshold: float) -> np.ndarray:
    """Clicks until an IoU is reached (NoC); where it never is, the number of clicks that were made, as usual.

    Args:
        ious: (N, K) after 1 to K clicks.
        threshold: in (0, 1].

    Returns:
        (N,) int64, 1 to K.
    """
    reached = np.asarray(ious) >= threshold
    return np.where(reached.any(1), reached.argmax(1) + 1, reached.shape[1])


@METRICS.register_module()
class ClickMetric(AccumulatingMetric):
    """Means over objects of what simulated clicks and boxes reach, in percent; no host evaluates prompts.

    Reads ``pred_instances`` of :class:`mmssl.InteractiveSAM`: 'click_ious' (N, K), and where they are there
    'best_ious', 'box_ious', 'boundary_ious' and 'areas'. Every object counts alike; memory does not grow.

    ``mIoU@k`` after k clicks; ``oracle_mIoU@1``, of the best of the three first masks; ``box_mIoU``;
    ``BIoU@k``, Boundary IoU; ``NoC@85`` and ``NoC@90``, mean number of clicks until that IoU, K where it is
    never reached, and ``NoF@85``, how many percent never do; ``mIoU@1_small`` and so on by COCO's areas.

    Args:
        thresholds: of the numbers of clicks, in percent.
        boundary_clicks: k of ``BIoU@k``; those above K are left out.
        overlay_dir: folder for pictures: image, objects, masks after the first and the last click, and
            ``mIoU_by_clicks.png``; needs ``clicks=dict(keep_masks=True)`` of the model.
        prefix: of the names.
    """

    def __init__(
        self,
        thresholds: Sequence[float] = (85, 90),
        boundary_clicks: Sequence[int] = (1, 5),
        overlay_dir: str | None = None,
        prefix: str | None = None,
    ):
        super().__init__(prefix=prefix)
        if not all(0 < value <= 100 for value in thresholds):
            raise ValueError(f'thresholds={thresholds} of ClickMetric must be percents in (0, 100]')
        self.thresholds, self.boundary_clicks, self.overlay_dir = (
            tuple(thresholds),
            tuple(boundary_clicks),
            overlay_dir,
        )

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Take in a batch."""
        for sample in data_samples:
            if 'pred_instances' not in sample or 'click_ious' not in sample['pred_instances']:
                raise ValueError(
                    'ClickMetric needs pred_instances.click_ious, as mmssl.InteractiveSAM gives them'
                )
            results = sample['pred_instances']
            if self.overlay_dir:
                from mmssl.visualization.promptable import draw_clicks

                draw_clicks(sample, self.overlay_dir)
            self.add(
                self.count(
                    {
                        name: np.asarray(results[name], dtype=np.float64)
                        for name in ('click_ious', 'best_ious', 'box_ious', 'boundary_ious', 'areas')
                        if name in results
                    }
                )
            )

    def count(self, results: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Summands of the objects of one image: sums of IoUs in units of 2^-32, clicks and counts, int64."""
        ious = results['click_ious']
        if not len(ious):
            return {}

        def total(values):
            return np.rint(values * UNIT).astype(np.int64).sum(0)

        summand = {'objects': np.int64(len(ious)), 'click_ious': total(ious)}
        summand.update(
            (name, total(results[name]))
            for name in ('best_ious', 'box_ious', 'boundary_ious')
            if name in results
        )
        summand['clicks'] = np.array(
            [number_of_clicks(ious, value / 100).sum() for value in self.thresholds], dtype=np.int64
        )
        summand['failures'] = np.array(
            [(~(ious >= value / 100).any(1)).sum() for value in self.thresholds], dtype=np.int64
        )
        if 'areas' in results:
            inside = [(results['areas'] >= low) & (results['areas'] < high) for low, high in SIZES.values()]
            summand['sizes'] = np.array(
                [[total(ious[rows, 0]), rows.sum()] for rows in inside], dtype=np.int64
            )
        return summand

    def compute_sum(self, total: dict) -> dict[str, float]:
        """Means in percent, clicks as they are."""
        if 'objects' not in total:
            raise ValueError(
                'no object was evaluated: the data set is empty, or none of its images has a mask'
            )
        count = int(total['objects'])

        def mean(value):
            return 100 * int(value) / UNIT / count

        metrics = {f'mIoU@{number}': mean(value) for number, value in enumerate(total['click_ious'], 1)}
        metrics.update(
            (name, mean(total[key]))
            for name, key in (('oracle_mIoU@1', 'best_ious'), ('box_mIoU', 'box_ious'))
            if key in total
        )
        for number in self.boundary_clicks:
            if number <= len(total.get('boundary_ious', ())):
                metrics[f'BIoU@{number}'] = mean(total['boundary_ious'][number - 1])
        for threshold, clicks, failures in zip(
            self.thresholds, total['clicks'], total['failures'], strict=True
        ):
            metrics[f'NoC@{threshold:g}'] = int(clicks) / count
            metrics[f'NoF@{threshold:g}'] = 100 * int(failures) / count
        for name, (value, number) in zip(SIZES, total.get('sizes', ()), strict=False):
            if number:
                metrics[f'mIoU@1_{name}'] = 100 * int(value) / UNIT / int(number)
        if self.overlay_dir and is_main_process():
            from mmssl.visualization.promptable import click_curve

            Path(self.overlay_dir).mkdir(parents=True, exist_ok=True)
            click_curve({'mIoU': [mean(value) for value in total['click_ious']]}).save(
                Path(self.overlay_dir) / 'mIoU_by_clicks.png'
            )
        MMLogger.get_current_instance().info(
            f'{count} objects: mIoU after 1 to {len(total["click_ious"])} clicks '
            + ', '.join(f'{mean(value):.2f}' for value in total['click_ious'])
        )
        return metrics
