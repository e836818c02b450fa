"""Maps of classes, predicted and true: their form and their values."""

import numpy as np
from torch import Tensor


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
