"""Duplicates among the images of a file of features, or between two files."""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mmssl.apis.duplicates_parts import Parts, RankResult, rows_of_block
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
        complete: False if these are only those of one of several processes; the last one merges all.
    """

    pairs: list[tuple[str, str, float]]
    dropped: list[str]
    unreadable: list[str]
    complete: bool = True


def find_duplicates(
    features: str | os.PathLike,
    other: str | os.PathLike | None = None,
    threshold: float = SIMILARITY,
    out: str | os.PathLike | None = None,
    drop: str | os.PathLike | None = None,
    sheet: str | os.PathLike | None = None,
    progress: bool = False,
    **processes: int,
) -> Duplicates:
    """Find exact and near duplicates: images re-encoded, resized, mirrored or cut by up to 5 %.

    Candidates have similar features; a perceptual hash of their pixels confirms them, so that images of the
    same kind are no duplicates. Several processes, each with its ``rank``, take turns at the rows, and the
    last to finish merges the pairs; a process that was killed is started again. They need no connection, but
    a common file system.

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
        **processes: rank, which of the processes this is, and world_size, their number.

    Raises:
        FileNotFoundError: There is no such file, or the images have moved.
        ValueError: The files are of different models, or the threshold is out of range.
        ImportError: imagehash is not installed.

    Examples:
        >>> from mmssl.apis import find_duplicates
        >>> find_duplicates('train.parquet', 'val.parquet').pairs
    """
    rank, world_size = _rank_and_size(**processes)
    if not -1 <= threshold <= 1:
        raise ValueError(f'threshold={threshold} must be a cosine similarity, from -1 to 1')
    first = read_features(features)
    second = first if other is None else read_features(other)
    _check_same_model(first, second, features, other)
    unreadable: dict[str, str] = {}
    first_prints = Fingerprints(first.paths, unreadable)
    second_prints = first_prints if other is None else Fingerprints(second.paths, unreadable)

    def compare() -> RankResult:
        with progress_line(len(first.paths), progress and rank == 0) as advance:
            candidates = candidate_pairs(
                first.features,
                None if other is None else second.features,
                threshold,
                block_rows=rows_of_block(len(first.paths), world_size),
                progress=advance,
                turn=(rank, world_size),
            )
            pairs = sorted(confirm(candidates, first_prints, second_prints))
        pixels = {row: each.pixels for row, each in first_prints.cache.items()}
        rows = {row for pair in pairs for row in (pair[:2] if other is None else pair[:1])}
        return RankResult(pairs, {row: pixels[row] for row in rows}, unreadable)

    def write(result_of_rank: RankResult) -> Duplicates:
        result = _named(result_of_rank, first, second, other is None)
        if sheet is not None:
            draw_pairs(sheet, result)
        if drop is not None:
            write_list(drop, result.dropped)
        if out is not None:
            write_json(out, dict(pairs=[list(pair) for pair in result.pairs]))
        return result

    if world_size == 1:
        return write(compare())
    if out is None:
        raise ValueError(f'{world_size} processes need a file to merge into: give out')
    key = [first.paths, second.paths, first.description, second.description, threshold]
    parts = Parts(out, key, world_size)
    result_of_rank = parts.read(rank) or compare()
    parts.write(rank, result_of_rank)
    with parts.alone():
        merged = parts.merge()
        if merged is None:
            return _named(result_of_rank, first, second, other is None)._replace(complete=False)
        result = write(merged)
        parts.remove()
    return result


def _rank_and_size(rank: int = 0, world_size: int = 1) -> tuple[int, int]:
    return rank, world_size


def _named(result: RankResult, first: FeatureSet, second: FeatureSet, is_single: bool) -> Duplicates:
    """Return the pairs with the paths of their rows."""
    if is_single:
        dropped = rows_to_drop(result.pairs, lambda row: result.pixels[row])
    else:
        dropped = sorted({pair.first for pair in result.pairs})
    pairs = [(first.paths[pair.first], second.paths[pair.second], pair.similarity) for pair in result.pairs]
    return Duplicates(pairs, [first.paths[row] for row in dropped], list(result.unreadable.values()))


class Fingerprints:
    """Fingerprints of images, made when first compared.

    Args:
        paths: Paths of the images.
        unreadable: Receives why images cannot be read, by their paths.
    """

    def __init__(self, paths: Sequence[str], unreadable: dict[str, str]):
        self.paths = paths
        self.unreadable = unreadable
        self.cache: dict[int, Fingerprint] = {}

    def __call__(self, row: int) -> Fingerprint | None:
        """Return the fingerprint of an image; None if it cannot be read."""
        path = self.paths[row]
        if row not in self.cache and path not in self.unreadable:
            try:
                self.cache[row] = fingerprint(read_picture(path))
            except BadImageError as error:
                self.unreadable[path] = str(error)
        return self.cache.get(row)


@contextlib.contextmanager
def progress_line(total: int, shown: bool) -> Iterator[Callable[[int], object]]:
    """Show a line of the images that are compared; yields what advances it by a number of images."""
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


def draw_pairs(sheet: str | os.PathLike, result: Duplicates) -> None:
    """Write a contact sheet of the first pairs."""
    tiles = [
        ((first, second), f'{similarity:.3f}', f'{Path(first).name}, {Path(second).name}')
        for first, second, similarity in result.pairs[:MAX_TILES]
    ]
    shown = '' if len(result.pairs) <= MAX_TILES else f', the first {MAX_TILES} pairs'
    write_sheet(sheet, tiles, f'{len(result.pairs)} pairs of duplicates{shown}', columns=4)
