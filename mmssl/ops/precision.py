"""Autocast and data types: what an operator computes in, and what it returns."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """Data type of autocast on a device; None if it is off."""
    return torch.get_autocast_dtype(device_type) if torch.is_autocast_enabled(device_type) else None


def compute_type(*tensors: Tensor) -> torch.dtype:
    """Return the data type to compute in: float64 if any tensor has it, else float32."""
    return torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32


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
