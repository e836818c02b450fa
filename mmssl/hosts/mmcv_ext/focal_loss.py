"""Focal loss with the arguments of mmcv's compiled operators."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.hosts.mmcv_ext.precision import as_float32

# the compiled operator computes log(max(p, FLT_MIN))
FLT_MIN = torch.finfo(torch.float32).tiny


def _prepare(input: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the probabilities (N, C), which of them should be 1 (N, C), and the weights of the rows (N, 1).

    A target past the last class is background, whose weight is 1.
    """
    logits = as_float32(input)
    positive = target[:, None] == torch.arange(logits.shape[1], device=logits.device)
    row_weights = logits.new_ones(len(logits), 1)
    if weight.numel():
        padded = F.pad(weight.to(logits.dtype), (0, 1), value=1)
        row_weights = padded[target.clamp(max=logits.shape[1])][:, None]
    return logits.sigmoid(), positive, row_weights


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of every logit (arXiv:1708.02002, equation 5).

    Args:
        input: (N, C) logits.
        target: (N,) int64; C is background.
        weight: (C,) weights of the rows by target, or of length 0.
        output: (N, C), filled.
        gamma: Exponent of the modulating factor.
        alpha: Weight of the positive class.
    """
    p, positive, row_weights = _prepare(input, target, weight)
    loss = torch.where(
        positive,
        -alpha * (1 - p) ** gamma * p.clamp(min=FLT_MIN).log(),
        -(1 - alpha) * p**gamma * (1 - p).clamp(min=FLT_MIN).log(),
    )
    output.copy_(loss * row_weights)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of :func:`sigmoid_focal_loss_forward` by each logit to ``grad_input`` (N, C)."""
    p, positive, row_weights = _prepare(input, target, weight)
    q = 1 - p
    grad = torch.where(
        positive,
        -alpha * q**gamma * (q - gamma * p * p.clamp(min=FLT_MIN).log()),
        -(1 - alpha) * p**gamma * (gamma * q * q.clamp(min=FLT_MIN).log() - p),
    )
    grad_input.copy_(grad * row_weights)


def _probabilities(softmax: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities of the targets (N,) and the weights of the rows (N,), 0 below target 0."""
    valid = target >= 0
    label = target.clamp(min=0)
    row_weights = weight.to(softmax.dtype)[label] if weight.numel() else torch.ones_like(softmax[:, 0])
    return softmax.gather(1, label[:, None])[:, 0], row_weights * valid


def softmax_focal_loss_forward(
    softmax: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Focal loss of the probability of the target.

    Args:
        softmax: (N, C) probabilities.
        target: (N,) int64; negative ones have no loss.
        weight: (C,) weights of the rows by target, or of length 0.
        output: (N,), filled.
        gamma: Exponent of the modulating factor.
        alpha: Factor of the loss.
    """
    p, row_weights = _probabilities(as_float32(softmax), target, weight)
    output.copy_(-alpha * (1 - p) ** gamma * p.clamp(min=FLT_MIN).log() * row_weights)


def softmax_focal_loss_backward(
    softmax: Tensor,
    target: Tensor,
    weight: Tensor,
    buff: Tensor,
    grad_input: Tensor,
    gamma: float,
    alpha: float,
) -> None:
    """Write the derivative of :func:`softmax_focal_loss_forward` by each logit to ``grad_input`` (N, C).

    ``buff`` (N,) is filled with the derivative by the logarithm of the target's probability.
    """
    probabilities = as_float32(softmax)
    p, row_weights = _probabilities(probabilities, target, weight)
    q = 1 - p
    slope = gamma * q ** (gamma - 1) * p * p.clamp(min=FLT_MIN).log() if gamma else torch.zeros_like(p)
    slope = torch.where(q == 0, 0, slope)  # log(p) vanishes faster, also below gamma = 1
    derivative = alpha * (slope - q**gamma) * row_weights
    buff.copy_(derivative)
    chosen = target[:, None] == torch.arange(probabilities.shape[1], device=target.device)
    grad_input.copy_(derivative[:, None] * (chosen.to(p.dtype) - probabilities))
