"""Gathering, summing and shuffling of tensors over all ranks.

Every rank takes part in every call, with a batch of the same length (``drop_last=True`` in the data loader).
Without a process group the functions return their input.
"""

import contextlib
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch import distributed as dist


def world() -> tuple[int, int]:
    """Return (rank, world size); (0, 1) without a process group."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


# the default group and the gloo group beside it
_groups: tuple[object, object] = (None, None)
# calls of wait_for_first_rank
_waits = 0


def host_group():
    """Return the group in which all ranks exchange CPU tensors: gloo, beside NCCL for those of GPUs.

    It is made by the first call, which every rank makes at the same point of the program. None without a
    process group.
    """
    global _groups
    if world()[1] == 1:
        return None
    default = dist.group.WORLD
    if _groups[0] is not default:
        _groups = default, default if dist.get_backend() == 'gloo' else dist.new_group(backend='gloo')
    return _groups[1]


def wait_for_first_rank() -> None:
    """Wait until the first rank has called this too, however long it computes; every rank has to call it.

    A collective would end the run after its timeout. The watch of the ranks
    (:mod:`mmssl.engine.rank_watch`) ends it if the first one is stopped.
    """
    global _waits
    rank, size = world()
    if size == 1:
        return
    _waits += 1
    key = f'mmssl/waits/{_waits}'
    store = dist.distributed_c10d._get_default_store()
    if rank == 0:
        store.set(key, 'yes')
    while not store.check([key]):
        time.sleep(0.05)


@torch.no_grad()
def gather(tensor: Tensor) -> Tensor:
    """Concatenate (B, ...) of all ranks, in the order of the ranks, without gradient."""
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
    def backward(ctx, grad_output: Tensor) -> Tensor:
        grad_output = grad_output.contiguous().clone()
        dist.all_reduce(grad_output)
        start = dist.get_rank() * ctx.length
        return grad_output[start : start + ctx.length]


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Concatenate (B, ...) of all ranks; the gradient is summed over the losses of all ranks.

    DistributedDataParallel then divides it by the world size, which gives the gradient of the mean loss.
    """
    return tensor if world()[1] == 1 else _GatherWithGradient.apply(tensor)


@torch.no_grad()
def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Return the sum over the ranks as a new tensor, without gradient."""
    total = tensor.detach().clone()
    if world()[1] > 1:
        dist.all_reduce(total)
    return total


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """Return the mean over the ranks as a new tensor, without gradient."""
    return sum_over_ranks(tensor) / world()[1]


def common_permutation(length: int, device: torch.device | str) -> Tensor:
    """Draw a permutation of 0 .. length - 1, (length,), that is the same on every rank."""
    order = torch.randperm(length, device=device)
    if world()[1] > 1:
        dist.broadcast(order, 0)
    return order


def shuffle(tensor: Tensor, order: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Exchange samples between the ranks at random, for shuffled batch norm (MoCo, section 3.3).

    Args:
        tensor: (B, ...) of this rank.
        order: (world size * B,), the permutation, the same on every rank; drawn if None. Sample ``order[i]``
            moves to position i of the shuffled batch.

    Returns:
        (B, ...), this rank's part of the shuffled batch, and ``order`` for :func:`unshuffle`.
    """
    rank, size = world()
    if order is None:
        order = common_permutation(size * len(tensor), tensor.device)
    own = order[rank * len(tensor) : (rank + 1) * len(tensor)]
    return gather(tensor)[own], order


def unshuffle(tensor: Tensor, order: Tensor) -> Tensor:
    """Undo :func:`shuffle` for results (B, ...) of a shuffled batch."""
    rank, _ = world()
    own = order.argsort()[rank * len(tensor) : (rank + 1) * len(tensor)]
    return gather(tensor)[own]


def whole(value):
    """Return a tensor that is sharded over the ranks (DTensor) as a whole; anything else as it is.

    Every rank has to call it.
    """
    return value.full_tensor() if hasattr(value, 'full_tensor') else value


def own_part(tensor: Tensor) -> Tensor:
    """Return this rank's part of a tensor that is sharded over the ranks (DTensor); others as they are."""
    return tensor.to_local() if hasattr(tensor, 'to_local') else tensor


@contextlib.contextmanager
def resharded(model: nn.Module) -> Iterator[None]:
    """Context in which a model that is sharded (FSDP2) holds no gathered copies of its parameters.

    In its forward pass parameters are copies, which are thrown away with all that is written to them. Other
    models are left as they are.
    """
    gathered = hasattr(model, 'reshard') and any(not hasattr(each, 'to_local') for each in model.parameters())
    if gathered:
        model.state_dict()  # reshards all modules; ``reshard`` does nothing in the forward pass of the root
    try:
        yield
    finally:
        if gathered:
            model.unshard()
