"""The model of a file of features: reads images and computes their features."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from mmssl.apis.features import FeatureInferencer
from mmssl.apis.models import read_config, scope_of
from mmssl.data.reader_settings import reader_settings
from mmssl.data.transforms import LoadCenterCrop
from mmssl.errors import BadImageError
from mmssl.evaluation.features import extract_features, image_size_of


@dataclass
class EmbedOptions:
    """How features are computed.

    Attributes:
        pool: 'avg', 'cls' or 'patch', see :func:`mmssl.evaluation.features.pool_features`; None for the class
            token of a backbone that returns only that, and 'avg' otherwise.
        image_size: Side of the central crop in pixels; that of the backbone or of the training crops if None.
        batch_size: Images per forward pass.
        workers: Processes that read images.
        device: 'cpu', 'cuda', 'cuda:1', ...; a GPU if there is one when None.
        cfg_options: ``KEY=VALUE`` overrides of the config.
        seed: Seed of random weights.
        trust: Load a checkpoint that contains pickled code.
        progress: Show a progress line.
        rank: Which of the processes this is; that of ``torchrun`` if None.
        world_size: Number of processes; that of ``torchrun``, or 1, if None.
    """

    pool: str | None = None
    image_size: int | None = None
    batch_size: int = 64
    workers: int = 2
    device: Any = None
    cfg_options: Sequence[str] = ()
    seed: int = 0
    trust: bool = False
    progress: bool = False
    rank: int | None = None
    world_size: int | None = None

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f'batch_size={self.batch_size} must be at least 1')
        if self.workers < 0:
            raise ValueError(f'workers={self.workers} must be at least 0')
        if self.rank is None or self.world_size is None:
            self.rank, self.world_size = int(os.environ.get('RANK', 0)), int(os.environ.get('WORLD_SIZE', 1))
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f'rank={self.rank} must be at least 0 and below world_size={self.world_size}')


class Features(NamedTuple):
    """Features of the images of a part.

    Attributes:
        features: (N, D), or (N, P, D) for patches; float32.
        indices: (N,) int64, the images that could be read.
        unreadable: Why others could not be read, a line each.
    """

    features: np.ndarray
    indices: np.ndarray
    unreadable: list[str]


class FeatureModel:
    """A backbone with the reader of its images, which reads them as ``mmssl knn`` does.

    Args:
        config: A name of :func:`mmssl.apis.list_models`, a path, or a ``mmengine.Config``.
        checkpoint: Weights of the model, or of its backbone; random if None.
        options: How features are computed.
    """

    def __init__(self, config: Any, checkpoint: str | os.PathLike | None, options: EmbedOptions):
        from mmengine.runner import set_random_seed

        self.options = options
        cfg = config_of(config, options)
        if checkpoint is None:
            set_random_seed(options.seed)
        with warnings.catch_warnings():
            if checkpoint is None:  # as requested
                warnings.filterwarnings('ignore', message='.*random weights')
            inferencer = FeatureInferencer(cfg, checkpoint, options.device, options.trust, options.pool)
        self.cfg = cfg
        self.model = inferencer.model
        image_size = options.image_size or image_size_of(self.model, cfg)
        self.crop = LoadCenterCrop(scale=image_size, **reader_settings(cfg))

    def parts(self, paths: Sequence[str], parts: Sequence[range]) -> Iterator[Features]:
        """Yield the features of parts of images; the batches of a part do not depend on other parts.

        Args:
            paths: Paths of all images.
            parts: Indices of the images of each part.

        Raises:
            FileNotFoundError: An image does not exist.
        """
        size = self.options.batch_size
        batches = [part[start : start + size] for part in parts for start in range(0, len(part), size)]
        loader = DataLoader(
            _Images(paths, self.crop),
            batch_sampler=batches,
            num_workers=min(self.options.workers, len(batches)),
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(0),
        )
        loaded = iter(loader)
        for part in parts:
            unreadable: list[str] = []
            count = -(-len(part) // size)
            with scope_of(self.cfg):
                features, indices = extract_features(
                    self.model,
                    _without_reasons(loaded, count, unreadable),
                    self.options.pool,
                    progress=False,
                    may_be_empty=True,
                )
            yield Features(features.numpy(), indices.numpy(), unreadable)

    def __call__(self, paths: Sequence[str]) -> np.ndarray:
        """Return the features of images, in their order.

        Raises:
            BadImageError: An image cannot be read.
        """
        (part,) = self.parts(paths, [range(len(paths))])
        if part.unreadable:
            raise BadImageError(part.unreadable[0])
        return part.features


def config_of(config: Any, options: EmbedOptions) -> Any:
    """Return the config with its overrides."""
    from mmssl.config.load import load_config

    if isinstance(config, (str, os.PathLike)) and options.cfg_options:
        return load_config(os.fspath(config), list(options.cfg_options))
    return read_config(config)[0]


class _Images(Dataset):
    """Crops (3, S, S), uint8, BGR, with their index, or the index and why the image cannot be read."""

    def __init__(self, paths: Sequence[str], crop: LoadCenterCrop):
        self.paths = paths
        self.crop = crop

    def __getitem__(self, index: int) -> tuple[Tensor | str, int]:
        try:
            pixels = self.crop(dict(img_path=self.paths[index]))['img']
        except BadImageError as error:
            return str(error), index
        return torch.from_numpy(pixels.copy()).permute(2, 0, 1), index


def _collate(samples: Iterable[tuple[Tensor | str, int]]) -> tuple[Tensor, Tensor, list[str]]:
    images = [image for image, _ in samples if isinstance(image, Tensor)]
    indices = torch.tensor([index for image, index in samples if isinstance(image, Tensor)], dtype=torch.long)
    reasons = [image for image, _ in samples if isinstance(image, str)]
    return torch.stack(images) if images else torch.empty(0, 3, 1, 1, dtype=torch.uint8), indices, reasons


def _without_reasons(loaded: Iterator, count: int, unreadable: list[str]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the next batches; append what is unreadable to a list."""
    for _ in range(count):
        images, indices, reasons = next(loaded)
        unreadable += reasons
        yield images, indices
