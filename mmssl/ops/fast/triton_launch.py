"""What the Triton kernels of the operators share: whether they can be used, and their launch."""

import functools
import warnings

import torch
import triton
import triton.language as tl
from torch import Tensor


def usable(tensor: Tensor) -> bool:
    """Whether kernels work where a tensor is, which one of them shows once for each device.

    They need a C compiler and the headers of Python; without them a warning names what is missing. The order
    of their atomic sums is not fixed, so that deterministic algorithms exclude them.
    """
    return not torch.are_deterministic_algorithms_enabled() and _compiles(tensor.device)


@functools.lru_cache
def _compiles(device: torch.device) -> bool:
    try:
        launch(_fill, (1,), torch.empty(1, device=device))
    except Exception as error:  # of the compiler, the driver or the file system
        text = str(error).strip().partition('\n')[0]
        warnings.warn(
            f'Triton does not work on {device}, so that RoIs are pooled by the plain form, which is slower: '
            f'{type(error).__name__}: {text}. Install a C compiler and the headers of Python, or set '
            'MMSSL_PLAIN=1',
            stacklevel=2,
        )
        return False
    return True


@triton.jit
def _fill(out):
    tl.store(out, 1.0)


def launch(kernel, grid: tuple[int, ...], tensor: Tensor, *arguments, **constants) -> None:
    """Launch a kernel on the device of its first argument; nothing if the grid is empty."""
    if all(grid):
        with torch.cuda.device_of(tensor):
            kernel[grid](tensor, *arguments, **constants)
