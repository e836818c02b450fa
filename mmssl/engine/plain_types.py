"""Plain types for checkpoints, which ``torch.load(weights_only=True)`` reads without an allow-list."""

import logging
from collections import OrderedDict
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log

# key of the values of a HistoryBuffer
_HISTORY = 'history_buffer'
_PLAIN = (str, int, float, bool, bytes, complex, type(None), torch.dtype, torch.device, torch.Size)
# instances of classes derived from one of these are saved as that type
_SCALARS: tuple[type, ...] = (bool, int, float, str, bytes)


def to_plain(value, name: str, arrays: str = 'tensor'):
    """Copy a value in plain types; tensors are shared.

    Args:
        value: Nested containers, tensors, NumPy arrays and scalars, HistoryBuffers, paths, enumerations.
        name: Name of the entry, for the warning about any other type, which is returned unchanged.
        arrays: ``'tensor'`` or ``'list'``, the type that NumPy arrays become.
    """
    if isinstance(value, torch.Tensor) or type(value) in _PLAIN:
        return value
    if isinstance(value, HistoryBuffer):
        return _plain_history(value)
    if isinstance(value, dict):
        return _plain_dict(value, name, arrays)
    if isinstance(value, (list, tuple, set, frozenset)):
        sequence = list if isinstance(value, list) else tuple if isinstance(value, tuple) else set
        return sequence(to_plain(item, name, arrays) for item in value)
    if isinstance(value, np.ndarray):
        numeric = value.dtype.kind in 'biufc' and value.dtype != np.longdouble
        if numeric and arrays == 'tensor':
            return torch.from_numpy(value.copy())
        return to_plain(value.tolist(), name, arrays)
    return _plain_scalar(value, name, arrays)


def _plain_history(buffer: HistoryBuffer) -> dict:
    log, count = buffer.data
    return {
        _HISTORY: dict(
            log=torch.tensor(log.tolist(), dtype=torch.float64),
            count=torch.tensor(count.tolist(), dtype=torch.float64),
            max_length=buffer.max_length,
        )
    }


def _plain_dict(value: dict, name: str, arrays: str) -> dict:
    items = [
        (to_plain(key, name, arrays), to_plain(item, f'{name}.{key}', arrays)) for key, item in value.items()
    ]
    if not isinstance(value, OrderedDict):
        return dict(items)
    copied: Any = OrderedDict(items)
    if hasattr(value, '_metadata'):  # a state dict has the versions of its modules
        copied._metadata = value._metadata
    return copied


def _plain_scalar(value, name: str, arrays: str):
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Enum):
        return to_plain(value.value, name, arrays)
    if isinstance(value, PurePath):
        return str(value)
    for scalar in _SCALARS:
        if isinstance(value, scalar):
            return scalar(value)
    print_log(
        f'{name} in the checkpoint is a {type(value).__module__}.{type(value).__qualname__}: '
        'loading it will need --trust-checkpoint',
        logger='current',
        level=logging.WARNING,
    )
    return value


def make_checkpoint_plain(checkpoint: dict) -> None:
    """Convert every entry of a checkpoint of mmengine to plain types, in place."""
    if checkpoint.get('param_schedulers'):
        checkpoint['param_schedulers'] = _without_functions(checkpoint['param_schedulers'])
    for key in list(checkpoint):
        checkpoint[key] = to_plain(checkpoint[key], key, 'list' if key == 'meta' else 'tensor')


def _without_functions(states: Any) -> Any:
    """Leave out functions among the attributes of schedulers, such as OneCycleLR has."""
    if isinstance(states, dict):
        return {key: _without_functions(value) for key, value in states.items() if not callable(value)}
    return [_without_functions(each) for each in states] if isinstance(states, list) else states


def restore_history_buffers(checkpoint: dict) -> None:
    """Convert the logs in a checkpoint's message hub back to HistoryBuffers, in place."""
    scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
    for key, value in scalars.items():
        if isinstance(value, dict) and _HISTORY in value:
            history = value[_HISTORY]
            scalars[key] = HistoryBuffer(
                history['log'].tolist(), history['count'].tolist(), history['max_length']
            )
