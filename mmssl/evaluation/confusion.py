"""The confusion matrix of segmentation, counted exactly, and the scores that follow from it (Long et al., CVPR 2015, section 5)."""

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor

BLOCK = 1 << 19  # pixels a turn: what a turn touches stays in the cache
BYTE = 256
ZEROS = np.zeros(BLOCK, np.uint8)


def confusion_matrix(pred, label, num_classes: int, ignore_index: int = 255):
    """Count the pixels of every pair of true and predicted class.

    Args:
        pred: integer classes of any shape, a NumPy array or a torch tensor.
        label: likewise, of the same shape.
        num_classes: C.
        ignore_index: pixels with this value in either map are left out.

    Returns:
        (C, C) int64, rows: label, columns: prediction; a tensor on the CPU where ``pred`` is a tensor,
        otherwise an array.

    Raises:
        ValueError: shapes differ, values are not integers, or a value is neither a class nor
            ``ignore_index``.
    """
    if num_classes < 1:
        raise ValueError(f'num_classes={num_classes} of a confusion matrix must be at least 1')
    is_tensor = isinstance(pred, Tensor)
    maps = [_as_array(values, name) for values, name in ((pred, 'prediction'), (label, 'label'))]
    if maps[0].shape != maps[1].shape:
        raise ValueError(
            f'the prediction has shape {maps[0].shape} and the label {maps[1].shape}; they have a value a pixel each'
        )
    flat = [values.reshape(-1) for values in maps]
    if not flat[0].size:
        empty = np.zeros((num_classes, num_classes), np.int64)
        return torch.from_numpy(empty) if is_tensor else empty
    small = num_classes <= BYTE and 0 <= ignore_index < BYTE
    counts = (_count_bytes if small else _count_wide)(flat[0], flat[1], num_classes, ignore_index)
    return torch.from_numpy(counts) if is_tensor else counts


def _as_array(values, name: str) -> np.ndarray:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype == bool:
        array = array.view(np.uint8)
    if array.dtype.kind not in 'iu':
        raise ValueError(f'the {name} has {array.dtype} values; classes are integers')
    return array


def _count_bytes(pred: np.ndarray, label: np.ndarray, num_classes: int, ignore_index: int) -> np.ndarray:
    """Every pair of values is one number, counted in a table; what should not be there shows up in the table."""
    least, table = BYTE * num_classes, None
    for start in range(0, len(pred), BLOCK):
        labels, preds = (
            _bytes(values[start : start + BLOCK], name, num_classes, ignore_index)
            for values, name in ((label, 'label'), (pred, 'prediction'))
        )
        for found in _count_pairs(labels, preds, least):
            length = least if len(found) == least else BYTE * BYTE
            if table is None:
                table = _widen(found, length)
            else:
                length = max(length, len(table))
                table = _widen(table, length) + _widen(found, length)
    counts = table.reshape(-1, BYTE).T  # type: ignore[union-attr]  # there are pixels
    for beyond, name in (
        (counts[num_classes:].sum(1), 'label'),
        (counts[:, num_classes:].sum(0), 'prediction'),
    ):
        strange = np.flatnonzero(beyond) + num_classes
        if len(strange := strange[strange != ignore_index]):
            raise ValueError(_outside(name, strange.tolist(), num_classes, ignore_index))
    counts = counts[:num_classes, :num_classes].copy('K')
    if ignore_index < num_classes:
        counts[ignore_index], counts[:, ignore_index] = 0, 0
    return counts


def _count_pairs(labels: np.ndarray, preds: np.ndarray, least: int) -> Iterator[np.ndarray]:
    """How often each ``label + 256 * prediction`` is there, in parts, each of ``least`` numbers or more.

    Neighbouring pixels are mostly of one pair, and a count waits for the count before it in the same place:
        the pixels of the four quarters
    take turns. OpenCV interleaves planes fastest; four bytes, the upper two zero, are the number.
    """
    quarter, rest = divmod(len(labels), 4)
    if quarter:
        turns = [
            cv2.merge([plane[i * quarter : (i + 1) * quarter] for i in range(4)]).reshape(-1)
            for plane in (labels, preds)
        ]
        keys = cv2.merge([*turns, *[ZEROS[: 4 * quarter]] * 2]).reshape(-1).view('<i4')
        yield torch.bincount(
            torch.from_numpy(keys), minlength=least
        ).numpy()  # NumPy's takes half as long again
    if rest:
        yield np.bincount(labels[-rest:].astype(int) + BYTE * preds[-rest:].astype(int), minlength=least)


def _widen(counts: np.ndarray, length: int) -> np.ndarray:
    return counts if len(counts) == length else np.pad(counts, (0, length - len(counts)))


def _bytes(values: np.ndarray, name: str, num_classes: int, ignore_index: int) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    # seen as unsigned, a negative number is a large one
    if values.view(f'u{values.dtype.itemsize}').max() >= BYTE:
        strange = np.unique(values[(values < 0) | (values >= BYTE)])
        raise ValueError(_outside(name, strange.tolist(), num_classes, ignore_index))
    return values.astype(np.uint8)


def _count_wide(pred: np.ndarray, label: np.ndarray, num_classes: int, ignore_index: int) -> np.ndarray:
    counts = np.zeros(num_classes * num_classes, np.int64)
    for start in range(0, len(pred), BLOCK):
        pair = [values[start : start + BLOCK].astype(np.int64) for values in (label, pred)]
        valid = (pair[0] != ignore_index) & (pair[1] != ignore_index)
        for values, name in zip(pair, ('label', 'prediction'), strict=True):
            _check_range(values, name, num_classes, ignore_index)
        counts += np.bincount(
            pair[0][valid] * num_classes + pair[1][valid], minlength=num_classes * num_classes
        )
    return counts.reshape(num_classes, num_classes)


def _check_range(values: np.ndarray, name: str, num_classes: int, ignore_index: int) -> None:
    strange = values[(values != ignore_index) & ((values < 0) | (values >= num_classes))]
    if len(strange):
        raise ValueError(_outside(name, np.unique(strange).tolist(), num_classes, ignore_index))


def _outside(name: str, values: list, num_classes: int, ignore_index: int) -> str:
    return (
        f'the {name} holds {", ".join(map(str, values[:5]))}{" ..." if len(values) > 5 else ""}, which is neither a class, 0 to '
        f'{num_classes - 1}, nor ignore_index={ignore_index}; check the number of classes, reduce_zero_label and the ignored value'
    )


def _areas(matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(right, labelled, predicted) pixels of every class, int64."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f'a confusion matrix is square, not {matrix.shape}')
    return np.diagonal(matrix), matrix.sum(1), matrix.sum(0)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """(C,) float64, NaN where there is nothing to divide by."""
    return np.divide(numerator, denominator, out=np.full(len(denominator), np.nan), where=denominator > 0)


def class_scores(matrix, beta: float = 1.0) -> dict[str, np.ndarray]:
    """Scores of every class.

    Args:
        matrix: (C, C), rows: label.
        beta: weight of the recall in the F-score.

    Returns:
        'Acc' (= recall), 'IoU', 'Dice', 'Fscore', 'Precision', 'Recall', each (C,) float64. NaN marks what
        does not exist: the accuracy of a class without labelled pixels, the precision of one without
        predicted ones, everything of a class in neither map.
    """
    right, labelled, predicted = _areas(matrix)
    recall, precision = _ratio(right, labelled), _ratio(right, predicted)
    weight = beta * beta
    # from the counts, so that a class that is in one map alone has 0
    return {
        'Acc': recall,
        'IoU': _ratio(right, labelled + predicted - right),
        'Dice': _ratio(2 * right, labelled + predicted),
        'Fscore': _ratio((1 + weight) * right, weight * labelled + predicted),
        'Precision': precision,
        'Recall': recall,
    }


def pixel_accuracy(matrix) -> float:
    """PA: the share of pixels that are right; NaN where no pixel counts."""
    right, labelled, _ = _areas(matrix)
    return float(right.sum() / labelled.sum()) if labelled.sum() else float('nan')


def mean_pixel_accuracy(matrix) -> float:
    """MPA: the mean over the classes with labelled pixels of the share that is right."""
    return mean_of_known(class_scores(matrix)['Acc'])


def mean_iou(matrix) -> float:
    """mIoU: the mean of intersection over union over the classes that are in either map."""
    return mean_of_known(class_scores(matrix)['IoU'])


def frequency_weighted_iou(matrix) -> float:
    """FWIoU: intersection over union of the classes, weighted by their labelled pixels."""
    _, labelled, _ = _areas(matrix)
    there = labelled > 0
    return (
        float((labelled[there] * class_scores(matrix)['IoU'][there]).sum() / labelled.sum())
        if there.any()
        else float('nan')
    )


def mean_of_known(values: np.ndarray) -> float:
    """The mean of those scores that exist; NaN where none does."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float('nan')
