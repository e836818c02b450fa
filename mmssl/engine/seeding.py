"""Random numbers of the input path that depend only on the position in the sample stream.

mmengine seeds each worker once, so that what a sample draws depends on the number of workers, on how far they
have read ahead and on where a run was stopped. Here every sample carries its own seed, a hash of (seed,
epoch, position in the stream of all ranks), from which the generators of Python, NumPy and torch are set
before the sample is read.
"""

import random
from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, get_worker_info

from mmssl.engine.workers import WorkerBoard, fetch

_MASK = (1 << 64) - 1


def mix(*values: int) -> int:
    """Hash integers to 64 bits, so that neighbouring inputs give unrelated outputs.

    This is the finaliser of SplitMix64 (Steele et al., 2014).
    """
    state = 0
    for value in values:
        state = (state + int(value) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


class SeededIndex(int):
    """Index into a data set with the seed of everything random about this sample.

    Args:
        index: The index.
        seed: 64 bits.
    """

    seed: int

    def __new__(cls, index: int, seed: int):
        seeded = super().__new__(cls, index)
        seeded.seed = seed
        return seeded

    def __getnewargs__(self):
        return int(self), self.seed


class SeededGenerators:
    """Context in which the CPU generators are seeded; in the main process they are restored at its end.

    CUDA generators are not changed: data is made on the CPU, and the model's dropout must not restart at
    every sample.

    Args:
        seed: 64 bits.
    """

    def __init__(self, seed: int):
        self.seed = seed
        self.saved: tuple | None = None

    def __enter__(self):
        if get_worker_info() is None:
            self.saved = random.getstate(), np.random.get_state(), torch.get_rng_state()
        random.seed(self.seed)
        np.random.seed(mix(self.seed, 1) & 0xFFFFFFFF)
        torch.default_generator.manual_seed(mix(self.seed, 2) >> 1)

    def __exit__(self, *error):
        if self.saved is not None:
            random.setstate(self.saved[0])
            np.random.set_state(self.saved[1])
            torch.set_rng_state(self.saved[2])


class _Delegate:
    """Base of wrappers that pass attributes, read and written, on to the part they wrap.

    So hooks that switch a pipeline or count classes work on the wrapper.
    """

    # attributes of the wrapper itself; the first is the wrapped part
    _own: tuple[str, ...] = ()

    def __getattr__(self, name: str):
        # dunder names would bypass the wrapper: a data set's __getitems__ would fetch a batch without seeds
        if name.startswith('__') or name in self._own:
            raise AttributeError(name)
        return getattr(getattr(self, self._own[0]), name)

    def __setattr__(self, name: str, value) -> None:
        if name in self._own:
            object.__setattr__(self, name, value)
        else:
            setattr(getattr(self, self._own[0]), name, value)

    def __deepcopy__(self, memo):
        # mmengine deep-copies the config that contains the built part; copying a dataset would double it and
        # break open archives
        return self


class SeededDataset(_Delegate, Dataset):
    """Data set whose randomness is seeded by the index: ``dataset[SeededIndex(3, seed)]``.

    A plain index draws from the global generators.

    Args:
        dataset: Any map-style data set.
        board: Board on which workers note what they read.
    """

    _own = ('dataset', 'last_seed', 'board')

    def __init__(self, dataset, board: WorkerBoard | None = None):
        self.dataset = dataset
        self.last_seed: int | None = None
        self.board = board

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index):
        if not isinstance(index, SeededIndex):
            return self.dataset[index]
        self.last_seed = index.seed
        with SeededGenerators(index.seed):
            return fetch(self.dataset, self.board, int(index))


class SeededCollate:
    """Collate function whose own randomness (MixUp of a batch) is seeded by the batch's last sample.

    Args:
        collate_fn: List of samples -> batch.
        dataset: Data set of the samples, in the same process.
    """

    def __init__(self, collate_fn, dataset: SeededDataset):
        self.collate_fn = collate_fn
        self.dataset = dataset

    def __call__(self, samples):
        worker = get_worker_info()
        seed = (self.dataset if worker is None else worker.dataset).last_seed
        if seed is None:
            return self.collate_fn(samples)
        with SeededGenerators(mix(seed, 3)):
            return self.collate_fn(samples)


class SeededSampler(_Delegate, Sampler):
    """Sampler whose indices carry seeds, and which can start in the middle.

    Args:
        sampler: Any sampler; its ``rank`` and ``world_size`` are used if it has them. Items that are not
            integers pass unchanged.
        seed: The run's seed, the same on all ranks.
    """

    _own = ('sampler', 'stream_seed', 'stream_epoch', 'start')

    def __init__(self, sampler, seed: int):
        self.sampler = sampler
        self.stream_seed = seed
        self.stream_epoch = 0
        self.start = 0

    @property
    def endless(self) -> bool:
        """Whether a pass never ends, as of mmengine's InfiniteSampler, the only one with ``skip``."""
        return hasattr(self.sampler, 'skip')

    def __len__(self) -> int:
        return len(self.sampler)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next pass."""
        self.stream_epoch = epoch
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(epoch)

    def skip(self, num_samples: int) -> None:
        """Let the next pass begin after ``num_samples`` of this rank's samples.

        Raises:
            ValueError: ``num_samples`` is negative.
        """
        if num_samples < 0:
            raise ValueError(f'cannot skip {num_samples} samples; give 0 or more')
        self.start = num_samples
        if self.endless:
            self.sampler.skip(num_samples)

    def __iter__(self) -> Iterator:
        start = self.start
        self.start = 0
        indices = iter(self.sampler)
        if start and not self.endless:
            indices = islice(indices, start, None)
        rank = getattr(self.sampler, 'rank', 0)
        world_size = getattr(self.sampler, 'world_size', 1)
        for position, index in enumerate(indices, start):
            if isinstance(index, (int, np.integer)):
                yield SeededIndex(
                    int(index), mix(self.stream_seed, self.stream_epoch, position * world_size + rank)
                )
            else:
                yield index


class SkippingBatchSampler(_Delegate):
    """Batch sampler (by aspect ratio, from several sources, ...) that can skip its first batches.

    Args:
        batch_sampler: Yields lists of indices.
    """

    _own = ('batch_sampler', 'start')

    def __init__(self, batch_sampler):
        self.batch_sampler = batch_sampler
        self.start = 0

    def __len__(self) -> int:
        return len(self.batch_sampler)

    def skip_batches(self, num_batches: int) -> None:
        """Skip the first ``num_batches`` batches of the next pass, without reading them."""
        self.start = num_batches

    def __iter__(self) -> Iterator[list]:
        # lazily: an iterator with workers begins two passes and uses the second
        start = self.start
        self.start = 0
        yield from islice(iter(self.batch_sampler), start, None)


def skip_in_epoch(dataloader, num_batches: int) -> bool:
    """Let the next pass over a data loader begin at a later batch, without loading the ones before.

    Args:
        dataloader: Loader from :func:`mmssl.engine.dataloader.build_dataloader`.
        num_batches: Batches of this rank to skip.

    Returns:
        False if the loader's sampler cannot skip.
    """
    batch_sampler = dataloader.batch_sampler
    if isinstance(batch_sampler, SkippingBatchSampler):
        batch_sampler.skip_batches(num_batches)
    elif isinstance(dataloader.sampler, SeededSampler):
        dataloader.sampler.skip(num_batches * dataloader.batch_size)
    else:
        return False
    return True


def set_epoch(dataloader, epoch: int) -> None:
    """Choose the epoch of the next pass, on the sampler that has epochs."""
    for sampler in (dataloader.sampler, getattr(dataloader.batch_sampler, 'sampler', None)):
        if sampler is not None and hasattr(sampler, 'set_epoch'):
            sampler.set_epoch(epoch)
            return


def is_endless(dataloader) -> bool:
    """Whether a pass over a data loader never ends; its position then counts from the first step."""
    sampler = getattr(dataloader.batch_sampler, 'sampler', dataloader.sampler)
    return hasattr(sampler, 'endless') and sampler.endless
