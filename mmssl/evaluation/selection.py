"""Selection of images by their features: diverse, typical, outliers, or like others.

All distances are 1 - cosine similarity, which orders features of length 1 like their Euclidean distances.
Memory stays bounded: features are read block by block, and may be mapped from a file.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from mmssl.evaluation.feature_files import blocks, normalized, row_norms
from mmssl.evaluation.neighbours import neighbour_similarities
from mmssl.evaluation.selection_kmeans import spherical_kmeans

# neighbours of the typicality (TypiClust, section 3.2) and of outliers
TYPICAL_NEIGHBOURS = 20
OUTLIER_NEIGHBOURS = 10
# smaller clusters are left to the end, as their density says little (TypiClust, appendix F)
SMALLEST_CLUSTER = 5
# members of a cluster among which neighbours are sought; a sample of them in larger ones
MAX_MEMBERS = 20_000
_ROWS = 8192
Progress = Callable[[int], object]


def check_number(number: int, available: int) -> None:
    """Raise ValueError unless so many images can be selected."""
    if number < 1:
        raise ValueError(f'number={number} must be at least 1')
    if number > available:
        raise ValueError(f'{number} images cannot be selected: {available} are left to select from')


def select_diverse(
    features: np.ndarray,
    number: int,
    excluded: Sequence[int] = (),
    progress: Progress = lambda count: None,
) -> list[int]:
    """Select rows that cover the others: always the one farthest from all selected before it.

    The greedy form of the k-centre problem (Sener and Savarese, arXiv:1708.00489, algorithm 1), in a pass
    over the features for each row. It starts from the excluded rows, or else from the row that is nearest to
    the mean.

    Args:
        features: (N, D).
        number: Number of rows to select.
        excluded: Rows that are labelled already: they are not selected, and count as covered.
        progress: Called with 1 after each row.

    Returns:
        The rows in the order of their selection, so that the first ones of a longer list are a shorter one.
    """
    check_number(number, len(features) - len(excluded))
    distances = np.full(len(features), np.inf, np.float32)
    norms = row_norms(features)
    _cover(distances, features, norms, list(excluded))
    selected: list[int] = []
    while len(selected) < number:
        row = int(distances.argmax()) if selected or len(excluded) else _most_central(features)
        selected.append(row)
        progress(1)
        if len(selected) < number:
            _cover(distances, features, norms, [row])
    return selected


def _cover(distances: np.ndarray, features: np.ndarray, norms: np.ndarray, rows: list[int]) -> None:
    """Lower the distances (N,) to the nearest centre by new centres, whose own become -1."""
    for start in range(0, len(rows), 256):
        centres = normalized(features[rows[start : start + 256]]).numpy()
        for first in range(0, len(features), _ROWS):
            part = slice(first, first + _ROWS)
            similarities = (features[part] @ centres.T).max(axis=1) / norms[part]
            distances[part] = np.minimum(distances[part], np.maximum(1 - similarities, 0))
    distances[rows] = -1


def _most_central(features: np.ndarray) -> int:
    mean = torch.stack([block.sum(dim=0) for _, block in blocks(features)]).sum(dim=0)
    return int(torch.cat([block @ mean for _, block in blocks(features)]).numpy().argmax())


def select_typical(
    features: np.ndarray,
    number: int,
    excluded: Sequence[int] = (),
    max_clusters: int = 500,
    seed: int = 0,
    progress: Progress = lambda count: None,
) -> list[int]:
    """Select the most typical row of each cluster (TypiClust, Hacohen et al., arXiv:2202.02794, section 3.2).

    There are as many clusters as selected and excluded rows together. Those with the fewest excluded and
    selected rows come first, larger ones before smaller ones. Typicality is the inverse mean distance to
    the 20 nearest neighbours in the cluster (equation 1); of a cluster above 20 000 members, to those in a
    fixed sample of that size.

    Args:
        features: (N, D).
        number: Number of rows to select.
        excluded: Rows that are labelled already.
        max_clusters: Largest number of clusters; more rows come from the same clusters.
        seed: Seed of the clustering.
        progress: Called with 1 after each row.

    Returns:
        The rows in the order of their selection.
    """
    check_number(number, len(features) - len(excluded))
    num_clusters = min(len(excluded) + number, max_clusters, len(features))
    clusters = spherical_kmeans(features, num_clusters, seed).numpy()
    sizes = np.bincount(clusters, minlength=num_clusters)
    taken = np.bincount(clusters[list(excluded)], minlength=num_clusters)
    is_free = np.ones(len(features), bool)
    is_free[list(excluded)] = False
    left = np.bincount(clusters[is_free], minlength=num_clusters)
    ranked: dict[int, list[int]] = {}
    selected: list[int] = []
    while len(selected) < number:
        candidates = np.flatnonzero(left)
        # small clusters last; then by the rows that they have; then by size
        order = np.lexsort((-sizes[candidates], taken[candidates], sizes[candidates] < SMALLEST_CLUSTER))
        cluster = int(candidates[order[0]])
        if cluster not in ranked:
            members = np.flatnonzero(clusters == cluster)
            ranked[cluster] = [int(row) for row in members[_by_typicality(features, members)] if is_free[row]]
        row = ranked[cluster].pop(0)
        selected.append(row)
        left[cluster] -= 1
        taken[cluster] += 1
        progress(1)
    return selected


def _by_typicality(features: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Return the indices of the members of a cluster, the most typical first."""
    rows = normalized(features[members])
    reference = rows[:: -(-len(rows) // MAX_MEMBERS)]
    count = min(TYPICAL_NEIGHBOURS + 1, len(reference))
    # the largest similarity is the one to itself
    similarities = [(chunk @ reference.T).topk(count, dim=1).values for chunk in rows.split(1024)]
    # distances of features of length 1, as in equation 1
    distances = (2 - 2 * torch.cat(similarities)).clamp(min=0).sqrt().mean(dim=1)
    return distances.numpy().argsort(kind='stable')


def select_outliers(
    features: np.ndarray,
    number: int,
    excluded: Sequence[int] = (),
    neighbours: int = OUTLIER_NEIGHBOURS,
    progress: Progress = lambda count: None,
) -> list[int]:
    """Select the rows that are farthest from their nearest neighbours (Ramaswamy et al., SIGMOD 2000).

    The mean over the neighbours is used, so that a pair of equal outliers is found.

    Args:
        features: (N, D), N at least 2.
        number: Number of rows to select.
        excluded: Rows that are not selected, but count as neighbours.
        neighbours: Number of neighbours.
        progress: Called with the number of rows done.

    Returns:
        The rows, the farthest first.
    """
    check_number(number, len(features) - len(excluded))
    if len(features) < 2:
        raise ValueError('a single image has no neighbours; outliers need at least 2')
    scores = neighbour_similarities(features, neighbours, progress).mean(dim=1)
    scores[list(excluded)] = torch.inf
    return scores.numpy().argsort(kind='stable')[:number].tolist()


def select_like(
    features: np.ndarray, queries: Tensor, number: int, excluded: Sequence[int] = ()
) -> list[int]:
    """Select the rows that are most similar to any of the queries.

    Args:
        features: (N, D).
        queries: (M, D) float32, of length 1.
        number: Number of rows to select.
        excluded: Rows that are not selected, such as those of the queries.

    Returns:
        The rows, the most similar first.
    """
    check_number(number, len(features) - len(excluded))
    scores = torch.cat([(block @ queries.T).amax(dim=1) for _, block in blocks(features)])
    scores[list(excluded)] = -torch.inf
    return (-scores).numpy().argsort(kind='stable')[:number].tolist()
