"""Images that training and validation share: leakage, which makes the measured accuracy too high."""

import os
from collections.abc import Callable, Sequence

import numpy as np

from mmssl.apis.duplicates import Duplicates, Fingerprints, progress_line
from mmssl.apis.feature_images import rows_of_paths
from mmssl.data.url_paths import absolute_path
from mmssl.evaluation.duplicates import (
    SIMILARITY,
    Fingerprint,
    Pair,
    candidate_pairs,
    confirm,
    matching_pairs,
)
from mmssl.evaluation.feature_files import FeatureSet, read_features


def find_leaks(
    train: Sequence[str],
    val: Sequence[str],
    features: str | os.PathLike | None = None,
    progress: bool = False,
) -> Duplicates:
    """Find the images of one part that are in another part, too, also re-encoded, resized, mirrored or cut.

    Args:
        train: Paths of the training images.
        val: Paths of the validation images.
        features: A file of :func:`mmssl.apis.embed` with the images of both parts, which gives the candidates
            of many images; without it, perceptual hashes of all pairs are compared.
        progress: Show a progress line.

    Returns:
        Pairs of a training and a validation image with the cosine similarity of their features, or without
        features the fraction of equal bits of their hashes; ``dropped`` are the training images among them.

    Raises:
        FileNotFoundError: An image, or the file of features, does not exist.
        ValueError: The features do not name all images.
        ImportError: imagehash is not installed.

    Examples:
        >>> from mmssl.apis.leaks import find_leaks
        >>> find_leaks(['train/1.jpg'], ['val/1.jpg']).pairs
    """
    train, val = (list(dict.fromkeys(map(absolute_path, paths))) for paths in (train, val))
    unreadable: dict[str, str] = {}
    train_prints, val_prints = Fingerprints(train, unreadable), Fingerprints(val, unreadable)
    with progress_line(len(train) if features else len(train) + len(val), progress) as advance:
        if features is None:
            pairs = sorted(matching_pairs(_all(train_prints, advance), _all(val_prints, advance)))
        else:
            content = read_features(features)
            ours, theirs = (_rows(content, paths, features) for paths in (train, val))
            candidates = candidate_pairs(ours, theirs, SIMILARITY, progress=advance)
            pairs = sorted(confirm(candidates, train_prints, val_prints))
    named = [(train[pair.first], val[pair.second], pair.similarity) for pair in pairs]
    return Duplicates(named, _first_images(pairs, train), list(unreadable.values()))


def _all(prints: Fingerprints, advance: Callable[[int], object]) -> list[Fingerprint | None]:
    """Return the fingerprints of all images; None for those that cannot be read."""
    prints_of_images = []
    for row in range(len(prints.paths)):
        prints_of_images.append(prints(row))
        advance(1)
    return prints_of_images


def _rows(content: FeatureSet, paths: Sequence[str], source: str | os.PathLike) -> np.ndarray:
    """Return the features (N, D) of images, in their order."""
    known = rows_of_paths(paths, content.paths, os.fspath(source))
    index = {absolute_path(content.paths[row]): row for row in known}
    missing = [path for path in paths if path not in index]
    if missing:
        raise ValueError(
            f'{source} has no features of {len(missing)} of {len(paths)} images, such as {missing[0]}; make '
            'it from both parts: mmssl embed ... --data TRAIN VAL'
        )
    return content.features[[index[path] for path in paths]]


def _first_images(pairs: Sequence[Pair], train: Sequence[str]) -> list[str]:
    return [train[row] for row in sorted({pair.first for pair in pairs})]
