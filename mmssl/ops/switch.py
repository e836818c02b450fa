"""Choice between the plain form of an operator or module and its fast form.

Only this module asks about devices, gradients, autocast, compiling and tracing.

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
import os
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# path of each fast form -> its plain function; tests/test_fast_is_plain.py compares them all
FAST_FORMS: dict[str, Callable] = {}
_loaded: dict[str, Callable] = {}
_plain_only = os.environ.get('MMSSL_PLAIN', '').lower() not in ('', '0', 'false', 'no')
_flex_attention = os.environ.get('MMSSL_FLEX_ATTENTION', '').lower() not in ('', '0', 'false', 'no')


def always(tensors: list[Tensor]) -> bool:
    """On any device, with and without gradients."""
    return True


def inference(tensors: list[Tensor]) -> bool:
    """Gradients are disabled."""
    return not torch.is_grad_enabled()


def cpu(tensors: list[Tensor]) -> bool:
    """All tensors are on the CPU."""
    return all(tensor.device.type == 'cpu' for tensor in tensors)


def accelerator(tensors: list[Tensor]) -> bool:
    """No tensor is on the CPU."""
    return all(tensor.device.type != 'cpu' for tensor in tensors)


def cpu_inference(tensors: list[Tensor]) -> bool:
    """All tensors are on the CPU, and neither gradients nor autocast are enabled."""
    return cpu(tensors) and not torch.is_grad_enabled() and not torch.is_autocast_enabled('cpu')


def cpu_constant(tensors: list[Tensor]) -> bool:
    """All tensors are on the CPU, and the result needs no gradient."""
    return cpu(tensors) and not cpu_training(tensors)


def cpu_training(tensors: list[Tensor]) -> bool:
    """All tensors are on the CPU, and at least one of them requires a gradient."""
    return cpu(tensors) and torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


@functools.lru_cache
def _has_triton() -> bool:
    return importlib.util.find_spec('triton') is not None


def cuda_with_triton(tensors: list[Tensor]) -> bool:
    """All tensors are on CUDA devices, and Triton is installed."""
    return all(tensor.device.type == 'cuda' for tensor in tensors) and _has_triton()


def cuda_with_flex_attention(tensors: list[Tensor]) -> bool:
    """All tensors are on CUDA devices, and ``MMSSL_FLEX_ATTENTION=1`` is set."""
    return _flex_attention and all(tensor.device.type == 'cuda' for tensor in tensors)


def eager() -> bool:
    """Neither torch.compile nor torch.jit.trace is recording, so that values can be read."""
    return not torch.compiler.is_compiling() and not tracing()


def tracing() -> bool:
    """torch.jit.trace is recording, which turns every number read from a tensor into a constant."""
    return torch.jit.is_tracing()


@contextlib.contextmanager
def untraced() -> Iterator[None]:
    """Suspend torch.jit.trace inside this context; torchvision, for one, cannot be imported under it."""
    state = torch._C._get_tracing_state()
    torch._C._set_tracing_state(None)
    try:
        yield
    finally:
        torch._C._set_tracing_state(state)


def values_readable(tensor: Tensor) -> bool:
    """Whether values can be read without waiting for a device or breaking a graph: eagerly on the CPU."""
    return cpu([tensor]) and eager()


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Data type of autocast on a device; None if it is off."""
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None


def widest_float(device: torch.device) -> torch.dtype:
    """Return float64, or float32 on devices that lack it."""
    return torch.float32 if device.type == 'mps' else torch.float64


def full_precision(value):
    """Return half-precision results of autocast in float32; tuples and lists element by element.

    Without autocast the data type is the caller's choice and stays as it is.
    """
    if isinstance(value, (tuple, list)):
        return type(value)(full_precision(element) for element in value)
    half = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if half and torch.is_autocast_enabled(value.device.type) else value


def no_autocast(tensor: Tensor) -> torch.autocast:
    """Context in which autocast is off on the device of ``tensor``."""
    return torch.autocast(tensor.device.type, enabled=False)


def no_autocast_backward(backward: Callable) -> Callable:
    """Decorate the backward pass of an autograd function: autocast is off in it, as in the forward pass.

    Autograd itself leaves it on where ``backward()`` is called inside an autocast context.
    """

    @functools.wraps(backward)
    def run(ctx, grad_output):
        with no_autocast(grad_output):
            return backward(ctx, grad_output)

    return run


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
                result = _load(path)(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            return plain(*args, **kwargs)

        return dispatch

    return decorate


def _load(path: str) -> Callable:
    _import(path)
    return _loaded[path]


@torch.compiler.assume_constant_result  # a compiler cannot follow an import
def _import(path: str) -> bool:
    if path not in _loaded:
        module, _, name = path.partition(':')
        _loaded[path] = getattr(importlib.import_module(module), name)
    return True
