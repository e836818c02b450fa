"""Float32 matrix products on the CPU through oneDNN instead of MKL, switched on once for the whole process.

torch sends float32 products to MKL. oneDNN, which torch also contains and uses for bfloat16 and convolutions,
is faster at the shapes of transformers on AMD CPUs with AVX-512. :func:`enable` replaces the CPU kernels of
``aten::addmm`` and ``aten::mm``. They are called below autograd, autocast, tracing and dispatch modes, so
models, FLOP counters, torch.compile, torch.func and quantisation still see ordinary ``nn.Linear`` layers.

The choice depends on the machine and the shapes, never on a timing, so that a resumed run computes the same
numbers. ``MMSSL_CPU_LINEAR=mkl`` or ``onednn`` forces one of the libraries.
"""

import contextlib
import os
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from mmssl.ops import switch

# multiplications below which the call of a Python kernel costs more than oneDNN saves
MIN_MULTIPLICATIONS = 1 << 24

_library: torch.library.Library | None = None


def available() -> bool:
    """True if this torch has oneDNN and can call the kernel that another one replaces (2.9 or later)."""
    return (
        torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, '_linear_pointwise')
        and hasattr(torch.library, 'get_kernel')
    )


def enable() -> bool:
    """Send large float32 products on the CPU to oneDNN where that is faster, until :func:`disable`.

    Returns:
        True if oneDNN is in use after the call.

    Raises:
        ValueError: ``MMSSL_CPU_LINEAR`` is none of 'auto', 'mkl' and 'onednn'.
    """
    global _library
    if _library is None and _chosen():
        library = torch.library.Library('aten', 'IMPL')
        kernels = {name: torch.library.get_kernel(f'aten::{name}', 'CPU') for name in ('addmm', 'mm')}

        def addmm(keys, bias, left, right, *, beta=1, alpha=1):
            plain_bias = bias.dim() == 1 and bias.shape[0] == right.shape[1] and bias.dtype == torch.float32
            if plain_bias and beta == 1 and alpha == 1 and _worthwhile(left, right):
                return _product(left, right, bias)
            return kernels['addmm'].call_boxed(keys, bias, left, right, beta=beta, alpha=alpha)

        def mm(keys, left, right):
            if _worthwhile(left, right):
                return _product(left, right)
            return kernels['mm'].call_boxed(keys, left, right)

        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', '.*[Oo]verrid', UserWarning)
            library.impl('addmm', addmm, 'CPU', with_keyset=True)
            library.impl('mm', mm, 'CPU', with_keyset=True)
        _library = library
    return _library is not None


def disable() -> None:
    """Give torch its own kernels back."""
    global _library
    if _library is not None:
        _library._destroy()
        _library = None


@contextlib.contextmanager
def enabled() -> Iterator[bool]:
    """Inside this context large float32 products go to oneDNN, as after :func:`enable`."""
    before = _library is not None
    try:
        yield enable()
    finally:
        if not before:
            disable()


def _chosen() -> bool:
    choice = os.environ.get('MMSSL_CPU_LINEAR', 'auto')
    if choice not in ('auto', 'mkl', 'onednn'):
        raise ValueError(f"MMSSL_CPU_LINEAR={choice!r} is not supported; set it to 'auto', 'mkl' or 'onednn'")
    if choice == 'mkl' or switch.plain_only() or not available():
        return False
    return choice == 'onednn' or 'AVX512' in torch.backends.cpu.get_cpu_capability()


def _worthwhile(left: Tensor, right: Tensor) -> bool:
    return (
        left.dtype == right.dtype == torch.float32
        and left.dim() == right.dim() == 2
        and left.shape[1] == right.shape[0]
        and left.shape[0] * left.shape[1] * right.shape[1] >= MIN_MULTIPLICATIONS
    )


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left (M, K) @ right (K, N) + bias (N,)."""
    return torch.ops.mkldnn._linear_pointwise(_dense(left), _dense(right).t(), bias, 'none', [], '')


def _dense(matrix: Tensor) -> Tensor:
    # rows with gaps, such as the class tokens of (B, L, C), would take oneDNN's reference kernel, which is
    # hundreds of times slower
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()
