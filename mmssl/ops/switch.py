"""Choice between the plain form of an operator or module and its fast form.

A plain function or method names its fast form by path and never imports it::

    @fast_form('mmssl.ops.fast.attention:attention', when=cpu_training)
    def attention(query, key, value): ...

The fast form takes the same arguments. It returns NotImplemented where its own limits (data types, shapes)
are not met, and the plain form then runs. ``MMSSL_PLAIN=1`` turns every fast form off.
"""

import contextlib
import functools
import importlib
import importlib.util
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from mmssl.hosts.environment import switched_on

# path of each fast form -> its plain function; tests/test_fast_is_plain.py compares them all
FAST_FORMS: dict[str, Callable] = {}
HAS_TRITON = importlib.util.find_spec('triton') is not None
_loaded: dict[str, Callable] = {}
_plain_only = switched_on('MMSSL_PLAIN')
_flex_attention = switched_on('MMSSL_FLEX_ATTENTION')


def fast_form(
    path: str, when: Callable[[list[Tensor]], bool], compiled: bool = False
) -> Callable[[Callable], Callable]:
    """Decorate a plain function or method with its fast form.

    Args:
        path: ``'module:function'`` of the fast form, imported at its first use.
        when: Condition on the tensors among the arguments: :func:`cpu`, :func:`cpu_inference`, ...
        compiled: The fast form can be compiled and traced.
    """

    def decorate(plain: Callable) -> Callable:
        FAST_FORMS[path] = plain

        @functools.wraps(plain)
        def dispatch(*args, **kwargs):
            tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            if not _plain_only and (compiled or eager()) and when(tensors):
                result = load_fast_form(path)(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            return plain(*args, **kwargs)

        return dispatch

    return decorate


def load_fast_form(path: str) -> Callable:
    """Import a fast form by its path."""
    _import(path)
    return _loaded[path]


@torch.compiler.assume_constant_result  # a compiler cannot follow an import
def _import(path: str) -> bool:
    if path not in _loaded:
        module, _, name = path.partition(':')
        _loaded[path] = getattr(importlib.import_module(module), name)
    return True


@contextlib.contextmanager
def plain_forms() -> Iterator[None]:
    """Turn all fast forms off inside this context."""
    global _plain_only
    before, _plain_only = _plain_only, True
    try:
        yield
    finally:
        _plain_only = before


def plain_only() -> bool:
    """Whether all fast forms are off, by ``MMSSL_PLAIN=1`` or inside :func:`plain_forms`."""
    return _plain_only


def always(tensors: list[Tensor]) -> bool:
    """On any device, with and without gradients."""
    return True


def inference(tensors: list[Tensor]) -> bool:
    """Gradients are disabled."""
    return not torch.is_grad_enabled()


def cpu(tensors: list[Tensor]) -> bool:
    """All tensors are on the CPU."""
    return all(tensor.device.type == 'cpu' for tensor in tensors)


def cpu_inference(tensors: list[Tensor]) -> bool:
    """All tensors are on the CPU, and neither gradients nor autocast are enabled."""
    return cpu(tensors) and not torch.is_grad_enabled() and not torch.is_autocast_enabled('cpu')


def cpu_training(tensors: list[Tensor]) -> bool:
    """All tensors are on the CPU, and at least one of them requires a gradient."""
    return cpu(tensors) and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def cpu_constant(tensors: list[Tensor]) -> bool:
    """All tensors are on the CPU, and the result needs no gradient."""
    return cpu(tensors) and not cpu_training(tensors)


def accelerator(tensors: list[Tensor]) -> bool:
    """No tensor is on the CPU."""
    return all(tensor.device.type != 'cpu' for tensor in tensors)


def cuda_with_triton(tensors: list[Tensor]) -> bool:
    """All tensors are on CUDA devices, and Triton is installed."""
    return HAS_TRITON and all(tensor.device.type == 'cuda' for tensor in tensors)


def cuda_with_flex_attention(tensors: list[Tensor]) -> bool:
    """All tensors are on CUDA devices, and ``MMSSL_FLEX_ATTENTION=1`` is set."""
    return _flex_attention and all(tensor.device.type == 'cuda' for tensor in tensors)


def tracing() -> bool:
    """torch.jit.trace is recording, which turns every number read from a tensor into a constant."""
    return torch.jit.is_tracing()


def eager() -> bool:
    """Neither torch.compile nor torch.jit.trace is recording, so that values can be read."""
    return not torch.compiler.is_compiling() and not tracing()


def exporting_onnx() -> bool:
    """torch.onnx.export is tracing a module: only operators that ONNX has may be called."""
    return tracing() and torch.onnx.is_in_onnx_export()


def values_readable(tensor: Tensor) -> bool:
    """Whether values can be read without waiting for a device or breaking a graph: eagerly on the CPU."""
    return cpu([tensor]) and eager()
