"""Gradients of replacements that autograd can differentiate."""

from collections.abc import Callable

import torch
from torch import Tensor

from mmssl.hosts.mmcv_ext.precision import as_float32
from mmssl.ops.precision import no_autocast


def gradients(compute: Callable[..., Tensor], inputs: list[Tensor], grad_output: Tensor) -> list[Tensor]:
    """Compute an operator again and return the gradients of its inputs.

    Args:
        compute: Differentiable function of the inputs.
        inputs: Floating point tensors.
        grad_output: Gradient of the result.

    Returns:
        One gradient per input, in float32 for half precision.
    """
    with torch.enable_grad(), no_autocast(grad_output):
        leaves = [as_float32(tensor).detach().requires_grad_() for tensor in inputs]
        output = compute(*leaves)
        return list(torch.autograd.grad(output, leaves, grad_output.to(output.dtype)))
