"""States of the random generators of every rank."""

import random
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather

from mmssl.layers.distributed import host_group


def rng_state() -> dict[str, torch.Tensor]:
    """Return the states of this process's generators as CPU tensors.

    Returns:
        ``python`` (625,) int64 and ``python_gauss`` (2,) float64; ``numpy`` (626,) int64 (keys, position,
        whether a normal number is cached) and ``numpy_gauss`` (1,) float64; ``torch`` (n,) uint8; ``cuda``
        (devices, n) uint8, if CUDA is in use: all devices of a single process, the current one of a rank.
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
    """Set this process's generators to states from :func:`rng_state`; devices that are gone are ignored."""
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
    single = not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1
    return list(range(torch.cuda.device_count())) if single else [torch.cuda.current_device()]


def gather_rng_states(state: dict[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """Return the states of all ranks, in order; every rank has to call it."""
    gathered = {key: all_gather(state[key].cpu(), host_group()) for key in sorted(state)}
    return [dict(zip(gathered, values, strict=True)) for values in zip(*gathered.values(), strict=True)]
