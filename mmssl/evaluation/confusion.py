"""The confusion matrix of segmentation and its scores (Long et al., CVPR 2015, section 5)."""

import numpy as np
import torch
from torch import Tensor

from mmssl.evaluation.class_maps import as_maps, check_values
from mmssl.ops.switch import always, fast_form


def confusion_matrix(pred, label, num_classes: int, ignore_index: int = 255):
    """Count the pixels of every pair of true and predicted class, exactly.

    Args:
        pred: Integer classes of any shape, a NumPy array or a torch tensor.
        label: Integer classes of the same shape.
        num_classes: C.
        ignore_index: Pixels whose label is this value are left out, whatever is predicted there. It may be a
            class; where that class is predicted for a pixel of another label, the prediction is wrong.

    Returns:
        (C, C) int64, row: label, column: prediction. A tensor on the CPU if ``pred`` is a tensor, otherwise
        an array.

    Raises:
        ValueError: The shapes differ, values are not integers, a label is neither a class nor
            ``ignore_index``, or a prediction is not a class.
    """
    if num_classes < 1:
        raise ValueError(f'num_classes={num_classes} of a confusion matrix must be at least 1')
    pred_array, label_array = as_maps(pred, label)
    counts = count_pairs(pred_array.reshape(-1), label_array.reshape(-1), num_classes, ignore_index)
    return torch.from_numpy(counts) if isinstance(pred, Tensor) else counts


@fast_form('mmssl.evaluation.fast_confusion:count_pairs', when=always)
def count_pairs(pred: np.ndarray, label: np.ndarray, num_classes: int, ignore_index: int) -> np.ndarray:
    """Count the pairs of :func:`confusion_matrix` in maps that are flattened to (P,)."""
    check_values(pred, label, num_classes, ignore_index)
    valid = label != ignore_index
    pair = num_classes * label[valid].astype(np.int64) + pred[valid].astype(np.int64)
    return np.bincount(pair, minlength=num_classes**2).reshape(num_classes, num_classes)


def _areas(matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correct, labelled and predicted pixels of every class, (C,) int64 each."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f'a confusion matrix is square, not {matrix.shape}')
    return np.diagonal(matrix), matrix.sum(1), matrix.sum(0)


def class_scores(matrix, beta: float = 1.0) -> dict[str, np.ndarray]:
    """Compute the scores of every class.

    Args:
        matrix: (C, C), row: label.
        beta: Weight of the recall in the F-score.

    Returns:
        'Acc' (= recall), 'IoU', 'Dice', 'Fscore', 'Precision', 'Recall', each (C,) float64. NaN stands for
        scores that do not exist: the accuracy of a class without labelled pixels, the precision of a class
        without predicted pixels, and all scores of a class in neither map.
    """
    correct, labelled, predicted = _areas(matrix)
    weight = beta * beta
    with np.errstate(invalid='ignore'):  # 0 / 0 is NaN
        recall = correct / labelled
        # from the counts and not from precision and recall, so that a class in only one of the maps has 0
        return {
            'Acc': recall,
            'IoU': correct / (labelled + predicted - correct),
            'Dice': 2 * correct / (labelled + predicted),
            'Fscore': (1 + weight) * correct / (weight * labelled + predicted),
            'Precision': correct / predicted,
            'Recall': recall,
        }


def pixel_accuracy(matrix) -> float:
    """PA: the fraction of labelled pixels that are correct; NaN without labelled pixels."""
    correct, labelled, _ = _areas(matrix)
    return float(correct.sum() / labelled.sum()) if labelled.sum() else float('nan')


def mean_pixel_accuracy(matrix) -> float:
    """MPA: the mean accuracy of the classes with labelled pixels."""
    return mean_of_known(class_scores(matrix)['Acc'])


def mean_iou(matrix) -> float:
    """mIoU: the mean intersection over union of the classes in either map."""
    return mean_of_known(class_scores(matrix)['IoU'])


def frequency_weighted_iou(matrix) -> float:
    """FWIoU: the mean intersection over union of the classes, weighted by their labelled pixels."""
    _, labelled, _ = _areas(matrix)
    weighted = labelled * class_scores(matrix)['IoU']
    return float(np.nansum(weighted) / labelled.sum()) if labelled.any() else float('nan')


def mean_of_known(values: np.ndarray) -> float:
    """Mean of the scores that are not NaN; NaN if there are none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float('nan')
