"""Confidence intervals by the bootstrap over images (Efron and Tibshirani, 1993, chapter 13)."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

LEVEL = 0.95
RESAMPLES = 1000
# resamples that are scored at once
_CHUNK = 100


def resample_counts(num_images: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield how often each image is drawn, with replacement, as many as there are.

    Args:
        num_images: N.
        resamples: Number of resamples.
        seed: Seed of the draws.

    Yields:
        (B, N) float64, for up to 100 resamples at a time.
    """
    generator = np.random.default_rng(seed)
    uniform = np.full(num_images, 1 / num_images)
    for start in range(0, resamples, _CHUNK):
        count = min(_CHUNK, resamples - start)
        yield generator.multinomial(num_images, uniform, size=count).astype(np.float64)


def percentile_interval(samples: np.ndarray, level: float = LEVEL) -> list:
    """Return the percentile interval of resampled scores.

    Args:
        samples: (B,) or (B, C); NaN for resamples in which a score does not exist.
        level: Coverage.

    Returns:
        [low, high], or a list of these for each class; None where no resample has the score.
    """
    if samples.ndim == 2:
        return [percentile_interval(column, level) for column in samples.T]
    known = samples[~np.isnan(samples)]
    if not len(known):
        return None  # type: ignore[return-value]
    tail = 50 * (1 - level)
    return [float(value) for value in np.percentile(known, [tail, 100 - tail])]


def bootstrap_intervals(
    scores: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    num_images: int,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the 95 % intervals of scores over images drawn with replacement.

    Args:
        scores: Takes (B, N) numbers of draws of each image and returns scores of (B,) or (B, C).
        num_images: N.
        resamples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        For each score [low, high], or a list of these for each class; None for all of them if there are fewer
        than two images, of which nothing follows.
    """
    chunks = [scores(counts) for counts in resample_counts(num_images, resamples, seed)]
    joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}
    if num_images < 2:
        return dict.fromkeys(joined)
    return {name: percentile_interval(samples) for name, samples in joined.items()}
