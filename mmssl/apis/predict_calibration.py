"""Thresholds of a detector above which a requested fraction of its boxes is right, measured on labels."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.apis.predict_files import Job, plan, read_image_labels
from mmssl.apis.predict_models import Predictor
from mmssl.data.label_formats import LabelSet, read_labels
from mmssl.data.label_formats.coco import coco_content
from mmssl.errors import LabelError, UserError
from mmssl.evaluation.average_precision import evaluate_coco

# folder of the predictions on the labelled images, inside the output folder
CALIBRATION_FOLDER = '.calibration'


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


def calibrate(truth: LabelSet, jobs: list[Job], precision: float) -> dict[str, float]:
    """Return the threshold of each class above which boxes are right in a given share of the cases.

    A box is right if its class is, and if it covers an object that no better box covers, with an IoU of at
    least 0.5.

    Args:
        truth: The labels.
        jobs: Their images, which have been predicted.
        precision: The share.

    Returns:
        Thresholds by class; infinity for a class that reaches the share at no threshold.

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
    return {
        name: smooth_threshold_of(*_matches(evaluation, index), precision)
        for index, name in enumerate(truth.classes)
    }


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
    order = np.argsort(-scores, kind='stable')
    shares = np.cumsum(_probabilities(scores, right)[order]) / np.arange(1, len(order) + 1)
    (reached,) = np.nonzero(shares >= precision)
    return max(measured, float(scores[order][reached[-1]])) if len(reached) else math.inf


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


def _matches(evaluation: Any, category: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the boxes of a category, and which of them are right, without crowds."""
    params = evaluation.params
    start = category * len(params.areaRng) * len(params.imgIds)
    entries = [entry for entry in evaluation.evalImgs[start : start + len(params.imgIds)] if entry]
    scores = np.concatenate([np.zeros(0), *(entry['dtScores'] for entry in entries)])
    right = np.concatenate([np.zeros(0, bool), *(np.asarray(entry['dtMatches'][0]) > 0 for entry in entries)])
    ignored = np.concatenate([np.zeros(0, bool), *(entry['dtIgnore'][0] > 0 for entry in entries)])
    return scores[~ignored], right[~ignored]
