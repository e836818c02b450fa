"""Scores of predictions in files against the truth in files, without a model or a config."""

import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from mmssl.apis.score_maps import load_pair, map_pairs
from mmssl.apis.score_objects import score_objects
from mmssl.data.label_formats import TASKS, LabelSet, read_labels
from mmssl.data.label_formats.matching import match_images, part_of
from mmssl.errors import LabelError
from mmssl.evaluation.agreement import (
    cohen_kappa,
    image_counts,
    matrix_scores,
    mean_over_known,
    resampled_scores,
)
from mmssl.evaluation.bootstrap import RESAMPLES, bootstrap_intervals
from mmssl.evaluation.boundary import BoundaryMetric
from mmssl.evaluation.confusion import (
    class_scores,
    confusion_matrix,
    frequency_weighted_iou,
    mean_iou,
    mean_of_known,
    mean_pixel_accuracy,
    pixel_accuracy,
)
from mmssl.hints import nearest


def score(  # noqa: PLR0913
    truth: str | os.PathLike,
    prediction: str | os.PathLike,
    task: str,
    ignore: int | None = None,
    num_classes: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    split: str | None = None,
) -> dict[str, Any]:
    """Score predictions in files against the truth.

    Args:
        truth: Folder or file: label maps for 'semantic'; any format of :func:`read_labels` otherwise.
        prediction: Likewise, with the same names of images; for 'detect' and 'instance' also a list of
            results in COCO's form.
        task: 'semantic', 'detect', 'instance' or 'classify'.
        ignore: Value in the label maps of the truth that is not counted; 255 if None.
        num_classes: Number of classes of label maps without a table of classes; the largest value plus 1 if
            None.
        resamples: Resamples of the images for the 95 % intervals.
        seed: Seed of the resamples.
        split: 'train', 'val' or 'test' for that part of the truth only; not for 'semantic', whose parts are
            folders of their own.

    Returns:
        Scores from 0 to 1 (kappa from -1), 'per_class', 'interval' with [low, high] of each score, 'images'
        and 'notes'. None stands for scores that do not exist.

    Raises:
        FileNotFoundError: There is no such file or folder.
        LabelError: An image is only on one side, sizes differ, or a value is not a class; the message names
            the file.
        ValueError: There is no such task.
    """
    if task not in TASKS:
        hint = nearest(task, TASKS) or f'; one of {", ".join(TASKS)}'
        raise ValueError(f'task {task!r} does not exist{hint}')
    if resamples < 1:
        raise ValueError(f'resamples={resamples} must be at least 1')
    if task == 'semantic' and split:
        raise ValueError(f'split {split!r}: name the folder of its label maps instead')
    if task == 'semantic':
        result = _score_maps(truth, prediction, ignore, num_classes, resamples, seed)
    elif task == 'classify':
        result = _score_images(truth, prediction, resamples, seed, split)
    else:
        result = score_objects(truth, prediction, task, resamples, seed, split)
    return _without_nan(result)


def _score_maps(truth, prediction, ignore, num_classes, resamples: int, seed: int) -> dict[str, Any]:
    pairs = map_pairs(truth, prediction, ignore, num_classes)
    names = pairs.classes
    boundary = BoundaryMetric(ignore_index=pairs.ignore_index, prefix='boundary')
    matrices, contours = [], []
    for true_file, predicted_file in pairs.files:
        label, pred = load_pair(pairs, true_file, predicted_file)
        try:
            matrix = confusion_matrix(pred, label, len(names), pairs.ignore_index)
            contours.append(boundary.count(pred, label, len(names))['contour'])
        except ValueError as error:
            file = predicted_file if str(error).startswith('the prediction') else true_file
            raise LabelError(str(error), file) from None
        matrices.append(matrix)
    matrix = np.sum(matrices, axis=0)
    if not matrix.sum():
        raise LabelError(f'no pixel counts: all are ignored ({pairs.ignore_index})', truth)
    contour = np.array(contours)
    counts = np.stack([image_counts(each) for each in matrices]).astype(np.float64)

    def resampled(draws: np.ndarray) -> dict[str, np.ndarray]:
        scores = resampled_scores(np.einsum('bn,nkc->bkc', draws, counts))
        common, union = np.einsum('bn,nkc->kbc', draws, contour.astype(np.float64))
        with np.errstate(divide='ignore', invalid='ignore'):
            scores['boundary_iou'] = mean_over_known(common / union)
        return scores

    intervals = bootstrap_intervals(resampled, len(matrices), resamples, seed)
    per_class = class_scores(matrix)
    common, union = contour.sum(0)
    boundary_ious = np.divide(common, union, out=np.full(len(union), np.nan), where=union > 0)
    return {
        'pixel_accuracy': pixel_accuracy(matrix),
        'mean_pixel_accuracy': mean_pixel_accuracy(matrix),
        'mean_iou': mean_iou(matrix),
        'frequency_weighted_iou': frequency_weighted_iou(matrix),
        'boundary_iou': mean_of_known(boundary_ious),
        'kappa': cohen_kappa(matrix),
        'per_class': _per_class(
            names,
            {
                'iou': per_class['IoU'],
                'accuracy': per_class['Acc'],
                'precision': per_class['Precision'],
                'f1': per_class['Fscore'],
                'boundary_iou': boundary_ious,
            },
            {'iou': intervals['iou'], 'accuracy': intervals['class_accuracy']},
        ),
        'interval': _intervals(
            intervals,
            pixel_accuracy='accuracy',
            mean_pixel_accuracy='mean_accuracy',
            mean_iou='mean_iou',
            frequency_weighted_iou='frequency_weighted_iou',
            boundary_iou='boundary_iou',
            kappa='kappa',
        ),
        'images': len(matrices),
        'notes': pairs.notes,
    }


def _score_images(truth, prediction, resamples: int, seed: int, split: str | None) -> dict[str, Any]:
    true_labels = part_of(read_labels(truth, 'classify', sizes={}), split)
    predicted = read_labels(prediction, 'classify', sizes={})
    classes = list(dict.fromkeys([*true_labels.classes, *predicted.classes]))
    pairs = match_images(true_labels, predicted)
    labels, preds = [], []
    for image, other in pairs:
        if other is None or image.label is None or other.label is None:
            raise LabelError(
                f'{image.name} has no class in {prediction if image.label is not None else truth}'
            )
        labels.append(classes.index(true_labels.classes[image.label]))
        preds.append(classes.index(predicted.classes[other.label]))
    matrix = confusion_matrix(np.array(preds), np.array(labels), len(classes), ignore_index=-1)
    indicators = np.eye(len(classes))
    of_labels, of_preds = indicators[labels], indicators[preds]
    counts = np.stack([of_labels * of_preds, of_labels, of_preds], axis=1)
    intervals = bootstrap_intervals(
        lambda draws: resampled_scores(np.einsum('bn,nkc->bkc', draws, counts)), len(labels), resamples, seed
    )
    per_class = class_scores(matrix)
    names = ('accuracy', 'mean_accuracy', 'mean_f1', 'kappa')
    return {
        **matrix_scores(matrix),
        'per_class': _per_class(
            classes,
            {
                'accuracy': per_class['Acc'],
                'precision': per_class['Precision'],
                'f1': per_class['Fscore'],
                'images': matrix.sum(1),
            },
            {'accuracy': intervals['class_accuracy']},
        ),
        'interval': _intervals(intervals, **dict(zip(names, names, strict=True))),
        'images': len(labels),
        'notes': _notes(true_labels, predicted),
    }


def _notes(truth: LabelSet, prediction: LabelSet) -> list[str]:
    return [f'truth: {note}' for note in truth.notes] + [f'prediction: {note}' for note in prediction.notes]


def _per_class(
    names: list[str], scores: Mapping[str, np.ndarray], intervals: Mapping[str, list | None]
) -> dict[str, dict]:
    """Return the scores of each class by name, without the classes that occur nowhere."""
    result = {}
    for index, name in enumerate(names):
        values = {score: column[index].item() for score, column in scores.items()}
        if all(math.isnan(value) for value in values.values() if isinstance(value, float)):
            continue
        interval = {score: of_classes[index] for score, of_classes in intervals.items() if of_classes}
        result[name] = {**values, 'interval': interval}
    return result


def _intervals(intervals: Mapping[str, Any], **names: str) -> dict[str, Any]:
    return {name: intervals[key] for name, key in names.items()}


def _without_nan(value: Any) -> Any:
    """Replace NaN, which JSON does not have, by None."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
