"""k-means on the unit sphere, for features that need not fit into memory."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.evaluation.feature_files import blocks, normalized

# rows that the first centroids are drawn from
_SEED_ROWS = 20_000


def spherical_kmeans(
    features: np.ndarray, num_clusters: int, seed: int = 0, iterations: int = 25, block_rows: int = 8192
) -> Tensor:
    """Cluster features by their direction (Dhillon and Modha, Machine Learning 42, 2001).

    The first centroids are those of k-means++ (Arthur and Vassilvitskii, SODA 2007), from at most 20 000
    rows. A cluster without members keeps its centroid.

    Args:
        features: (N, D).
        num_clusters: Number of clusters, at most N.
        seed: Seed of the first centroids.
        iterations: Largest number of passes.
        block_rows: Rows assigned at a time.

    Returns:
        (N,) int64 clusters.
    """
    generator = torch.Generator().manual_seed(seed)
    centroids = _first_centroids(features, num_clusters, generator)
    clusters = torch.full((len(features),), -1)
    for _ in range(iterations):
        sums = torch.zeros_like(centroids)
        changed = 0
        for start, block in blocks(features, block_rows):
            nearest = (block @ centroids.T).argmax(dim=1)
            previous = clusters[start : start + len(block)]
            changed += int((nearest != previous).sum())
            previous.copy_(nearest)
            sums.index_add_(0, nearest, block)
        if not changed:
            break
        is_empty = sums.norm(dim=1, keepdim=True) == 0
        centroids = torch.where(is_empty, centroids, F.normalize(sums, dim=1))
    return clusters


def _first_centroids(features: np.ndarray, num_clusters: int, generator: torch.Generator) -> Tensor:
    """Draw rows with a probability that grows with their squared distance from the rows drawn before."""
    count = max(num_clusters, min(_SEED_ROWS, len(features)))
    sample = torch.randperm(len(features), generator=generator)[:count].sort().values
    rows = normalized(features[sample.numpy()])
    chosen = [int(torch.randint(count, (1,), generator=generator))]
    distances = torch.full((count,), torch.inf, dtype=torch.double)
    while len(chosen) < num_clusters:
        distances = torch.minimum(distances, (1 - rows @ rows[chosen[-1]]).clamp(min=0).double())
        distances[chosen] = 0
        weights = (
            distances
            if distances.sum() > 0
            else torch.ones_like(distances).index_fill_(0, torch.tensor(chosen), 0)
        )
        draw = torch.rand((), generator=generator, dtype=torch.double) * weights.sum()
        chosen.append(min(int(torch.searchsorted(weights.cumsum(0), draw)), count - 1))
    return rows[chosen]
