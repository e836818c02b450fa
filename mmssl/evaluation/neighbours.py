"""Nearest neighbours by cosine similarity, block by block, so that memory does not grow with their number."""

from collections.abc import Callable
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor

from mmssl.evaluation.feature_files import blocks, normalized

BLOCK_ROWS = 4096
# rows above which an approximate index of faiss is used, where it is installed
MAX_EXACT_ROWS = 100_000
# fraction of the lists of the index that a query looks into
_PROBED = 0.1


def nearest_rows(
    features: np.ndarray,
    queries: Tensor,
    number: int,
    own_rows: Tensor | None = None,
    block_rows: int = BLOCK_ROWS,
) -> tuple[Tensor, Tensor]:
    """Find the features with the largest cosine similarity to each query, exactly.

    Args:
        features: (N, D).
        queries: (M, D) float32, of length 1.
        number: Number of neighbours K; all rows if there are fewer.
        own_rows: (M,) the row of each query, which is no neighbour of itself; None if the queries are not
            rows.
        block_rows: Rows compared at a time.

    Returns:
        Similarities (M, K), largest first, and rows (M, K); of equal ones the first row comes first.
    """
    count = len(queries)
    number = min(number, len(features) - (own_rows is not None))
    best = torch.empty(count, 0)
    rows = torch.empty(count, 0, dtype=torch.long)
    for start, block in blocks(features, block_rows):
        similarities = queries @ block.T
        if own_rows is not None:
            own = (own_rows >= start) & (own_rows < start + len(block))
            similarities[own, own_rows[own] - start] = -torch.inf
        top, indices = similarities.topk(min(number, len(block)), dim=1)
        indices, order = indices.sort(dim=1)  # topk leaves open which of equal values comes first
        best = torch.cat([best, top.gather(1, order)], dim=1)
        rows = torch.cat([rows, indices + start], dim=1)
        best, order = best.sort(dim=1, descending=True, stable=True)
        best, rows = best[:, :number], rows.gather(1, order)[:, :number]
    return best, rows


def is_exact(num_rows: int) -> bool:
    """Return True if :func:`neighbour_similarities` compares all pairs of so many rows."""
    return num_rows <= MAX_EXACT_ROWS or find_spec('faiss') is None


def neighbour_similarities(
    features: np.ndarray, number: int, progress: Callable[[int], object] = lambda rows: None
) -> Tensor:
    """Return the similarities (N, K) of all features to their nearest neighbours, largest first.

    All pairs are compared, in time N^2; above :data:`MAX_EXACT_ROWS` rows an inverted file of faiss, where
    it is installed, finds nearly all neighbours in a tenth of the comparisons.

    Args:
        features: (N, D), N at least 2.
        number: Number of neighbours K.
        progress: Called with the number of rows done.
    """
    search = _exact_search(features) if is_exact(len(features)) else _faiss_search(features)
    similarities = []
    for start, block in blocks(features, 1024):
        own_rows = torch.arange(start, start + len(block))
        similarities.append(search(block, number, own_rows))
        progress(len(block))
    return torch.cat(similarities)


def _exact_search(features: np.ndarray) -> Callable[[Tensor, int, Tensor], Tensor]:
    return lambda block, number, own_rows: nearest_rows(features, block, number, own_rows)[0]


def _faiss_search(features: np.ndarray) -> Callable[[Tensor, int, Tensor], Tensor]:
    """Return the search of an inverted file of sqrt(N) lists (Johnson et al., arXiv:1702.08734)."""
    import faiss

    lists = int(len(features) ** 0.5)
    size = features.shape[1]
    quantizer = faiss.IndexFlatIP(size)
    index = faiss.IndexIVFFlat(quantizer, size, lists, faiss.METRIC_INNER_PRODUCT)
    step = max(1, len(features) // (64 * lists))
    index.train(normalized(features[::step]).numpy())
    for _, block in blocks(features, BLOCK_ROWS):
        index.add(block.numpy())
    index.nprobe = max(1, int(_PROBED * lists))

    def search(block: Tensor, number: int, own_rows: Tensor) -> Tensor:
        similarities, rows = map(torch.from_numpy, index.search(block.numpy(), number + 1))
        similarities[(rows == own_rows[:, None]) | (rows < 0)] = -1.0
        return similarities.sort(dim=1, descending=True).values[:, :number]

    return search
