"""The confusion matrix of segmentation and its scores (Long et al., CVPR 2015, section 5)."""

import numpy as np
import torch
from torch import Tensor

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


def as_maps(pred, label) -> tuple[np.ndarray, np.ndarray]:
    """Return prediction and label as arrays of integers.

    Raises:
        ValueError: The shapes differ, or values are not integers.
    """
    arrays = []
    for values, name in ((pred, 'prediction'), (label, 'label')):
        array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
        if array.dtype.kind not in 'iub':
            raise ValueError(f'the {name} has {array.dtype} values; classes are integers')
        arrays.append(array.view(np.uint8) if array.dtype == bool else array)
    if arrays[0].shape != arrays[1].shape:
        raise ValueError(
            f'the prediction has shape {arrays[0].shape} and the label {arrays[1].shape}; both need '
            'one value per pixel'
        )
    return arrays[0], arrays[1]


@fast_form('mmssl.evaluation.fast_confusion:count_pairs', when=always)
def count_pairs(pred: np.ndarray, label: np.ndarray, num_classes: int, ignore_index: int) -> np.ndarray:
    """Count the pairs of :func:`confusion_matrix` in maps that are flattened to (P,)."""
    check_values(pred, label, num_classes, ignore_index)
    valid = label != ignore_index
    pair = num_classes * label[valid].astype(np.int64) + pred[valid].astype(np.int64)
    return np.bincount(pair, minlength=num_classes**2).reshape(num_classes, num_classes)


def check_values(pred: np.ndarray, label: np.ndarray, num_classes: int, ignore_index: int) -> None:
    """Check the values of a prediction and of its label, arrays of one shape.

    Raises:
        ValueError: A label is neither a class nor ``ignore_index``, or a prediction is not a class;
            ``ignore_index`` is accepted as a prediction where it is also the label.
    """
    ignored = label == ignore_index
    for name, values, allowed in (
        ('label', label, ignored),
        ('prediction', pred, ignored & (pred == ignore_index)),
    ):
        invalid = values[~allowed & ((values < 0) | (values >= num_classes))]
        if len(invalid):
            raise invalid_values(name, np.unique(invalid), num_classes, ignore_index)


def invalid_values(name: str, values: np.ndarray, num_classes: int, ignore_index: int) -> ValueError:
    """Return the error for values that are no class."""
    listed = ', '.join(map(str, values[:5].tolist())) + (' ...' if len(values) > 5 else '')
    if name == 'prediction':
        return ValueError(f'the prediction holds {listed}, which is not a class, 0 to {num_classes - 1}')
    return ValueError(
        f'the {name} holds {listed}, which is neither a class, 0 to {num_classes - 1}, nor '
        f'ignore_index={ignore_index}; check the number of classes, reduce_zero_label and the ignored value'
    )


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
