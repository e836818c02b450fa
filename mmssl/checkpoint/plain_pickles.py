"""Pickles of annotations and proposals as the toolboxes write them, read without executing code."""

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from mmssl.checkpoint.files import load_file
from mmssl.checkpoint.pickled_types import SavedInstances, allowed_globals, array_from_buffer, resolved
from mmssl.checkpoint.trust import is_trusted
from mmssl.errors import UnsafeCheckpointError

INSTANCES = 'mmengine.structures.instance_data.InstanceData'
# names of Python 2, which protocols up to 2 use
_OLD_MODULES = {'__builtin__': 'builtins', 'copy_reg': 'copyreg'}
# types without state of their own, which a pickle cannot change
_PLAIN_TYPES = {
    'builtins.set': set,
    'builtins.frozenset': frozenset,
    'builtins.complex': complex,
    'builtins.slice': slice,
    'collections.OrderedDict': OrderedDict,
}


class _Call:
    """A function that the file calls; a copy for each file, whose state the file may spoil."""

    __slots__ = ('function',)

    def __init__(self, function: Callable):
        self.function = function

    def __call__(self, *args):
        return self.function(*args)


class _PlainUnpickler(pickle.Unpickler):
    """Unpickler of plain values, NumPy arrays, tensors and mmengine's InstanceData."""

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands in for a global of the file.

        Raises:
            UnpicklingError: The global is none of data.
        """
        full = f'{_OLD_MODULES.get(module, module)}.{name}'
        if full in _PLAIN_TYPES:
            return _PLAIN_TYPES[full]
        stand_in: Any = object if full == 'builtins.object' else _stand_ins().get(full)
        if stand_in is None:
            raise pickle.UnpicklingError(full)
        return stand_in if isinstance(stand_in, type) else _Call(stand_in)


def load_plain_pickle(file, source: str | None = None, **kwargs) -> Any:
    """Read a pickle that contains nothing but data.

    Args:
        file: Open binary file.
        source: Name of the file, for the error; None for that of ``file``.
        **kwargs: As for ``pickle.load``.

    Raises:
        UnsafeCheckpointError: The file names something else than data.
        UnpicklingError: The file is damaged.
    """
    if is_trusted():
        return pickle.load(file, **kwargs)
    source = source or getattr(file, 'name', None) or 'the pickle'
    try:
        return resolved(_PlainUnpickler(file, **kwargs).load())
    except pickle.UnpicklingError as error:
        if '.' in str(error) and ' ' not in str(error):
            raise UnsafeCheckpointError(
                f'{source} holds {error}, which loading would execute; nothing was run. If you know who made '
                'the file, pass --trust-checkpoint (in Python mmssl.checkpoint.trusted()); otherwise convert '
                'it to JSON'
            ) from None
        raise pickle.UnpicklingError(f'{source} cannot be read: {error}') from None
    except (AttributeError, EOFError, LookupError, TypeError, ValueError, MemoryError) as error:
        reason = str(error) or type(error).__name__
        raise pickle.UnpicklingError(f'{source} is no whole pickle: {reason}') from None


def _stand_ins() -> dict[str, Any]:
    """Return what stands in for each global that is allowed, by its name in the file."""
    pairs = (each for each in allowed_globals() if isinstance(each, tuple))
    stand_ins = {
        name: value for value, name in pairs if name.startswith('numpy.') or name == 'builtins.bytes'
    }
    return {
        **stand_ins,
        'numpy._core.numeric._frombuffer': array_from_buffer,
        'numpy.core.numeric._frombuffer': array_from_buffer,
        INSTANCES: SavedInstances,
        '_codecs.encode': _bytes_of_text,
        'copyreg._reconstructor': _object,
        'torch._utils._rebuild_tensor_v2': _tensor,
        'torch.storage._load_from_bytes': _storage,
        'torch.Size': _size,
    }


def _bytes_of_text(text: object, encoding: object = 'latin1') -> bytes:
    """Stand in for ``codecs.encode``, by which protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding != 'latin1':
        raise pickle.UnpicklingError(f'bytes as {encoding!r:.20}')
    return text.encode('latin1')


def _object(kind: object = None, base: object = None, state: object = None):
    """Stand in for the function by which protocols 0 and 1 create objects."""
    if kind is not SavedInstances:
        raise pickle.UnpicklingError(f'an object of {kind!r:.40}')
    return SavedInstances()


def _size(sizes: object = ()):
    import torch

    if not isinstance(sizes, tuple) or any(type(size) is not int for size in sizes):
        raise pickle.UnpicklingError(f'a size of {sizes!r:.40}')
    return torch.Size(sizes)


def _storage(content: object):
    """Stand in for torch's function, which reads a storage inside a pickle as a file of its own."""
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError('a tensor without content')
    return load_file(io.BytesIO(content))


def _tensor(storage=None, offset=0, size=(), stride=(), *_):
    """Stand in for torch's function; gradients and hooks are left out."""
    import torch

    whole = [offset, *size, *stride] if isinstance(size, tuple) and isinstance(stride, tuple) else [None]
    typed = isinstance(storage, torch.storage.TypedStorage)
    if not typed or len(size) != len(stride) or any(type(each) is not int or each < 0 for each in whole):
        raise pickle.UnpicklingError('a tensor with an invalid shape')
    last = offset + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    if 0 not in size and last * storage._element_size() >= storage._untyped_storage.nbytes():
        raise pickle.UnpicklingError('a tensor that is larger than its content')
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, offset, size, stride)
