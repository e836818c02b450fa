"""Mini-batch k-means (Sculley, WWW 2010) over patches that come in as a stream."""

from collections.abc import Callable

import torch
from torch import Tensor


class MiniBatchKMeans:
    """K centroids, each the running mean of the samples that came nearest to it.

    The first centroids are samples themselves. One that got no sample for a while is set on another sample,
    so that none stays unused.

    Args:
        num_clusters: K.
        nearest: function of (samples (T, D), centroids (K, D)) to the numbers (T,) of the nearest centroids.
        seed: of every draw.
        patience: samples for each centroid, in the mean, without one before it is moved.

    Attributes:
        centroids: (K, D), None before there were K samples.
        counts: (K,), samples since the centroid was last placed.
        idle: (K,), samples since the centroid was last the nearest to one.
    """

    def __init__(
        self,
        num_clusters: int,
        nearest: Callable[[Tensor, Tensor], Tensor],
        seed: int = 0,
        patience: int = 10,
    ):
        self.num_clusters, self.nearest, self.patience = num_clusters, nearest, patience
        self.generator = torch.Generator().manual_seed(seed)
        self.centroids: Tensor | None = None
        self.waiting: list[Tensor] = []
        self.samples = 0
        self.counts: Tensor
        self.idle: Tensor

    def _choose(self, samples: Tensor, count: int) -> Tensor:
        return samples[torch.randperm(len(samples), generator=self.generator)[:count].to(samples.device)]

    def update(self, samples: Tensor) -> Tensor:
        """Move the centroids towards new samples.

        Args:
            samples: (T, D).

        Returns:
            (): mean squared distance to the nearest centroid before it moved; nan as long as there were too
            few samples to begin.
        """
        self.samples += len(samples)
        if self.centroids is None:
            self.waiting.append(samples)
            if self.samples < 3 * self.num_clusters:
                return samples.new_tensor(float('nan'))
            samples, self.waiting = torch.cat(self.waiting), []
            self.begin(samples)
        assert self.centroids is not None
        found = self.nearest(samples, self.centroids)
        distance = (samples - self.centroids[found]).square_().sum(dim=1).mean()
        hits = torch.bincount(found, minlength=self.num_clusters)
        sums = torch.zeros_like(self.centroids).index_add_(0, found, samples)
        self.counts += hits
        self.centroids += (sums - hits.unsqueeze(1) * self.centroids) / self.counts.clamp(min=1).unsqueeze(1)
        self.idle = torch.where(hits > 0, 0, self.idle + len(samples))
        unused = (self.idle > self.patience * self.num_clusters).nonzero().squeeze(1)[: len(samples)]
        if len(unused):
            self.centroids[unused] = self._choose(samples, len(unused))
            self.counts[unused], self.idle[unused] = 1, 0
        return distance

    def begin(self, samples: Tensor) -> None:
        """Put the centroids on samples drawn at random."""
        if len(samples) < self.num_clusters:
            raise ValueError(
                f'{len(samples)} patches for {self.num_clusters} tokens; take more images, or fewer tokens'
            )
        self.centroids = self._choose(samples, self.num_clusters).clone()
        self.counts = torch.zeros(self.num_clusters, dtype=torch.int64, device=samples.device)
        self.idle = torch.zeros_like(self.counts)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Centroids (K, D) and counts (K,), the most used first."""
        if self.centroids is None:  # a small data set: what there is
            samples, self.waiting = torch.cat(self.waiting) if self.waiting else torch.zeros(0, 1), []
            self.begin(samples)
            self.update(samples)
            assert self.centroids is not None
        order = self.counts.argsort(descending=True, stable=True)
        return self.centroids[order], self.counts[order]
