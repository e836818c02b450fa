"""Tensors of all processes. Every process takes part in every call; without a process group each of them is the identity.

The batch of a rank has the same length on every rank (``drop_last=True`` in the data loader).
"""

import torch
from torch import Tensor
from torch import distributed as dist


def world() -> tuple[int, int]:
    """(rank, world size); (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """(B, ...) of this rank to (world size * B, ...), rank after rank, without gradient."""
    _, size = world()
    if size == 1:
        return tensor.detach()
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(size)]
    dist.all_gather(parts, tensor.detach().contiguous())
    return torch.cat(parts)


class _GatherWithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor: Tensor) -> Tensor:
        ctx.length = len(tensor)
        return gather(tensor)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.length
        return gradient[start : start + ctx.length]


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """As :func:`gather`; the gradient of a row is the sum of what all ranks' losses say of it.

    DistributedDataParallel then divides by the world size, which gives the gradient of the mean of the ranks'
    losses.
    """
    return tensor if world()[1] == 1 else _GatherWithGradient.apply(tensor)


@torch.no_grad()
def sum_over_ranks(tensor: Tensor) -> Tensor:
    """The sum over the processes, a new tensor, without gradient."""
    total = tensor.detach().clone()
    if world()[1] > 1:
        dist.all_reduce(total)
    return total


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean over the processes, a new tensor, without gradient."""
    return sum_over_ranks(tensor) / world()[1]


def common_permutation(length: int, device: torch.device | str) -> Tensor:
    """(length,) a random order of 0 .. length - 1, the same on every rank: rank 0 draws it."""
    order = torch.randperm(length, device=device)
    if world()[1] > 1:
        dist.broadcast(order, 0)
    return order


def shuffle(tensor: Tensor, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Exchange samples between the ranks at random (shuffled batch norm; MoCo, arXiv:1911.05722, section 3.3).

    Args:
        tensor: (B, ...) of this rank.
        order: (world size * B,), the draw, the same on every rank: place i of the shuffled batch holds sample
            ``order[i]``.

    Returns:
        (B, ...), this rank's part of the shuffled batch, and ``order`` for :func:`unshuffle`.
    """
    rank, size = world()
    if order is None:
        order = common_permutation(size * len(tensor), tensor.device)
    mine = order[rank * len(tensor) : (rank + 1) * len(tensor)]
    return gather(tensor)[mine], order


def unshuffle(tensor: Tensor, order: Tensor) -> Tensor:
    """Bring what was computed from a shuffled part, (B, ...), back to the rank and the place that :func:`shuffle` took it from."""
    rank, _ = world()
    mine = order.argsort()[rank * len(tensor) : (rank + 1) * len(tensor)]
    return gather(tensor)[mine]
