"""Which implementation an operator takes: one place for ``backend='auto' | 'torch' | 'torchvision' | 'mmcv'``."""

import functools
import importlib

import torch
from torch import Tensor

from mmssl.hosts.ops_import import has_ops

BACKENDS = ('auto', 'torch', 'torchvision', 'mmcv')


@functools.lru_cache
def _torchvision_serves(device: str) -> bool:
    try:
        extension = importlib.import_module('torchvision.extension')
        version = importlib.import_module('torchvision.version')
    except Exception:  # an extension of another build raises what it likes
        return False
    loaded = getattr(extension, '_has_ops', lambda: False)()
    return loaded and (device == 'cpu' or (device == 'cuda' and bool(getattr(version, 'cuda', None))))


@functools.lru_cache
def _mmcv_serves(device: str) -> bool:
    if not has_ops():  # missing, compiled for another torch, or our own stand-in
        return False
    try:
        info = importlib.import_module('mmcv.ops').get_compiling_cuda_version()
    except Exception:
        return False
    return device == 'cpu' or (device == 'cuda' and info != 'not available')


@torch.compiler.assume_constant_result
def torchvision_serves(device: str) -> bool:
    """Whether torchvision is installed with kernels for ``device``, 'cpu' or 'cuda'."""
    return _torchvision_serves(device)


@torch.compiler.assume_constant_result
def mmcv_serves(device: str) -> bool:
    """Whether mmcv is installed with its compiled operators for ``device``, 'cpu' or 'cuda'."""
    return _mmcv_serves(device)


def pick(name: str, backend: str, like: Tensor, supported: tuple[str, ...], auto: str = 'torch') -> str:
    """Resolve ``backend`` for one call.

    Args:
        name: of the operator, for messages.
        backend: what the caller asked for.
        like: a tensor on the device of the call.
        supported: implementations that compute this call rightly.
        auto: what 'auto' takes, where it is there; else ours.

    Raises:
        ValueError: an unknown backend, or one without this operator.
        RuntimeError: a forced one that is not installed for the device.
    """
    if backend not in BACKENDS:
        raise ValueError(f'backend={backend!r} of {name}; one of {", ".join(BACKENDS)}')
    wanted = auto if backend == 'auto' else backend
    if wanted == 'torch':
        return wanted
    if wanted not in supported:
        raise ValueError(
            f'{name} with these arguments is not computed by backend={backend!r}; choose from '
            f'{", ".join(("auto", "torch", *supported))}'
        )
    if torchvision_serves(like.device.type) if wanted == 'torchvision' else mmcv_serves(like.device.type):
        return wanted
    if backend == 'auto':
        return 'torch'
    raise RuntimeError(
        f'backend={backend!r} of {name} needs {backend} with operators compiled for {like.device.type}; install it, or '
        "leave backend='auto'"
    )


def checks_values(tensor: Tensor) -> bool:
    """Whether values may be looked at without a synchronisation or a graph break: eagerly on the CPU."""
    return tensor.device.type == 'cpu' and not torch.compiler.is_compiling()
