"""Choice of the implementation of an operator: ``backend='auto' | 'torch' | 'torchvision' | 'mmcv'``."""

import contextlib
import functools
import importlib
from collections.abc import Iterator

import torch
from torch import Tensor

from mmssl.hosts.environment import switched_on

BACKENDS = ('auto', 'torch', 'torchvision', 'mmcv')


@contextlib.contextmanager
def _untraced() -> Iterator[None]:
    """Suspend torch.jit.trace inside this context; torchvision, for one, cannot be imported under it."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)


@functools.lru_cache
@_untraced()
def _torchvision_supports(device_type: str) -> bool:
    try:
        extension = importlib.import_module('torchvision.extension')
        version = importlib.import_module('torchvision.version')
    except Exception:  # an extension built for another torch can raise anything
        return False
    has_ops = getattr(extension, '_has_ops', lambda: False)()
    has_cuda = bool(getattr(version, 'cuda', None))
    return has_ops and (device_type == 'cpu' or (device_type == 'cuda' and has_cuda))


@functools.lru_cache
@_untraced()
def _mmcv_supports(device_type: str) -> bool:
    if switched_on('MMSSL_NO_EXT'):
        return False
    try:
        extension = importlib.import_module('mmcv._ext')
        cuda = importlib.import_module('mmcv.ops').get_compiling_cuda_version()
    except Exception:  # missing, or compiled for another torch
        return False
    # mmssl's stand-in for the compiled operators has no file, and is made of these very functions
    compiled = getattr(extension, '__file__', None) is not None
    return compiled and (device_type == 'cpu' or (device_type == 'cuda' and cuda != 'not available'))


@torch.compiler.assume_constant_result
def torchvision_supports(device_type: str) -> bool:
    """Whether torchvision is installed with operators for 'cpu' or 'cuda'."""
    return _torchvision_supports(device_type)


@torch.compiler.assume_constant_result
def mmcv_supports(device_type: str) -> bool:
    """Whether mmcv is installed with operators compiled for 'cpu' or 'cuda'."""
    return _mmcv_supports(device_type)


def pick(name: str, backend: str, like: Tensor, supported: tuple[str, ...], auto: str = 'torch') -> str:
    """Resolve the ``backend`` argument of one call.

    Args:
        name: Name of the operator, for messages.
        backend: Value of the argument.
        like: A tensor on the device of the call.
        supported: Packages whose operator computes this call correctly.
        auto: Implementation to take for 'auto' if it is installed; otherwise 'torch' is taken.

    Returns:
        'torch', 'torchvision' or 'mmcv'.

    Raises:
        ValueError: The backend is unknown or does not have this operator.
        RuntimeError: The backend is not installed for the device.
    """
    if backend not in BACKENDS:
        raise ValueError(f'{name} has no backend={backend!r}; use one of {", ".join(BACKENDS)}')
    choice = auto if backend == 'auto' else backend
    if choice == 'torch':
        return choice
    if choice not in supported:
        options = ', '.join(('auto', 'torch', *supported))
        raise ValueError(
            f'{name} with these arguments is not available from backend={backend!r}; use one of {options}'
        )
    device_type = like.device.type
    installed = torchvision_supports if choice == 'torchvision' else mmcv_supports
    if installed(device_type):
        return choice
    if backend == 'auto':
        return 'torch'
    raise RuntimeError(
        f'backend={backend!r} of {name} needs {backend} with operators compiled for {device_type}; install '
        "it, or leave backend='auto'"
    )
