"""Scores of predicted classes from counts, for many resamples at once, and Cohen's kappa."""

from collections.abc import Mapping

import numpy as np

from mmssl.evaluation.confusion import class_scores, mean_of_known, pixel_accuracy

# rows of the counts of an image
COUNTS = ('correct', 'labelled', 'predicted')


def cohen_kappa(matrix) -> float:
    """Cohen's kappa: the agreement of two maps beyond that of chance (Cohen, 1960).

    Args:
        matrix: (C, C) confusion matrix.

    Returns:
        (p_o - p_e) / (1 - p_e); NaN without pixels, or if both maps hold one and the same class.
    """
    matrix = np.asarray(matrix)
    total = matrix.sum()
    if not total:
        return float('nan')
    by_chance = (matrix.sum(0) / total) @ matrix.sum(1)
    return float(1 - (total - np.trace(matrix)) / (total - by_chance)) if total != by_chance else float('nan')


def image_counts(matrix) -> np.ndarray:
    """Return (3, C) int64: correct, labelled and predicted pixels of each class in a confusion matrix."""
    matrix = np.asarray(matrix)
    return np.stack([np.diagonal(matrix), matrix.sum(1), matrix.sum(0)])


def resampled_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return the scores of many confusion matrices, of which only sums are known.

    Args:
        counts: (B, 3, C) float64, as :func:`image_counts`, summed over the images of a resample.

    Returns:
        'accuracy', 'mean_accuracy', 'mean_iou', 'frequency_weighted_iou', 'mean_f1' and 'kappa', (B,); 'iou',
        'class_accuracy', 'precision' and 'f1', (B, C). NaN for scores that do not exist, as in
        :func:`mmssl.evaluation.confusion.class_scores`.
    """
    correct, labelled, predicted = counts[:, 0], counts[:, 1], counts[:, 2]
    total = labelled.sum(1)
    with np.errstate(divide='ignore', invalid='ignore'):
        iou = correct / (labelled + predicted - correct)
        recall = correct / labelled
        precision = correct / predicted
        f1 = 2 * correct / (labelled + predicted)
        accuracy = correct.sum(1) / total
        weighted = np.where(labelled > 0, labelled * iou, 0).sum(1) / total
        by_chance = (labelled * predicted).sum(1) / total**2
        kappa = (accuracy - by_chance) / (1 - by_chance)
    return {
        'accuracy': accuracy,
        'mean_accuracy': mean_over_known(recall),
        'mean_iou': mean_over_known(iou),
        'frequency_weighted_iou': weighted,
        'mean_f1': mean_over_known(f1),
        'kappa': kappa,
        'iou': iou,
        'class_accuracy': recall,
        'precision': precision,
        'f1': f1,
    }


def mean_over_known(values: np.ndarray) -> np.ndarray:
    """Return the means of (B, C) over the classes that are not NaN, (B,); NaN if there are none."""
    known = ~np.isnan(values)
    count = known.sum(1)
    total = np.where(known, values, 0).sum(1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def matrix_scores(matrix) -> Mapping[str, float]:
    """Return accuracy, mean class accuracy, mean F1 and kappa of a confusion matrix of whole images."""
    scores = class_scores(matrix)
    return {
        'accuracy': pixel_accuracy(matrix),
        'mean_accuracy': mean_of_known(scores['Acc']),
        'mean_f1': mean_of_known(scores['Fscore']),
        'kappa': cohen_kappa(matrix),
    }
