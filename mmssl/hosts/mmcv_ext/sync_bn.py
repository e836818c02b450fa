"""Steps of batch norm over several processes with the arguments of mmcv's compiled operators.

mmcv reduces mean and variance between the steps. All inputs are (B, C, N).
"""

from torch import Tensor


def sync_bn_forward_mean(input: Tensor, mean: Tensor) -> None:
    """Write the means of the channels to ``mean`` (C,)."""
    mean.copy_(input.float().mean((0, 2)))


def sync_bn_forward_var(input: Tensor, mean: Tensor, var: Tensor) -> None:
    """Write the mean squared distances from ``mean`` (C,) to ``var`` (C,)."""
    var.copy_((input.float() - mean[:, None]).square().mean((0, 2)))


def sync_bn_forward_output(  # noqa: PLR0913  mmcv's signature
    input: Tensor,
    mean: Tensor,
    var: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    norm: Tensor,
    std: Tensor,
    output: Tensor,
    eps: float,
    momentum: float | Tensor,
    group_size: int,
) -> None:
    """Normalise, and move the running statistics.

    Args:
        input: (B, C, N).
        mean: (C,), of all processes.
        var: (C,), of all processes.
        weight: (C,).
        bias: (C,).
        running_mean: (C,), changed; of length 0 for none.
        running_var: (C,), changed.
        norm: (B, C, N), filled with the normalised input.
        std: (C,), filled with the standard deviation.
        output: (B, C, N), filled.
        eps: Added to the variance.
        momentum: Share of the new values in the running statistics.
        group_size: Number of processes.
    """
    std.copy_((var + eps).sqrt())
    norm.copy_((input.float() - mean[:, None]) / std[:, None])
    output.copy_(norm * weight[:, None] + bias[:, None] if weight.numel() else norm)
    if running_mean.numel():
        count = input.shape[0] * input.shape[2] * group_size
        unbiased = var * (count / (count - 1)) if count > 1 else var
        running_mean.copy_(momentum * mean + (1 - momentum) * running_mean)
        running_var.copy_(momentum * unbiased + (1 - momentum) * running_var)


def sync_bn_backward_param(grad_output: Tensor, norm: Tensor, grad_weight: Tensor, grad_bias: Tensor) -> None:
    """Write the gradients of weight and bias (C,)."""
    grad = grad_output.float()
    grad_weight.copy_((grad * norm).sum((0, 2)))
    grad_bias.copy_(grad.sum((0, 2)))


def sync_bn_backward_data(
    grad_output: Tensor,
    weight: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    norm: Tensor,
    std: Tensor,
    grad_input: Tensor,
) -> None:
    """Write the gradient of the input (B, C, N), from the mean gradients of weight and bias (C,)."""
    count = grad_output.shape[0] * grad_output.shape[2]
    shared = (grad_weight[:, None] * norm + grad_bias[:, None]) / count
    grad_input.copy_(weight[:, None] * (grad_output.float() - shared) / std[:, None])
