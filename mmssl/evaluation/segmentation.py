"""Metrics of semantic segmentation: exact, in constant memory, equal for any number of processes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from mmengine.logging import MMLogger
from PIL import Image

from mmssl.evaluation.accumulating import AccumulatingMetric
from mmssl.evaluation.confusion import (
    class_scores,
    confusion_matrix,
    frequency_weighted_iou,
    mean_of_known,
    pixel_accuracy,
)
from mmssl.registry import METRICS

AVERAGES = ('dataset', 'image')
# scores of the classes -> name of their mean
MEANS = {
    'Acc': 'MPA',
    'IoU': 'mIoU',
    'Dice': 'mDice',
    'Fscore': 'mFscore',
    'Precision': 'mPrecision',
    'Recall': 'mRecall',
}
# order of the results
SCORES = ('PA', 'MPA', 'mIoU', 'FWIoU', 'mDice', 'mFscore', 'mPrecision', 'mRecall')


@contextmanager
def naming_file(sample: dict) -> Iterator[None]:
    """Put the file of a sample's label in front of the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{sample.get("seg_map_path") or sample.get("img_path")}: {error}') from None


@METRICS.register_module()
class SegmentationMetric(AccumulatingMetric):
    """PA, MPA, mIoU, FWIoU, Dice, F-score, precision and recall from one confusion matrix, in percent.

    Classes that occur in no map are left out of the means and logged. The number of classes is that of
    ``classes`` of the dataset; a single class means background and foreground, 0 and 1.

    Args:
        ignore_index: Pixels whose label is this value are not counted.
        average: 'dataset' for the scores of all pixels together, 'image' for the mean of the scores of the
            images.
        beta: Weight of the recall in the F-score.
        per_class: Log a table of the classes, and return ``IoU.<class>`` and ``Acc.<class>``.
        matrix_file: File for the confusion matrix, ``.csv`` or ``.npy``; a ``.png`` picture is written beside
            it.
        output_dir: Folder for the predictions as PNG files.
        format_only: Write the predictions without evaluating them.
        overlay_dir: Folder for pictures of the image, the prediction and the label with a legend.
        prefix: Prefix of the names of the scores.
    """

    # mmseg's IoUMetric counts in float32, which is exact up to 2^24 pixels, keeps four tensors for each
    # image, has neither FWIoU nor a confusion matrix, drops labels out of range, and rates a single class
    # always right

    def __init__(  # noqa: PLR0913
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
            raise ValueError('format_only=True writes the predictions, so output_dir must be set')
        if matrix_file and Path(matrix_file).suffix not in ('.csv', '.npy'):
            raise ValueError(f'matrix_file={matrix_file!r} of SegmentationMetric must end in .csv or .npy')
        self.ignore_index = ignore_index
        self.average = average
        self.beta = beta
        self.per_class = per_class
        self.matrix_file = matrix_file
        self.output_dir = output_dir
        self.format_only = format_only
        self.overlay_dir = overlay_dir
        self._images_by_name: dict[str, Path] = {}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, with background in front of a single one."""
        names = tuple((self.dataset_meta or {}).get('classes') or ())
        if not names:
            raise ValueError('the dataset has no classes; set its metainfo=dict(classes=(...))')
        return ('background', *names) if len(names) == 1 else names

    def process(self, data_batch, data_samples: Sequence[dict]) -> None:
        """Count the pixels of a batch.

        Raises:
            ValueError: A class is out of range; the file is named.
        """
        for sample in data_samples:
            pred = sample['pred_sem_seg']['data'].squeeze(0)
            if self.output_dir:
                self._write(Path(self.output_dir), pred, sample)
            if self.overlay_dir:
                self._draw(Path(self.overlay_dir), pred, sample)
            if self.format_only:
                self.add({}, sample)
                continue
            label = sample['gt_sem_seg']['data'].squeeze(0)
            with naming_file(sample):
                matrix = np.asarray(confusion_matrix(pred, label, len(self.classes), self.ignore_index))
            scores = self._image_scores(matrix) if self.average == 'image' else {}
            self.add({'matrix': matrix, **scores}, sample)

    def _scores(self, matrix: np.ndarray) -> dict[str, float]:
        """Mean scores of a confusion matrix, NaN where no class is known."""
        scores = {'PA': pixel_accuracy(matrix), 'FWIoU': frequency_weighted_iou(matrix)}
        per_class = class_scores(matrix, self.beta)
        for name, mean in MEANS.items():
            scores[mean] = mean_of_known(per_class[name])
        return scores

    def _image_scores(self, matrix: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of an image as [score, 1], whose sum gives the mean over the images.

        The scores are exact fractions, because a sum of floats would depend on the order of the images and
        thus on the number of processes.
        """
        return {
            name: np.array([Fraction(float(value)), 1], dtype=object)
            for name, value in self._scores(matrix).items()
            if not np.isnan(value)
        }

    def compute_sum(self, total: dict) -> dict[str, float]:
        """Return the scores in percent."""
        logger = MMLogger.get_current_instance()
        if self.format_only:
            logger.info(f'predictions are in {self.output_dir}')
            return {}
        if 'matrix' not in total:
            raise ValueError('no image was evaluated: the dataset is empty')
        matrix, names = total['matrix'], self.classes
        if not matrix.sum():
            raise ValueError(f'no pixel counts: all labels are ignore_index={self.ignore_index}')
        if self.average == 'image':
            scores = {name: float(total[name][0] / total[name][1]) for name in SCORES if name in total}
        else:
            scores = self._scores(matrix)
        metrics = {name: 100 * scores[name] for name in SCORES if name in scores}
        per_class = class_scores(matrix, self.beta)
        absent = [name for name, value in zip(names, per_class['IoU'], strict=True) if np.isnan(value)]
        if absent:
            logger.info(f'classes in no label and no prediction, left out of the means: {", ".join(absent)}')
        if self.per_class:
            logger.info('\n' + _table(names, per_class))
            metrics.update(_named(names, per_class))
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
        """Name of the output for an image, unique among the images of this process.

        Parent folders are prepended if needed: town_a/1.jpg and town_b/1.jpg give 1.png and town_b_1.png.
        """
        parts = path.with_suffix('').relative_to(path.anchor).parts
        names = ['_'.join(parts[-count:]) for count in range(1, len(parts) + 1)]
        for name in (*names, path.name):
            if self._images_by_name.setdefault(name, path) == path:
                return f'{name}.png'
        return f'{len(self._images_by_name)}.png'

    def _write(self, folder: Path, pred, sample: dict) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        classes = pred.cpu().numpy()
        if sample.get('reduce_zero_label', False):
            classes = classes + 1  # as the labels are stored
        dtype = np.uint8 if classes.max(initial=0) < 256 else np.uint16
        file = folder / self._file_name(Path(sample['img_path']))
        Image.fromarray(classes.astype(dtype)).save(file)

    def _draw(self, folder: Path, pred, sample: dict) -> None:
        from mmssl.data.pictures import read_rgb
        from mmssl.visualization.segmentation import segmentation_figure

        folder.mkdir(parents=True, exist_ok=True)
        maps = {'prediction': pred.cpu().numpy()}
        if 'gt_sem_seg' in sample:
            maps['label'] = sample['gt_sem_seg']['data'].squeeze(0).cpu().numpy()
        figure = segmentation_figure(
            read_rgb(sample['img_path']), maps, self.classes, (self.dataset_meta or {}).get('palette')
        )
        figure.save(folder / self._file_name(Path(sample['img_path'])))


def _named(names: Sequence[str], scores: dict[str, np.ndarray]) -> dict[str, float]:
    """Known IoUs and accuracies of the classes in percent, as ``IoU.<class>`` and ``Acc.<class>``."""
    return {
        f'{score}.{name}': 100 * float(value)
        for score in ('IoU', 'Acc')
        for name, value in zip(names, scores[score], strict=True)
        if not np.isnan(value)
    }


def _table(names: Sequence[str], scores: dict[str, np.ndarray]) -> str:
    """Text table with a row for each class and a column for each score."""
    width = max(len('class'), *map(len, names))
    lines = ['  '.join(['class'.ljust(width), *(score.rjust(9) for score in scores)])]
    for index, name in enumerate(names):
        values = [column[index] for column in scores.values()]
        texts = ['-' if np.isnan(value) else f'{100 * value:.2f}' for value in values]
        lines.append('  '.join([name.ljust(width), *(text.rjust(9) for text in texts)]))
    return '\n'.join(lines)
