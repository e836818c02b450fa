"""Options of :func:`mmssl.apis.predict`."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mmssl.apis.loading import pick_device
from mmssl.apis.predict_models import Recipe
from mmssl.apis.predict_tiles import Tiling


@dataclass
class RunOptions:
    """How predictions are made.

    Attributes:
        device: 'cpu', 'cuda', 'cuda:1', ...; a GPU if there is one when None.
        workers: Processes, each with its own model; with 'cuda' distributed over the GPUs.
        cfg_options: ``KEY=VALUE`` overrides of the config.
        trust: Load a checkpoint that contains pickled code.
        progress: Show a progress line.
        calibrate: Folder or file of labels on which the thresholds of a detector are measured; None takes
            those that are given.
        precision: Share of the boxes above the measured thresholds that are right.
        keep_uncertain: Write boxes below the threshold, from a score of 0.1, as crowds, which are not
            trained on.
        tile: Side in pixels of the tiles that larger images are cut into; None predicts images whole.
        overlap: Pixels that neighbouring tiles share at least.
        every: Predict one of so many frames of videos.
        rank: Which of several processes this is; that of ``torchrun`` if None.
        world_size: Number of processes; that of ``torchrun``, or 1, if None.
    """

    device: Any = None
    workers: int = 1
    cfg_options: Sequence[str] = ()
    trust: bool = False
    progress: bool = False
    calibrate: str | None = None
    precision: float = 0.95
    keep_uncertain: bool = False
    tile: int | None = None
    overlap: int = 128
    every: int = 1
    rank: int | None = None
    world_size: int | None = None

    def __post_init__(self):
        if self.workers < 1:
            raise ValueError(f'workers={self.workers} must be at least 1')
        if self.rank is None or self.world_size is None:
            self.rank, self.world_size = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f'rank={self.rank} must be at least 0 and below world_size={self.world_size}')
        if self.tiling:
            self.tiling.check()

    @property
    def tiling(self) -> Tiling | None:
        """The tiles; None for whole images."""
        return None if self.tile is None else Tiling(self.tile, self.overlap)

    @property
    def part(self) -> tuple[int, int]:
        """Number of this process, from 1, and number of processes."""
        assert self.rank is not None and self.world_size is not None
        return self.rank + 1, self.world_size

    def recipe(self, config: Any, checkpoint: str | os.PathLike | None, with_confidence: bool) -> Recipe:
        """Return the recipe of a model with these options."""
        path = None if checkpoint is None else os.path.expanduser(os.fspath(checkpoint))
        device, options = str(pick_device(self.device)), tuple(self.cfg_options)
        return Recipe(config, path, options, self.trust, device, self.tiling, with_confidence)
