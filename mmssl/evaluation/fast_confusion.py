"""The confusion matrix of at most 256 classes: every pair of values is a 16-bit number, counted in a table.

Values that are no class are not looked for; they show up in the table.
"""

from collections.abc import Iterator

import cv2
import numpy as np
import torch

from mmssl.evaluation.class_maps import invalid_values

NUM_BYTES = 256
# pixels that are processed at a time, so that they stay in the cache
BLOCK = 1 << 19
ZEROS = np.zeros(BLOCK, np.uint8)


def count_pairs(pred: np.ndarray, label: np.ndarray, num_classes: int, ignore_index: int) -> np.ndarray:
    """:func:`mmssl.evaluation.confusion.count_pairs` if all classes and the ignored value fit into a byte."""
    if num_classes > NUM_BYTES or not 0 <= ignore_index < NUM_BYTES or not pred.size:
        return NotImplemented
    length = NUM_BYTES * num_classes
    table = np.zeros(length, np.int64)
    for start in range(0, len(pred), BLOCK):
        labels = _as_bytes(label[start : start + BLOCK], 'label', num_classes, ignore_index)
        preds = _as_bytes(pred[start : start + BLOCK], 'prediction', num_classes, ignore_index)
        for counts in _count_block(labels, preds, length):
            if len(counts) > length:  # a prediction is no class
                table, counts = _pad(table), _pad(counts)
            table[: len(counts)] += counts
    matrix: np.ndarray = table.reshape(-1, NUM_BYTES).T
    label_counts = matrix[num_classes:].sum(1)
    pred_counts = matrix[:, num_classes:].sum(0)
    if ignore_index < num_classes:
        matrix[ignore_index] = 0
    else:  # an ignored pixel may be predicted as ignored
        label_counts[ignore_index - num_classes] = 0
        if ignore_index < matrix.shape[1]:
            pred_counts[ignore_index - num_classes] -= matrix[ignore_index, ignore_index]
    for name, counts in (('label', label_counts), ('prediction', pred_counts)):
        if counts.any():
            raise invalid_values(name, np.flatnonzero(counts) + num_classes, num_classes, ignore_index)
    return matrix[:num_classes, :num_classes].copy('K')


def _count_block(labels: np.ndarray, preds: np.ndarray, min_length: int) -> Iterator[np.ndarray]:
    """Yield counts of ``label + 256 * prediction`` in two parts, with at least ``min_length`` entries each.

    Neighbouring pixels mostly hit the same counter, and an increment has to wait for the one before it. So
    the four quarters of the pixels are interleaved. OpenCV interleaves planes fastest; four bytes, the
    upper two of them zero, form a number.
    """
    quarter, rest = divmod(len(labels), 4)
    if quarter:
        interleaved = [
            cv2.merge([plane[i * quarter : (i + 1) * quarter] for i in range(4)]).reshape(-1)
            for plane in (labels, preds)
        ]
        zeros = ZEROS[: 4 * quarter]
        pairs = cv2.merge([*interleaved, zeros, zeros]).reshape(-1).view('<i4')
        # NumPy's bincount takes one and a half times as long
        yield torch.bincount(torch.from_numpy(pairs), minlength=min_length).numpy()
    if rest:
        pairs = labels[-rest:].astype(int) + NUM_BYTES * preds[-rest:].astype(int)
        yield np.bincount(pairs, minlength=min_length)


def _pad(counts: np.ndarray) -> np.ndarray:
    return np.pad(counts, (0, NUM_BYTES * NUM_BYTES - len(counts)))


def _as_bytes(values: np.ndarray, name: str, num_classes: int, ignore_index: int) -> np.ndarray:
    if values.dtype == np.uint8:
        return values
    # read as unsigned, a negative number is large
    if values.view(f'u{values.dtype.itemsize}').max() >= NUM_BYTES:
        invalid = np.unique(values[(values < 0) | (values >= NUM_BYTES)])
        raise invalid_values(name, invalid, num_classes, ignore_index)
    return values.astype(np.uint8)
