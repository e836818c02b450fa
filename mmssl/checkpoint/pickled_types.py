"""Stand-ins for the classes that toolboxes pickle besides tensors: NumPy arrays and mmengine's histories.

``torch.load(weights_only=True)`` calls what is allowed with whatever arguments the file gives, and NumPy
takes some of those for addresses. So nothing of NumPy is allowed: the stand-ins check the arguments, and
:func:`resolved` replaces them by what they stand for, built from checked bytes.
"""

import argparse
import math
import pickle
import re
from collections import OrderedDict
from typing import Any, Literal

import numpy as np

# codes of plain numbers and of fixed-length strings: no objects, records or dates
_CODE = re.compile(r'[?]|b1|[iu][1248]|f(?:2|4|8|16)|c(?:8|16|32)|[bhilqBHILQefdgFDG]|[SU]\d{1,6}')
_MAX_DIMENSIONS = 32
_STATISTICS = ('min', 'max', 'current', 'mean')


def _refuse(what: str, value: object) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(f'{what} {str(value)[:80]} is not valid')


class SavedDtype:
    """Stand-in for a pickled ``numpy.dtype``.

    Args:
        code: Code such as 'f8'.
        align: Ignored, as by dtypes without fields.
        copy: Ignored.
    """

    def __init__(self, code='', align=False, copy=True):
        if isinstance(code, bytes):
            code = code.decode('ascii', 'replace')
        if not isinstance(code, str) or not _CODE.fullmatch(code):
            raise pickle.UnpicklingError(f'Unsupported global: GLOBAL numpy.dtype({str(code)[:40]!r})')
        self.dtype = np.dtype(code)

    def __setstate__(self, state) -> None:
        """Take the byte order; fields and subarrays are refused."""
        if not isinstance(state, tuple) or len(state) < 5 or any(each is not None for each in state[2:5]):
            raise _refuse('state of numpy.dtype', state)
        order: Any = state[1].decode('ascii', 'replace') if isinstance(state[1], bytes) else state[1]
        if order not in ('<', '>', '=', '|'):
            raise _refuse('byte order', order)
        self.dtype = self.dtype.newbyteorder(order)


class SavedArray:
    """Stand-in for a pickled ``numpy.ndarray``."""

    def __init__(self):
        self.array: np.ndarray | None = None

    def __setstate__(self, state) -> None:
        """Build the array from its bytes."""
        if not isinstance(state, tuple) or len(state) != 5:
            raise _refuse('state of numpy.ndarray', state)
        _, shape, dtype, fortran, content = state
        self.array = _array(dtype, content, shape, 'F' if fortran else 'C')


def array_from_buffer(content=b'', dtype=None, shape=(), order='C', axes=None) -> np.ndarray:
    """Stand in for NumPy's function of pickles of protocol 5."""
    if order not in ('C', 'F') or axes is not None:
        raise _refuse('order of an array', order)
    return _array(dtype, bytes(content) if isinstance(content, bytearray) else content, shape, order)


def _array(dtype, content, shape, order: Literal['C', 'F']) -> np.ndarray:
    sizes = isinstance(shape, tuple) and len(shape) <= _MAX_DIMENSIONS
    if not sizes or any(type(size) is not int or size < 0 for size in shape):
        raise _refuse('shape of an array', shape)
    return _from_bytes(dtype, content, math.prod(shape)).reshape(shape, order=order)


def _from_bytes(dtype, content, count: int) -> np.ndarray:
    if not isinstance(dtype, SavedDtype) or not hasattr(dtype, 'dtype'):
        raise _refuse('dtype of an array', dtype)
    if isinstance(content, str):  # of Python 2, read with encoding='latin1'
        content = content.encode('latin1', 'replace')
    if not isinstance(content, bytes) or len(content) != count * dtype.dtype.itemsize:
        raise pickle.UnpicklingError(f'an array of {count} {dtype.dtype} has content of another size')
    if not content:
        if count:  # strings of length 0, of which a file can claim any number
            raise _refuse('dtype of an array', dtype.dtype)
        return np.zeros(0, dtype.dtype)
    return np.frombuffer(content, dtype.dtype, count).copy()


def _reconstruct(kind=None, shape=None, code=None) -> SavedArray:
    """Stand in for ``numpy.core.multiarray._reconstruct``, which allocates an array for its state."""
    if kind is not SavedArray:
        raise pickle.UnpicklingError(f'Unsupported global: GLOBAL {kind!r} as an array')
    return SavedArray()


def _scalar(dtype=None, content=b''):
    """Stand in for ``numpy.core.multiarray.scalar``."""
    return _from_bytes(dtype, content, 1)[0]


class SavedHistory:
    """Stand-in for a pickled HistoryBuffer of mmengine; its statistics are those that every buffer has."""

    def __init__(self):
        self.state: dict = {}

    def __setstate__(self, state) -> None:
        """Take the state, which is checked when the buffer is built."""
        if not isinstance(state, dict):
            raise _refuse('state of a HistoryBuffer', type(state))
        self.state = state

    def build(self):
        """Return the HistoryBuffer."""
        from mmengine.logging import HistoryBuffer

        saved: list[Any] = [self.state.get(name) for name in ('_log_history', '_count_history')]
        columns: list[Any] = [each.array if isinstance(each, SavedArray) else each for each in saved]
        log, count = columns
        length = self.state.get('max_length', 1000000)
        arrays = all(
            isinstance(each, np.ndarray) and each.ndim == 1 and each.dtype.kind in 'biuf' for each in columns
        )
        if not arrays or len(log) != len(count) or type(length) is not int or length < 1:
            raise _refuse('state of a HistoryBuffer', sorted(map(str, self.state)))
        buffer = HistoryBuffer(max_length=length)
        buffer._log_history = log[-length:]
        buffer._count_history = count[-length:]
        return buffer


class SavedInstances:
    """Stand-in for a pickled InstanceData of mmengine, such as a detector's proposals."""

    def __init__(self):
        self.state: dict = {}

    def __setstate__(self, state) -> None:
        """Take the state, which is checked when the instances are built."""
        if not isinstance(state, dict):
            raise _refuse('state of InstanceData', type(state))
        self.state = state

    def build(self):
        """Return the InstanceData."""
        from mmengine.structures import InstanceData

        names = [self.state.get(fields, ()) for fields in ('_metainfo_fields', '_data_fields')]
        if not all(isinstance(each, (set, list, tuple)) for each in names):
            raise _refuse('state of InstanceData', sorted(map(str, self.state)))
        instances = InstanceData()
        try:
            instances.set_metainfo({name: self.state[name] for name in names[0]})
            for name in names[1]:
                setattr(instances, name.removeprefix('_'), resolved(self.state[name]))
        except (AssertionError, AttributeError, LookupError, TypeError, ValueError) as error:
            raise _refuse('state of InstanceData', error) from None
        return instances


def _statistic(owner=None, name=None):
    """Stand in for ``builtins.getattr`` in pickled HistoryBuffers, which name their statistics by it."""
    if owner is SavedHistory and name in _STATISTICS:
        return name
    raise pickle.UnpicklingError(f'Unsupported global: GLOBAL builtins.getattr({owner!r}, {name!r})')


def _empty_bytes() -> bytes:
    """Stand in for ``builtins.bytes``, by which pickles of protocol 2 name the content of an empty array."""
    return b''


def allowed_globals() -> list:
    """Return what a checkpoint may name besides what torch allows, each with the name in the file."""
    allowed: list = [
        slice,
        argparse.Namespace,
        (SavedArray, 'numpy.ndarray'),
        (SavedDtype, 'numpy.dtype'),
        (SavedHistory, 'mmengine.logging.history_buffer.HistoryBuffer'),
        (_statistic, 'builtins.getattr'),
        (_empty_bytes, 'builtins.bytes'),
    ]
    for core in ('core', '_core'):
        allowed += [
            (_reconstruct, f'numpy.{core}.multiarray._reconstruct'),
            (_scalar, f'numpy.{core}.multiarray.scalar'),
        ]
    return allowed


def resolved(content: Any) -> Any:
    """Replace the stand-ins in nested dicts, lists, tuples and namespaces by what they stand for.

    Args:
        content: What was loaded; containers are changed in place, except tuples.

    Raises:
        UnpicklingError: A stand-in has no valid state.
    """
    return _resolve(content, {})


def _resolve(value: Any, done: dict[int, Any]) -> Any:
    if id(value) in done:
        return done[id(value)][1]
    if isinstance(value, (SavedArray, SavedDtype, SavedHistory, SavedInstances)):
        result = _resolve_stand_in(value)
    elif isinstance(value, tuple) and type(value) is tuple:
        result = tuple(_resolve(item, done) for item in value)
        if all(new is old for new, old in zip(result, value, strict=True)):
            result = value
    else:
        done[id(value)] = (value, value)  # first, as containers may contain themselves
        _resolve_items(value, done)
        return value
    done[id(value)] = (value, result)  # with the value itself, whose id may not be given again
    return result


def _resolve_stand_in(value: Any) -> Any:
    if isinstance(value, (SavedHistory, SavedInstances)):
        return value.build() if hasattr(value, 'state') else _raise(value)
    result = getattr(value, 'array' if isinstance(value, SavedArray) else 'dtype', None)
    return _raise(value) if result is None else result


def _raise(value: Any) -> Any:
    raise _refuse('content of', type(value).__name__)


def _resolve_items(value: Any, done: dict[int, Any]) -> None:
    if isinstance(value, dict):
        for key in value:
            value[key] = _resolve(value[key], done)
        if isinstance(value, OrderedDict) and vars(value):
            _resolve_items(vars(value), done)
    elif isinstance(value, list):
        value[:] = [_resolve(item, done) for item in value]
    elif isinstance(value, argparse.Namespace):
        _resolve_items(vars(value), done)
