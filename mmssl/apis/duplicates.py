"""Duplicates among the images of a file of features, or between two files."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mmssl.apis.feature_images import read_picture, write_list, write_sheet
from mmssl.apis.neighbours import MODEL_KEYS
from mmssl.checkpoint import write_json
from mmssl.errors import BadImageError
from mmssl.evaluation.duplicates import (
    SIMILARITY,
    Fingerprint,
    candidate_pairs,
    confirm,
    fingerprint,
    rows_to_drop,
)
from mmssl.evaluation.feature_files import FeatureSet, read_features

MAX_TILES = 400


class Duplicates(NamedTuple):
    """Pairs of duplicates.

    Attributes:
        pairs: (path, path, cosine similarity of their features), sorted by path.
        dropped: Paths without which no duplicates are left; of two files, of the first.
        unreadable: Why candidates could not be compared, a line each.
    """

    pairs: list[tuple[str, str, float]]
    dropped: list[str]
    unreadable: list[str]


def find_duplicates(
    features: str | os.PathLike,
    other: str | os.PathLike | None = None,
    threshold: float = SIMILARITY,
    out: str | os.PathLike | None = None,
    drop: str | os.PathLike | None = None,
    sheet: str | os.PathLike | None = None,
    progress: bool = False,
) -> Duplicates:
    """Find exact and near duplicates: images re-encoded, resized, mirrored or cut by up to 5 %.

    Candidates have similar features; a perceptual hash of their pixels confirms them, so that images of the
    same kind are no duplicates.

    Args:
        features: A file of :func:`mmssl.apis.embed`.
        other: A second one of the same model: pairs between both are found, such as validation images among
            those for training.
        threshold: Smallest cosine similarity of candidates, from -1 to 1.
        out: JSON file to write, ``{"pairs": [[path, path, similarity], ...]}``.
        drop: List file to write with the images to remove: all but the largest of each group, or, with two
            files, the images of ``features`` that ``other`` has too.
        sheet: PNG file with the first pairs to write.
        progress: Show a progress line.

    Raises:
        FileNotFoundError: There is no such file, or the images have moved.
        ValueError: The files are of different models, or the threshold is out of range.
        ImportError: imagehash is not installed.

    Examples:
        >>> from mmssl.apis import find_duplicates
        >>> find_duplicates('train.parquet', 'val.parquet').pairs
    """
    if not -1 <= threshold <= 1:
        raise ValueError(f'threshold={threshold} must be a cosine similarity, from -1 to 1')
    first = read_features(features)
    second = first if other is None else read_features(other)
    _check_same_model(first, second, features, other)
    unreadable: dict[str, str] = {}
    first_prints = _Fingerprints(first.paths, unreadable)
    second_prints = first_prints if other is None else _Fingerprints(second.paths, unreadable)
    with _progress_line(len(first.paths), progress) as advance:
        candidates = candidate_pairs(
            first.features, None if other is None else second.features, threshold, progress=advance
        )
        confirmed = sorted(confirm(candidates, first_prints, second_prints))
    if other is None:
        dropped = rows_to_drop(confirmed, lambda row: first_prints.cache[row].pixels)
    else:
        dropped = sorted({pair.first for pair in confirmed})
    pairs = [(first.paths[pair.first], second.paths[pair.second], pair.similarity) for pair in confirmed]
    result = Duplicates(pairs, [first.paths[row] for row in dropped], list(unreadable.values()))
    if sheet is not None:
        _draw(sheet, result)
    if drop is not None:
        write_list(drop, result.dropped)
    if out is not None:
        write_json(out, dict(pairs=[list(pair) for pair in pairs]))
    return result


class _Fingerprints:
    """Fingerprints of images, made when first compared."""

    def __init__(self, paths: Sequence[str], unreadable: dict[str, str]):
        self.paths = paths
        self.unreadable = unreadable
        self.cache: dict[int, Fingerprint] = {}

    def __call__(self, row: int) -> Fingerprint | None:
        path = self.paths[row]
        if row not in self.cache and path not in self.unreadable:
            try:
                self.cache[row] = fingerprint(read_picture(path))
            except BadImageError as error:
                self.unreadable[path] = str(error)
        return self.cache.get(row)


@contextlib.contextmanager
def _progress_line(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    from tqdm import tqdm

    with tqdm(total=total, desc='comparing', unit='image', disable=not shown) as bar:
        yield bar.update


def _check_same_model(first: FeatureSet, second: FeatureSet, features: object, other: object) -> None:
    made_by = [{key: part.description.get(key) for key in MODEL_KEYS} for part in (first, second)]
    sizes = [part.features.shape[1] for part in (first, second)]
    is_known = first.description and second.description
    if sizes[0] != sizes[1] or (is_known and made_by[0] != made_by[1]):
        raise ValueError(
            f'{features} and {other} were made by different models, or different settings: '
            f'{sizes[0]} numbers, {made_by[0]}; {sizes[1]} numbers, {made_by[1]}'
        )


def _draw(sheet: str | os.PathLike, result: Duplicates) -> None:
    tiles = [
        ((first, second), f'{similarity:.3f}', f'{Path(first).name}, {Path(second).name}')
        for first, second, similarity in result.pairs[:MAX_TILES]
    ]
    shown = '' if len(result.pairs) <= MAX_TILES else f', the first {MAX_TILES} pairs'
    write_sheet(sheet, tiles, f'{len(result.pairs)} pairs of duplicates{shown}', columns=4)
