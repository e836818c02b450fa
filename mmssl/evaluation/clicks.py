"""Quality of a promptable segmenter: IoU after clicks of a simulated user, clicks for an IoU, and boxes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.dist import is_main_process
from mmengine.logging import MMLogger

from mmssl.evaluation.accumulating import AccumulatingMetric
from mmssl.registry import METRICS

# IoUs are summed as integers in units of 2^-32, because such sums do not depend on their order
UNIT = 2**32
# areas in pixels, as in COCO
SIZES = {'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, float('inf'))}


def number_of_clicks(ious: np.ndarray, threshold: float) -> np.ndarray:
    """Number of clicks until an IoU is reached (NoC), or K if it never is, as usual.

    Args:
        ious: (N, K) IoUs of N objects after 1 to K clicks.
        threshold: IoU to reach, in (0, 1].

    Returns:
        (N,) int64, 1 to K.
    """
    reached = np.asarray(ious) >= threshold
    return np.where(reached.any(1), reached.argmax(1) + 1, reached.shape[1])


@METRICS.register_module()
class ClickMetric(AccumulatingMetric):
    """Accuracy of simulated clicks and boxes, in percent, averaged over objects.

    The samples have ``pred_instances`` of :class:`mmssl.InteractiveSAM`: 'click_ious' (N, K), and optionally
    'best_ious', 'box_ious', 'boundary_ious' and 'areas'. Memory does not grow with the dataset.

    Scores: ``mIoU@k`` after k clicks; ``oracle_mIoU@1``, of the best of the first three masks; ``box_mIoU``;
    ``BIoU@k``, Boundary IoU after k clicks; ``NoC@85`` and ``NoC@90``, the mean number of clicks until that
    IoU, K if it is never reached, and ``NoF@85``, the percentage of objects that never reach it; and
    ``mIoU@1_small`` etc. by COCO's areas.

    Args:
        thresholds: IoUs of NoC and NoF, in percent.
        boundary_clicks: Numbers of clicks k of ``BIoU@k``; those above K are left out.
        overlay_dir: Folder for images with objects and the masks after the first and the last click, and for
            ``mIoU_by_clicks.png``; needs ``clicks=dict(keep_masks=True)`` of the model.
        prefix: Prefix of the names of the scores.
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
            raise ValueError(f'thresholds={thresholds} of ClickMetric must be percentages in (0, 100]')
        self.thresholds = tuple(thresholds)
        self.boundary_clicks = tuple(boundary_clicks)
        self.overlay_dir = overlay_dir

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Add up the results of a batch."""
        for sample in data_samples:
            if 'pred_instances' not in sample or 'click_ious' not in sample['pred_instances']:
                raise ValueError(
                    'ClickMetric needs pred_instances.click_ious, as mmssl.InteractiveSAM gives them'
                )
            if self.overlay_dir:
                from mmssl.visualization.clicks import draw_clicks

                draw_clicks(sample, self.overlay_dir)
            results = sample['pred_instances']
            arrays = {
                name: np.asarray(results[name], dtype=np.float64)
                for name in ('click_ious', 'best_ious', 'box_ious', 'boundary_ious', 'areas')
                if name in results
            }
            self.add(self.count(arrays), sample)

    def count(self, results: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Sum the results of the objects of an image.

        Args:
            results: 'click_ious' (N, K) and optional fields, see the class.

        Returns:
            Sums of IoUs in units of 2^-32, of clicks and of objects, int64; empty without objects.
        """
        ious = results['click_ious']
        if not len(ious):
            return {}
        thresholds = [percent / 100 for percent in self.thresholds]
        clicks = [number_of_clicks(ious, threshold).sum() for threshold in thresholds]
        failures = [(~(ious >= threshold).any(1)).sum() for threshold in thresholds]
        sums: dict[str, np.ndarray] = {
            'objects': np.array(len(ious), dtype=np.int64),
            'click_ious': _exact_sum(ious),
            'clicks': np.array(clicks, dtype=np.int64),
            'failures': np.array(failures, dtype=np.int64),
        }
        for name in ('best_ious', 'box_ious', 'boundary_ious'):
            if name in results:
                sums[name] = _exact_sum(results[name])
        if 'areas' in results:
            areas = results['areas']
            members = [(areas >= low) & (areas < high) for low, high in SIZES.values()]
            sizes = [[_exact_sum(ious[rows, 0]), rows.sum()] for rows in members]
            sums['sizes'] = np.array(sizes, dtype=np.int64)
        return sums

    def compute_sum(self, total: dict) -> dict[str, float]:
        """Return the mean scores of all objects: percentages, and numbers of clicks."""
        if 'objects' not in total:
            raise ValueError(
                'no object was evaluated: the dataset is empty, or none of its images has a mask'
            )
        objects = int(total['objects'])
        click_ious = [_mean(value, objects) for value in total['click_ious']]
        metrics = {f'mIoU@{clicks}': value for clicks, value in enumerate(click_ious, 1)}
        for name, key in (('oracle_mIoU@1', 'best_ious'), ('box_mIoU', 'box_ious')):
            if key in total:
                metrics[name] = _mean(total[key], objects)
        boundary_ious = total.get('boundary_ious', ())
        for clicks in self.boundary_clicks:
            if clicks <= len(boundary_ious):
                metrics[f'BIoU@{clicks}'] = _mean(boundary_ious[clicks - 1], objects)
        for index, threshold in enumerate(self.thresholds):
            metrics[f'NoC@{threshold:g}'] = int(total['clicks'][index]) / objects
            metrics[f'NoF@{threshold:g}'] = 100 * int(total['failures'][index]) / objects
        for name, (value, count) in zip(SIZES, total.get('sizes', ()), strict=False):
            if count:
                metrics[f'mIoU@1_{name}'] = _mean(value, int(count))
        if self.overlay_dir and is_main_process():
            _save_curve(click_ious, Path(self.overlay_dir))
        MMLogger.get_current_instance().info(
            f'{objects} objects: mIoU after 1 to {len(click_ious)} clicks '
            + ', '.join(f'{value:.2f}' for value in click_ious)
        )
        return metrics


def _save_curve(click_ious: list[float], folder: Path) -> None:
    from mmssl.visualization.clicks import click_curve

    folder.mkdir(parents=True, exist_ok=True)
    click_curve({'mIoU': click_ious}).save(folder / 'mIoU_by_clicks.png')


def _exact_sum(ious: np.ndarray) -> np.ndarray:
    """Sum over the objects (N, ...) in units of 2^-32, int64."""
    return np.rint(ious * UNIT).astype(np.int64).sum(0)


def _mean(total, objects: int) -> float:
    """Mean IoU in percent from a sum in units of 2^-32."""
    return 100 * int(total) / UNIT / objects
