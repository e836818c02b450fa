"""The state of a run beside its weights: random generators of every rank, and the plain types in which a checkpoint keeps the rest."""

import logging
import random
from collections import OrderedDict
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather
from mmengine.logging import HistoryBuffer, print_log

# how the values of a HistoryBuffer are called in a checkpoint
_HISTORY = 'history_buffer'
_ATOMS = (str, int, float, bool, bytes, complex, type(None), torch.dtype, torch.device, torch.Size)
# what a value of a class derived from one of these is kept as
_SCALARS: tuple[type, ...] = (bool, int, float, str, bytes)


def rng_state() -> dict[str, torch.Tensor]:
    """The generators of this process as CPU tensors.

    Returns:
        ``python`` (625,) int64 and ``python_gauss`` (2,) float64; ``numpy`` (626,) int64 (keys, position,
        whether a normal number is kept) and ``numpy_gauss`` (1,) float64; ``torch`` (n,) uint8; ``cuda``
        (devices, n) uint8, where CUDA is in use: every device of a lone process, the current one of a rank.
    """
    _, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    _, keys, position, has_gauss, numpy_gauss = numpy_state
    state = {
        'python': torch.tensor(words, dtype=torch.int64),
        'python_gauss': torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64),
        'numpy': torch.tensor([*keys.tolist(), position, has_gauss], dtype=torch.int64),
        'numpy_gauss': torch.tensor([numpy_gauss], dtype=torch.float64),
        'torch': torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state['cuda'] = torch.stack([torch.cuda.get_rng_state(device) for device in _cuda_devices()])
    return state


def set_rng_state(state: dict[str, torch.Tensor]) -> None:
    """Set the generators of this process from what ``rng_state`` gave; devices that are not there any more are left out."""
    state = {key: value.cpu() for key, value in state.items()}
    has_gauss, gauss = state['python_gauss'].tolist()
    random.setstate((3, tuple(state['python'].tolist()), gauss if has_gauss else None))
    *keys, position, numpy_has_gauss = state['numpy'].tolist()
    np.random.set_state(
        ('MT19937', np.array(keys, dtype=np.uint32), position, numpy_has_gauss, float(state['numpy_gauss']))
    )
    torch.set_rng_state(state['torch'])
    if 'cuda' in state and torch.cuda.is_available():
        for device, cuda_state in zip(_cuda_devices(), state['cuda'], strict=False):
            torch.cuda.set_rng_state(cuda_state, device)


def seed_all(seed: int) -> None:
    """Seed every generator of this process with a 64-bit number."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.manual_seed(seed >> 1)


def _cuda_devices() -> list[int]:
    alone = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
    return list(range(torch.cuda.device_count())) if alone else [torch.cuda.current_device()]


def gather_rng_states(state: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The states of all ranks, in order; every rank has to call it."""
    gathered = {key: [value.cpu() for value in all_gather(state[key])] for key in sorted(state)}
    return [dict(zip(gathered, values, strict=True)) for values in zip(*gathered.values(), strict=True)]


def plain(value, where: str, arrays: str = 'tensor'):
    """Turn what a run keeps into types that ``torch.load(weights_only=True)`` reads without an allow-list.

    Args:
        value: nested containers, tensors, NumPy arrays and scalars, HistoryBuffers, paths, enumerations.
        where: name of the entry, for the warning about anything else, which is kept as it is.
        arrays: ``'tensor'`` or ``'list'``, what becomes of a NumPy array.

    Returns:
        a copy in plain types; tensors are shared.
    """
    if isinstance(value, HistoryBuffer):
        log, count = value.data
        return {
            _HISTORY: dict(
                log=torch.tensor(log.tolist(), dtype=torch.float64),
                count=torch.tensor(count.tolist(), dtype=torch.float64),
                max_length=value.max_length,
            )
        }
    if isinstance(value, torch.Tensor) or type(value) in _ATOMS:
        return value
    if isinstance(value, dict):
        # plain dicts stay dicts, and a state dict keeps the versions of its modules
        items = (
            (plain(key, where, arrays), plain(item, f'{where}.{key}', arrays)) for key, item in value.items()
        )
        copied: Any = OrderedDict(items) if isinstance(value, OrderedDict) else dict(items)
        if isinstance(value, OrderedDict) and hasattr(value, '_metadata'):
            copied._metadata = value._metadata
        return copied
    if isinstance(value, (list, tuple, set, frozenset)):
        sequence = list if isinstance(value, list) else tuple if isinstance(value, tuple) else set
        return sequence(plain(item, where, arrays) for item in value)
    if isinstance(value, np.ndarray):
        numeric = value.dtype.kind in 'biufc' and value.dtype != np.longdouble
        return (
            torch.from_numpy(value.copy())
            if numeric and arrays == 'tensor'
            else plain(value.tolist(), where, arrays)
        )
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Enum):
        return plain(value.value, where, arrays)
    if isinstance(value, PurePath):
        return str(value)
    for kind in _SCALARS:
        if isinstance(value, kind):
            return kind(value)
    name = f'{type(value).__module__}.{type(value).__qualname__}'
    print_log(
        f'{where} in the checkpoint is a {name}: loading it will need --trust-checkpoint',
        logger='current',
        level=logging.WARNING,
    )
    return value


def plain_checkpoint(checkpoint: dict) -> None:
    """Turn every entry of a host's checkpoint into plain types, in place."""
    for key in list(checkpoint):
        checkpoint[key] = plain(checkpoint[key], key, 'list' if key == 'meta' else 'tensor')


def revive_message_hub(checkpoint: dict) -> None:
    """Give the message hub of a checkpoint its HistoryBuffers back, in place."""
    scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
    for key, value in scalars.items():
        if isinstance(value, dict) and _HISTORY in value:
            kept = value[_HISTORY]
            scalars[key] = HistoryBuffer(kept['log'].tolist(), kept['count'].tolist(), kept['max_length'])
