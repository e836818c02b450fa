"""Thresholds of a detector above which a requested fraction of its boxes is right, measured on labels."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmssl.apis.predict_files import Job, plan, read_image_labels
from mmssl.apis.predict_models import Predictor
from mmssl.data.label_formats import LabelSet, read_labels
from mmssl.data.label_formats.coco import coco_content
from mmssl.errors import LabelError, UserError
from mmssl.evaluation.average_precision import evaluate_coco
from mmssl.evaluation.bootstrap import bootstrap_intervals

# folder of the predictions on the labelled images, inside the output folder
CALIBRATION_FOLDER = '.calibration'


class MeasuredThreshold(NamedTuple):
    """Threshold of a class, and the boxes of the labelled images from there on.

    Attributes:
        threshold: The threshold; infinity if the share is reached at none.
        boxes: Number of boxes of the labelled images with this score or a higher one.
        right: Number of those that are right.
        interval: 95 % interval of the share of right boxes, by the bootstrap over images; None without boxes.
    """

    threshold: float
    boxes: int
    right: int
    interval: tuple[float, float] | None

    def __str__(self) -> str:
        if not self.boxes:
            return 'none'
        text = f'{self.threshold:.3f} ({self.right} of {self.boxes} labelled boxes'
        if self.interval:
            text += ', {:.0%} to {:.0%}'.format(*self.interval)
        return f'{text})'


def calibration_truth(predictor: Predictor, data: str, precision: float) -> LabelSet:
    """Return the labels to measure thresholds on, with the classes of the model.

    They are those of the validation part, if the layout names one; they should not be those that the
    detector was trained on.

    Args:
        predictor: The detector.
        data: Folder or file of the labels.
        precision: Share of right boxes to reach, above 0 and up to 1.

    Raises:
        LabelError: There are no boxes, or they have other classes.
        UserError: The model is no detector.
        ValueError: The share is out of range.
    """
    if predictor.task != 'detect':
        raise UserError(f'--calibrate measures the boxes of detectors; this model is for {predictor.task}')
    if not 0 < precision <= 1:
        raise ValueError(f'--precision {precision} must be above 0, and at most 1')
    return _truth(data, predictor.classes)


def calibration_jobs(truth: LabelSet, out: Path) -> list[Job]:
    """Return the labelled images as jobs; their predictions stay in the output folder, too."""
    return plan([image.path for image in truth.images], out / CALIBRATION_FOLDER)[1]


def calibrate(truth: LabelSet, jobs: list[Job], precision: float) -> dict[str, MeasuredThreshold]:
    """Return the threshold of each class above which boxes are right in a given share of the cases.

    A box is right if its class is, and if it covers an object that no better box covers, with an IoU of at
    least 0.5.

    Args:
        truth: The labels.
        jobs: Their images, which have been predicted.
        precision: The share.

    Returns:
        Thresholds by class.

    Raises:
        UserError: An image could not be read.
    """
    predicted = {os.path.realpath(job.image): read_image_labels(job) for job in jobs}
    images = []
    for image in truth.images:
        prediction = predicted[os.path.realpath(image.path)]
        if prediction is None:
            raise UserError(f'--calibrate: {image.path} cannot be predicted; repair or remove it')
        images.append(replace(image, objects=prediction.objects))
    annotations = coco_content(replace(truth, images=images))['annotations']
    evaluation = evaluate_coco(coco_content(truth), annotations, 'bbox')
    return {name: _measured(evaluation, index, precision) for index, name in enumerate(truth.classes)}


def _measured(evaluation: Any, category: int, precision: float) -> MeasuredThreshold:
    scores, right, images = class_outcomes(evaluation, category)
    threshold = smooth_threshold_of(scores, right, precision)
    written = scores >= threshold
    num_images = len(evaluation.params.imgIds)
    boxes = np.bincount(images[written], minlength=num_images)
    right_boxes = np.bincount(images[written & right], minlength=num_images)

    def shares(counts: np.ndarray) -> dict[str, np.ndarray]:
        total = counts @ boxes
        return dict(share=np.where(total > 0, counts @ right_boxes / np.maximum(total, 1), np.nan))

    interval = bootstrap_intervals(shares, num_images)['share'] if written.any() else None
    return MeasuredThreshold(
        threshold, int(boxes.sum()), int(right_boxes.sum()), tuple(interval) if interval else None
    )


def smooth_threshold_of(scores: np.ndarray, right: np.ndarray, precision: float) -> float:
    """Return the lowest score above which boxes are right in a given share, measured and by a smooth curve.

    The lowest of many scores at which the measured share is high enough is where chance has favoured it, so
    that other images have less. The curve is a logistic one of the logit of the score (Platt, 1999,
    "Probabilistic outputs for support vector machines"). A share of 1, which it never reaches, is measured
    only.

    Args:
        scores: (N,) scores of the boxes.
        right: (N,) bool, whether each is right.
        precision: The share.

    Returns:
        The threshold; infinity if there is none.
    """
    measured = threshold_of(scores, right, precision)
    if precision >= 1 or not math.isfinite(measured):
        return measured
    return max(measured, curve_threshold_of(scores, right, precision))


def curve_threshold_of(scores: np.ndarray, right: np.ndarray, precision: float) -> float:
    """Return the lowest score from which on the mean probability of the logistic curve is a given share.

    Args:
        scores: (N,) scores of the boxes.
        right: (N,) bool, whether each is right.
        precision: The share, below 1.

    Returns:
        The threshold; infinity if there is none.
    """
    order = np.argsort(-scores, kind='stable')
    shares = np.cumsum(_probabilities(scores, right)[order]) / np.arange(1, len(order) + 1)
    (reached,) = np.nonzero(shares >= precision)
    return float(scores[order][reached[-1]]) if len(reached) else math.inf


def _probabilities(scores: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the probabilities of a logistic curve that is fitted by Newton's method, (N,)."""
    clipped = scores.clip(1e-6, 1 - 1e-6)
    inputs = np.stack([np.log(clipped / (1 - clipped)), np.ones(len(scores))], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        probabilities = 1 / (1 + np.exp(-(inputs @ weights).clip(-30, 30)))
        curvature = probabilities * (1 - probabilities) + 1e-6
        gradient = inputs.T @ (right - probabilities) - 1e-4 * weights
        hessian = inputs.T @ (curvature[:, None] * inputs) + 1e-4 * np.eye(2)
        weights = weights + np.linalg.solve(hessian, gradient)
    return 1 / (1 + np.exp(-(inputs @ weights).clip(-30, 30)))


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


def class_outcomes(evaluation: Any, category: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the scores of the boxes of a category without crowds, which are right, and their images."""
    params = evaluation.params
    start = category * len(params.areaRng) * len(params.imgIds)
    entries = list(enumerate(evaluation.evalImgs[start : start + len(params.imgIds)]))
    known = [(image, entry) for image, entry in entries if entry]
    scores = np.concatenate([np.zeros(0), *(entry['dtScores'] for _, entry in known)])
    matches = (np.asarray(entry['dtMatches'][0]) > 0 for _, entry in known)
    right = np.concatenate([np.zeros(0, bool), *matches])
    ignored = np.concatenate([np.zeros(0, bool), *(entry['dtIgnore'][0] > 0 for _, entry in known)])
    owners = [np.full(len(entry['dtScores']), image) for image, entry in known]
    images = np.concatenate([np.zeros(0, np.int64), *owners])
    return scores[~ignored], right[~ignored], images[~ignored]
