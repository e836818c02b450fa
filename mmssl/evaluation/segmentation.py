"""Metrics of semantic segmentation in runs: exact, in constant memory, the same on any number of processes."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
from mmengine.dist import all_gather_object, broadcast_object_list, get_rank, get_world_size, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import MMLogger
from PIL import Image

from mmssl.evaluation.confusion import (
    class_scores,
    confusion_matrix,
    frequency_weighted_iou,
    mean_of_known,
    pixel_accuracy,
)
from mmssl.registry import METRICS

AVERAGES = ('dataset', 'image')
# the mean of a score of the classes, and how the mean is called
MEANS = {
    'Acc': 'MPA',
    'IoU': 'mIoU',
    'Dice': 'mDice',
    'Fscore': 'mFscore',
    'Precision': 'mPrecision',
    'Recall': 'mRecall',
}


class AccumulatingMetric(BaseMetric):
    """mmengine collects a result an image and cuts the sampler's padding off the list; this one keeps a sum, and takes the padding out.

    A sampler fills up the last round of the processes with samples that were there before, at most one a
    process, its last. A subclass hands each sample's summand, a dict of arrays and numbers that can be added,
    to :meth:`add`, and gets the sum in :meth:`compute_sum`.
    """

    def __init__(self, prefix: str | None = None):
        super().__init__(prefix=prefix)
        self.reset()

    def reset(self) -> None:
        """Forget all samples."""
        self.total: dict = {}
        self.last: dict = {}
        self.seen = 0

    def add(self, summand: dict) -> None:
        """Take in one sample."""
        self._merge(self.total, self.last)
        self.last = summand
        self.seen += 1

    @staticmethod
    def _merge(total: dict, summand: dict) -> None:
        for key, value in summand.items():
            total[key] = total[key] + value if key in total else value

    def evaluate(self, size: int) -> dict:
        """Scores of the whole data set.

        Args:
            size: number of samples in it.

        Returns:
            name to value, the same on every process.
        """
        rank, world = get_rank(), get_world_size()
        if self.seen <= len(range(rank, size, world)):
            self._merge(self.total, self.last)
        joined: dict = {}
        for part in all_gather_object(self.total):
            self._merge(joined, part)
        self.reset()
        metrics = [self.compute_sum(joined) if is_main_process() else {}]
        broadcast_object_list(metrics)
        return {f'{self.prefix}/{name}' if self.prefix else name: value for name, value in metrics[0].items()}

    def compute_sum(self, total: dict) -> dict:
        """Scores from the sum over all samples."""
        raise NotImplementedError

    def compute_metrics(self, results: list) -> dict:
        """Not used: nothing is collected."""
        raise NotImplementedError


@METRICS.register_module()
class SegmentationMetric(AccumulatingMetric):
    """PA, MPA, mIoU, FWIoU, Dice, F-score, precision and recall, in percent.

    mmseg's IoUMetric counts in float32, which stops at 2^24 pixels a thread, keeps four tensors an image, has
    neither FWIoU nor a confusion matrix, drops labels out of range, and takes one class for always right.
    Here one int64 confusion matrix is kept.

    Classes that are in no map are left out of the means and named; the data set's ``classes`` say how many
    there are. One class is background and foreground: 0 and 1.

    Args:
        ignore_index: pixels with this value in either map do not count.
        average: 'dataset', scores of the pixels of all images together; 'image', the mean over the images of
            the scores of each.
        beta: weight of the recall in the F-score.
        per_class: log a table of the classes, and return theirs as ``IoU.<class>`` and ``Acc.<class>``.
        matrix_file: where the confusion matrix goes: ``.csv`` or ``.npy``, and a ``.png`` picture beside it.
        output_dir: folder for the predictions as PNG files.
        format_only: write the predictions and evaluate nothing.
        overlay_dir: folder for pictures: image, prediction and label, with a legend.
        prefix: of the names.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        average: str = 'dataset',
        beta: float = 1.0,
        per_class: bool = True,
        matrix_file: str | None = None,
        output_dir: str | None = None,
        format_only: bool = False,
        overlay_dir: str | None = None,
        prefix: str | None = None,
    ):
        super().__init__(prefix=prefix)
        if average not in AVERAGES:
            raise ValueError(f'average={average!r} of SegmentationMetric; one of {", ".join(AVERAGES)}')
        if not beta > 0:
            raise ValueError(f'beta={beta} of SegmentationMetric must be above 0')
        if format_only and not output_dir:
            raise ValueError(
                'format_only=True writes predictions and nothing else; say where with output_dir'
            )
        if matrix_file and Path(matrix_file).suffix not in ('.csv', '.npy'):
            raise ValueError(f'matrix_file={matrix_file!r} of SegmentationMetric must end in .csv or .npy')
        self.ignore_index, self.average, self.beta, self.per_class = ignore_index, average, beta, per_class
        self.matrix_file, self.output_dir, self.format_only, self.overlay_dir = (
            matrix_file,
            output_dir,
            format_only,
            overlay_dir,
        )
        self._named: dict[str, Path] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes; background comes before a single one."""
        names = tuple((self.dataset_meta or {}).get('classes') or ())
        if not names:
            raise ValueError('the data set has no classes; give its metainfo=dict(classes=(...))')
        return ('background', *names) if len(names) == 1 else names

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch; raises ValueError naming the file where a label is out of range."""
        for sample in data_samples:
            pred = sample['pred_sem_seg']['data'].squeeze(0)
            if self.output_dir:
                self._write(Path(self.output_dir), pred, sample)
            if self.overlay_dir:
                self._draw(Path(self.overlay_dir), pred, sample)
            if self.format_only:
                self.add({})
                continue
            label = sample['gt_sem_seg']['data'].squeeze(0)
            try:
                matrix = np.asarray(confusion_matrix(pred, label, len(self.classes), self.ignore_index))
            except ValueError as error:
                raise ValueError(f'{sample.get("seg_map_path") or sample.get("img_path")}: {error}') from None
            self.add({'matrix': matrix, **(self._of_image(matrix) if self.average == 'image' else {})})

    def _of_image(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of one image as exact sums, which do not depend on the order of the images: [sum, how many]."""
        scores = {'PA': pixel_accuracy(matrix), 'FWIoU': frequency_weighted_iou(matrix)}
        per_class = class_scores(matrix, self.beta)
        scores.update((mean, mean_of_known(per_class[name])) for name, mean in MEANS.items())
        return {
            name: np.array([Fraction(float(value)), 1], dtype=object)
            for name, value in scores.items()
            if not np.isnan(value)
        }

    def compute_sum(self, total: dict) -> dict[str, float]:
        """Scores in percent from the sums over all images."""
        logger = MMLogger.get_current_instance()
        if self.format_only:
            logger.info(f'predictions are in {self.output_dir}')
            return {}
        if 'matrix' not in total:
            raise ValueError('no image was evaluated: the data set is empty')
        matrix, names = total['matrix'], self.classes
        if not matrix.sum():
            raise ValueError(f'no pixel counts: all labels are ignore_index={self.ignore_index}')
        per_class = class_scores(matrix, self.beta)
        absent = [name for name, value in zip(names, per_class['IoU'], strict=True) if np.isnan(value)]
        if absent:
            logger.info(f'classes in no label and no prediction, left out of the means: {", ".join(absent)}')
        if self.average == 'image':
            metrics = {
                name: float(total[name][0] / total[name][1])
                for name in ('PA', 'MPA', 'mIoU', 'FWIoU', *list(MEANS.values())[2:])
                if name in total
            }
        else:
            metrics = {
                'PA': pixel_accuracy(matrix),
                'MPA': mean_of_known(per_class['Acc']),
                'mIoU': mean_of_known(per_class['IoU']),
                'FWIoU': frequency_weighted_iou(matrix),
            }
            metrics.update((mean, mean_of_known(per_class[name])) for name, mean in list(MEANS.items())[2:])
        metrics = {name: 100 * value for name, value in metrics.items()}
        if self.per_class:
            logger.info('\n' + _table(names, per_class))
            for name in ('IoU', 'Acc'):
                metrics.update(
                    (f'{name}.{label}', 100 * float(value))
                    for label, value in zip(names, per_class[name], strict=True)
                    if not np.isnan(value)
                )
        if self.matrix_file:
            self._save_matrix(Path(self.matrix_file), matrix, names)
        return metrics

    def _save_matrix(self, path: Path, matrix: np.ndarray, names: Sequence[str]) -> None:
        from mmssl.visualization.confusion import draw_confusion

        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.npy':
            np.save(path, matrix)
        else:
            rows = [','.join(['label\\prediction', *names])]
            rows += [
                ','.join([name, *map(str, row)]) for name, row in zip(names, matrix.tolist(), strict=True)
            ]
            path.write_text('\n'.join(rows) + '\n', encoding='utf-8')
        draw_confusion(matrix, names, path.with_suffix('.png'))

    def _file_name(self, path: Path) -> str:
        """That of the image; with folders before it where another image of this process has the same (town_a/1.jpg, town_b/1.jpg)."""
        parts = path.with_suffix('').relative_to(path.anchor).parts
        names = ['_'.join(parts[-count:]) for count in range(1, len(parts) + 1)] + [path.name]
        return (
            next(
                (name for name in names if self._named.setdefault(name, path) == path), str(len(self._named))
            )
            + '.png'
        )

    def _write(self, folder: Path, pred, sample: dict) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        classes = pred.cpu().numpy()
        if sample.get('reduce_zero_label', False):
            classes = classes + 1  # as the labels are stored
        Image.fromarray(classes.astype(np.uint8 if classes.max(initial=0) < 256 else np.uint16)).save(
            folder / self._file_name(Path(sample['img_path']))
        )

    def _draw(self, folder: Path, pred, sample: dict) -> None:
        from mmssl.visualization.segmentation import read_rgb, segmentation_picture

        folder.mkdir(parents=True, exist_ok=True)
        maps = {'prediction': pred.cpu().numpy()}
        if 'gt_sem_seg' in sample:
            maps['label'] = sample['gt_sem_seg']['data'].squeeze(0).cpu().numpy()
        picture = segmentation_picture(
            read_rgb(sample['img_path']), maps, self.classes, (self.dataset_meta or {}).get('palette')
        )
        picture.save(folder / self._file_name(Path(sample['img_path'])))


def _table(names: Sequence[str], scores: dict[str, np.ndarray]) -> str:
    width = max(len('class'), *map(len, names))
    lines = ['  '.join(['class'.ljust(width), *(name.rjust(9) for name in scores)])]
    for index, name in enumerate(names):
        values = (scores[score][index] for score in scores)
        lines.append(
            '  '.join(
                [
                    name.ljust(width),
                    *(('-' if np.isnan(value) else f'{100 * value:.2f}').rjust(9) for value in values),
                ]
            )
        )
    return '\n'.join(lines)
