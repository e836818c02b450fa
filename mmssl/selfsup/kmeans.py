"""Mini-batch k-means (Sculley, WWW 2010) over patches that arrive as a stream."""

from collections.abc import Callable

import torch
from torch import Tensor


class MiniBatchKMeans:
    """K centroids, each the running mean of the samples nearest to it.

    The first centroids are random samples. A centroid that has had no sample for a while is moved to another
    random sample, so that none stays unused.

    Args:
        num_clusters: K.
        nearest: Function of (samples (T, D), centroids (K, D)) to the indices (T,) of the nearest centroids.
        seed: Seed of all draws.
        patience: Samples per centroid, on average, after which a centroid without any is moved.

    Attributes:
        centroids: (K, D); None until there are enough samples.
        counts: (K,), samples since the centroid was last moved to a sample.
        idle: (K,), samples since the centroid was last the nearest of one.
    """

    def __init__(
        self,
        num_clusters: int,
        nearest: Callable[[Tensor, Tensor], Tensor],
        seed: int = 0,
        patience: int = 10,
    ):
        self.num_clusters = num_clusters
        self.nearest = nearest
        self.patience = patience
        self.generator = torch.Generator().manual_seed(seed)
        self.centroids: Tensor | None = None
        self.waiting: list[Tensor] = []
        self.samples = 0
        self.counts: Tensor
        self.idle: Tensor

    def _draw(self, samples: Tensor, count: int) -> Tensor:
        order = torch.randperm(len(samples), generator=self.generator)
        return samples[order[:count].to(samples.device)]

    def update(self, samples: Tensor) -> Tensor:
        """Move the centroids towards new samples.

        Args:
            samples: (T, D).

        Returns:
            (): mean squared distance to the nearest centroid before it moved; NaN until there are enough
            samples to start.
        """
        self.samples += len(samples)
        if self.centroids is None:
            self.waiting.append(samples)
            if self.samples < 3 * self.num_clusters:
                return samples.new_tensor(float('nan'))
            samples = torch.cat(self.waiting)
            self.waiting = []
            self.begin(samples)
        assert self.centroids is not None
        indices = self.nearest(samples, self.centroids)
        distance = (samples - self.centroids[indices]).square_().sum(dim=1).mean()
        hits = torch.bincount(indices, minlength=self.num_clusters)
        sums = torch.zeros_like(self.centroids).index_add_(0, indices, samples)
        self.counts += hits
        self.centroids += (sums - hits.unsqueeze(1) * self.centroids) / self.counts.clamp(min=1).unsqueeze(1)
        self.idle = torch.where(hits > 0, 0, self.idle + len(samples))
        unused = (self.idle > self.patience * self.num_clusters).nonzero().squeeze(1)[: len(samples)]
        if len(unused):
            self.centroids[unused] = self._draw(samples, len(unused))
            self.counts[unused] = 1
            self.idle[unused] = 0
        return distance

    def begin(self, samples: Tensor) -> None:
        """Set the centroids to random samples."""
        if len(samples) < self.num_clusters:
            raise ValueError(
                f'{len(samples)} patches for {self.num_clusters} tokens; take more images, or fewer tokens'
            )
        self.centroids = self._draw(samples, self.num_clusters).clone()
        self.counts = torch.zeros(self.num_clusters, dtype=torch.int64, device=samples.device)
        self.idle = torch.zeros_like(self.counts)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Return centroids (K, D) and counts (K,), the most used first."""
        if self.centroids is None:  # a small data set: start with all of it
            samples = torch.cat(self.waiting) if self.waiting else torch.zeros(0, 1)
            self.waiting = []
            self.begin(samples)
            self.update(samples)
            assert self.centroids is not None
        order = self.counts.argsort(descending=True, stable=True)
        return self.centroids[order], self.counts[order]
