"""First in, first out: the dictionary of negatives of MoCo (arXiv:1911.05722, section 3.2)."""

import torch
from torch import Tensor, nn

from mmssl.layers.counter import HostCounters
from mmssl.layers.distributed import gather


class FeatureQueue(HostCounters):
    """The last ``length`` features of all processes, the same on every process, in the state dict.

    Args:
        dim: of a feature.
        length: of the queue; a multiple of the batch of all processes is never split at the end of the queue,
            any other is.

    Attributes:
        queue: (dim, length), a feature a column, unit vectors at the start as in MoCo's released code.
        queue_ptr: column that the next feature goes to.
    """

    COUNTERS: tuple[str, ...] = ('queue_ptr',)

    def __init__(self, dim: int, length: int):
        super().__init__()
        if length < 1:
            raise ValueError(f'length={length} of a queue; give a number of features above 0, such as 65536')
        self.register_buffer('queue', nn.functional.normalize(torch.randn(dim, length), dim=0))
        self.queue_ptr = 0

    def negatives(self) -> Tensor:
        """(dim, length), a copy: the queue moves on before the backward pass needs what the logits were made from."""
        return self.queue.clone()

    @torch.no_grad()
    def enqueue(self, features: Tensor) -> None:
        """Put the features of all processes, in the order of the ranks, in the place of the oldest ones.

        Args:
            features: (B, dim) of this process.

        Raises:
            ValueError: more features than the queue is long.
        """
        features = gather(features).to(self.queue.dtype)
        length = self.queue.shape[1]
        if len(features) > length:
            raise ValueError(
                f'the queue has {length} places and the batch of all processes {len(features)} features; lengthen the queue'
            )
        end = self.queue_ptr + len(features)
        first = min(end, length) - self.queue_ptr
        self.queue[:, self.queue_ptr : self.queue_ptr + first] = features[:first].T
        self.queue[:, : len(features) - first] = features[first:].T
        self.queue_ptr = end % length
