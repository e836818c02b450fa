"""First-in, first-out queue of features: MoCo's dictionary of negatives (arXiv:1911.05722, section 3.2)."""

import torch
from torch import Tensor, nn

from mmssl.layers.distributed import gather
from mmssl.layers.saved_counters import SavedCounters


class FeatureQueue(SavedCounters):
    """The last ``length`` features of all ranks, the same on every rank, saved in the state dict.

    Args:
        dim: Size of a feature.
        length: Number of features. If it is not a multiple of the joint batch of all ranks, batches are split
            at the end of the queue.

    Attributes:
        queue: (dim, length), one feature per column; random unit vectors at first, as in MoCo's released
            code.
        queue_ptr: Column of the next feature.
    """

    COUNTERS: tuple[str, ...] = ('queue_ptr',)

    def __init__(self, dim: int, length: int):
        super().__init__()
        if length < 1:
            raise ValueError(
                f'length={length} of a queue is not a positive number of features, such as 65536'
            )
        self.register_buffer('queue', nn.functional.normalize(torch.randn(dim, length), dim=0))
        self.queue_ptr = 0

    def negatives(self) -> Tensor:
        """Return a copy of the queue, (dim, length), which stays valid for the backward pass."""
        return self.queue.clone()

    @torch.no_grad()
    def enqueue(self, features: Tensor) -> None:
        """Replace the oldest features by those of all ranks, in the order of the ranks.

        Args:
            features: (B, dim) of this rank.

        Raises:
            ValueError: There are more features than the queue is long.
        """
        features = gather(features).to(self.queue.dtype)
        length = self.queue.shape[1]
        if len(features) > length:
            raise ValueError(
                f'the queue has {length} places and the batch of all processes {len(features)} features; use '
                'a longer queue or a smaller batch'
            )
        end = self.queue_ptr + len(features)
        before_end = min(end, length) - self.queue_ptr
        self.queue[:, self.queue_ptr : self.queue_ptr + before_end] = features[:before_end].T
        self.queue[:, : len(features) - before_end] = features[before_end:].T
        self.queue_ptr = end % length
