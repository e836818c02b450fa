"""Dense layers on the CPU: the same product through the faster of torch's two GEMM libraries.

``torch.nn.functional.linear`` sends float32 to MKL. oneDNN, which torch carries too and uses for bfloat16 and
for convolutions, is faster at the shapes of transformers on AMD CPUs with AVX-512
(tools/benchmarks/mae_step.py prints both). The choice depends on the machine only, never on a timing, so that
a resumed run takes the same path. ``MMSSL_CPU_LINEAR=mkl`` or ``onednn`` forces one.
"""

import functools
import os

import torch
import torch.nn.functional as F
from torch import Tensor


@functools.cache
def onednn_serves() -> bool:
    """Whether float32 products on the CPU go through oneDNN."""
    choice = os.environ.get('MMSSL_CPU_LINEAR', 'auto')
    if choice not in ('auto', 'mkl', 'onednn'):
        raise ValueError(f"MMSSL_CPU_LINEAR={choice!r}: one of 'auto', 'mkl', 'onednn'")
    here = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, '_linear_pointwise')
    if choice == 'auto':
        return here and 'AVX512' in torch.backends.cpu.get_cpu_capability()
    return here and choice == 'onednn'


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias``, as ``torch.nn.functional.linear``.

    Args:
        x: (..., K).
        weight: (N, K).
        bias: (N,) or None.

    Returns:
        (..., N).
    """
    if (
        x.device.type == 'cpu'
        and x.dtype == weight.dtype == torch.float32
        and x.ndim > 1
        and x.numel()
        and not torch.is_autocast_enabled('cpu')
        and not torch.compiler.is_compiling()
        and onednn_serves()
    ):
        return _OneDNNLinear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left (M, K) @ right (N, K).T + bias (N,)."""
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, 'none', [], '')


class _OneDNNLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias):
        # rows with gaps, as the class tokens of (B, L, C), would take oneDNN's reference kernel, hundreds of
        # times slower
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        ctx.save_for_backward(rows, weight)
        ctx.shape, ctx.has_bias = x.shape, bias is not None
        return _product(rows, weight, bias).view(*x.shape[:-1], -1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        rows, weight = ctx.saved_tensors
        flat = grad.reshape(-1, grad.shape[-1]).contiguous()
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        grad_x = _product(flat, weight.t()).view(ctx.shape) if needs_x else None
        grad_weight = _product(flat.t(), rows.t()) if needs_weight else None
        return grad_x, grad_weight, flat.sum(0) if ctx.has_bias and needs_bias else None
