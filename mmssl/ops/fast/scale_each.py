"""Products of small tensors with a factor each, in a few kernels for all of them.

With a list of scalar tensors ``torch._foreach_mul_`` starts a kernel for every tensor, and two thirds of the
tensors of a ViT are biases and norms of a few thousand numbers.
"""

import torch
from torch import Tensor

# a tensor of this size keeps a GPU busy for longer than it takes to start its kernel
MAX_SIZE = 2**16
MIN_TENSORS = 8


def scale_each_(tensors: list[Tensor], factors: Tensor) -> list[Tensor]:
    """:func:`mmssl.ops.scale_each.scale_each_`, for the small tensors joined."""
    small = [index for index, tensor in enumerate(tensors) if tensor.numel() <= MAX_SIZE]
    if len(small) < MIN_TENSORS or len({tensor.dtype for tensor in tensors}) > 1:
        return NotImplemented
    large = sorted(set(range(len(tensors))).difference(small))
    if large:
        each = factors.unbind()
        torch._foreach_mul_([tensors[index] for index in large], [each[index] for index in large])
    _scale_joined([tensors[index] for index in small], factors, small)
    return tensors


def _scale_joined(tensors: list[Tensor], factors: Tensor, indices: list[int]) -> None:
    sizes = [tensor.numel() for tensor in tensors]
    # pinned, so that the copy does not wait for the device
    numbers = (
        torch.tensor([indices, sizes]).pin_memory() if factors.is_cuda else torch.tensor([indices, sizes])
    )
    owners, repeats = numbers.to(factors.device, non_blocking=True)
    joined = torch.cat([tensor.flatten() for tensor in tensors])
    joined *= factors[owners].to(joined.dtype).repeat_interleave(repeats, output_size=sum(sizes))
    pieces = joined.split(sizes)
    torch._foreach_copy_(
        tensors, [piece.view_as(tensor) for piece, tensor in zip(pieces, tensors, strict=True)]
    )
