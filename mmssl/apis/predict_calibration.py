"""Thresholds of a detector above which a requested fraction of its boxes is right, measured on labels."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.apis.predict_files import Job, plan, read_image_labels
from mmssl.apis.predict_models import Predictor, Thresholds
from mmssl.data.label_formats import LabelSet, read_labels
from mmssl.data.label_formats.coco import coco_content
from mmssl.errors import LabelError, UserError
from mmssl.evaluation.average_precision import evaluate_coco

# folder of the predictions on the labelled images, inside the output folder
CALIBRATION_FOLDER = '.calibration'


def calibrate(
    predictor: Predictor, data: str, out: Path, precision: float, run: Callable[[list[Job]], list[str]]
) -> Thresholds:
    """Return the threshold of each class above which a given fraction of the boxes is right.

    A box is right if its class is, and if it covers an object that no better box covers, with an IoU of at
    least 0.5. The labels are those of the validation part, if the layout names one; they should not be those
    that the detector was trained on.

    Args:
        predictor: The detector.
        data: Folder or file of the labels.
        out: Output folder, which also keeps the predictions on the labelled images.
        precision: The share, above 0 and up to 1.
        run: Predicts the images of jobs, and returns why some could not be read.

    Returns:
        Thresholds by class; infinity for a class that reaches the share at no threshold.

    Raises:
        LabelError: There are no boxes, or they have other classes.
        UserError: The model is no detector, or an image cannot be read.
    """
    if predictor.task != 'detect':
        raise UserError(f'--calibrate measures the boxes of detectors; this model is for {predictor.task}')
    if not 0 < precision <= 1:
        raise ValueError(f'--precision {precision} must be above 0, and at most 1')
    truth = _truth(data, predictor.classes)
    _, jobs = plan([image.path for image in truth.images], out / CALIBRATION_FOLDER)
    unreadable = run([job for job in jobs if read_image_labels(job) is None])
    if unreadable:
        raise UserError(f'--calibrate: {unreadable[0]}')
    predicted = {str(job.image.resolve()): read_image_labels(job) for job in jobs}
    images = []
    for image in truth.images:
        prediction = predicted[str(Path(image.path).resolve())]
        assert prediction is not None
        images.append(replace(image, objects=prediction.objects))
    annotations = coco_content(replace(truth, images=images))['annotations']
    evaluation = evaluate_coco(coco_content(truth), annotations, 'bbox')
    return Thresholds(
        None,
        {
            name: threshold_of(*_matches(evaluation, index), precision)
            for index, name in enumerate(predictor.classes)
        },
    )


def threshold_of(scores: np.ndarray, right: np.ndarray, precision: float) -> float:
    """Return the lowest score above which at least a given fraction of the boxes is right.

    Args:
        scores: (N,) scores of the boxes.
        right: (N,) bool, whether each is right.
        precision: The share.

    Returns:
        The threshold; infinity if there is none.
    """
    order = np.argsort(-scores, kind='stable')
    scores, right = scores[order], right[order]
    precisions = np.cumsum(right) / np.arange(1, len(right) + 1)
    last_of_score = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    (reached,) = np.nonzero((precisions >= precision) & last_of_score)
    return float(scores[reached[-1]]) if len(reached) else math.inf


def _truth(data: str, classes: list[str]) -> LabelSet:
    labels = read_labels(data, 'detect')
    if 'val' in labels.splits:
        labels = labels.of_split('val')
    missing = [name for name in labels.classes if name not in classes]
    if missing:
        raise LabelError(f'has the class {missing[0]!r}, which the model does not predict', labels.root)
    indices = [classes.index(name) for name in labels.classes]
    images = [
        replace(image, objects=[replace(each, label=indices[each.label]) for each in image.objects])
        for image in labels.images
        if image.path
    ]
    return replace(labels, classes=classes, images=images)


def _matches(evaluation: Any, category: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the boxes of a category, and which of them are right, without crowds."""
    params = evaluation.params
    start = category * len(params.areaRng) * len(params.imgIds)
    entries = [entry for entry in evaluation.evalImgs[start : start + len(params.imgIds)] if entry]
    scores = np.concatenate([np.zeros(0), *(entry['dtScores'] for entry in entries)])
    right = np.concatenate([np.zeros(0, bool), *(np.asarray(entry['dtMatches'][0]) > 0 for entry in entries)])
    ignored = np.concatenate([np.zeros(0, bool), *(entry['dtIgnore'][0] > 0 for entry in entries)])
    return scores[~ignored], right[~ignored]
