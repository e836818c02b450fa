"""Pairs of duplicates that several processes have found, each in its share of the rows."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmssl.checkpoint import write_json
from mmssl.evaluation.duplicates import Pair
from mmssl.evaluation.neighbours import BLOCK_ROWS


def rows_of_block(rows: int, world_size: int) -> int:
    """Return the size of the blocks of rows that processes take in turn: at least four for each."""
    return BLOCK_ROWS if world_size == 1 else max(1, min(BLOCK_ROWS, -(-rows // (4 * world_size))))


class RankResult(NamedTuple):
    """What a process has found.

    Attributes:
        pairs: Pairs of rows.
        pixels: Sizes of the images of the first file that are in pairs, by their rows.
        unreadable: Why images could not be read, by their paths.
    """

    pairs: list[Pair]
    pixels: dict[int, int]
    unreadable: dict[str, str]


class Parts:
    """Files of the pairs of each process, beside the output.

    Args:
        out: The output file.
        key: What the pairs depend on; parts of anything else are not used.
        world_size: Number of processes.
    """

    def __init__(self, out: str | os.PathLike, key: Sequence[Any], world_size: int):
        self.folder = Path(out).with_name(f'.{Path(out).name}.parts')
        self.key = hashlib.blake2b(repr(key).encode(), digest_size=8).hexdigest()
        self.world_size = world_size

    def read(self, rank: int) -> RankResult | None:
        """Return what a process has found; None if it has not finished."""
        try:
            content = json.loads(self._file(rank).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        if content['key'] != self.key:
            return None
        pixels = {int(row): count for row, count in content['pixels'].items()}
        return RankResult([Pair(*pair) for pair in content['pairs']], pixels, content['unreadable'])

    def write(self, rank: int, result: RankResult) -> None:
        """Write what a process has found."""
        content = dict(key=self.key, pairs=result.pairs, pixels=result.pixels, unreadable=result.unreadable)
        write_json(self._file(rank), content, indent=None)

    def merge(self) -> RankResult | None:
        """Return what all processes have found; None if one of them has not finished."""
        parts = [self.read(rank) for rank in range(self.world_size)]
        finished = [part for part in parts if part is not None]
        if len(finished) < len(parts):
            return None
        pairs = sorted(pair for part in finished for pair in part.pairs)
        pixels = {row: count for part in finished for row, count in part.pixels.items()}
        unreadable = {path: reason for part in finished for path, reason in part.unreadable.items()}
        return RankResult(pairs, pixels, unreadable)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for other processes that are in this block."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / 'lock', 'w') as file:
            with contextlib.suppress(ImportError):  # not on this system
                import fcntl

                fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def remove(self) -> None:
        """Remove the files, once the output is written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, rank: int) -> Path:
        return self.folder / f'{rank}-of-{self.world_size}.json'
