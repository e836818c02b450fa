"""Data loaders in which every sample is seeded by its position in the stream."""

import copy
import functools

import torch
from mmengine.dist import get_rank, get_world_size, sync_random_seed
from mmengine.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS
from mmengine.runner import Runner as MMEngineRunner
from mmengine.runner.runner import _SlicedDataset
from torch.utils.data import DataLoader, IterableDataset

from mmssl.data.photometric import refuse_color_changes
from mmssl.engine import seeding
from mmssl.engine.workers import StartWorker, WorkerBoard

_WORKER_OPTIONS = ('persistent_workers', 'prefetch_factor', 'multiprocessing_context')


def build_dataloader(dataloader, seed: int | None = None, diff_rank_seed: bool = False) -> DataLoader:
    """Build a data loader as mmengine does, with every sample seeded by its position in the stream.

    Args:
        dataloader: Settings of a data loader, or a built one, which is returned unchanged. ``pin_memory`` is
            True by default; without CUDA it is False.
        seed: The run's seed.
        diff_rank_seed: Whether ``seed`` differs from rank to rank (by the rank); the order of samples is then
            still the same on all ranks.

    Raises:
        ValueError: The data set is empty, or too small for one batch, or a pipeline changes the colors of
            images that are not 8-bit RGB.
    """
    if isinstance(dataloader, DataLoader):
        return dataloader
    refuse_color_changes(dataloader)
    cfg = _without_worker_options(dict(copy.deepcopy(dataloader)))
    # the only place that sets it: pinned memory needs CUDA, and torch warns where there is none
    cfg['pin_memory'] = cfg.get('pin_memory', True) and torch.cuda.is_available()
    dataset = _build_dataset(cfg['dataset'])
    if isinstance(dataset, IterableDataset) or not isinstance(cfg.get('sampler'), dict):
        return MMEngineRunner.build_dataloader({**cfg, 'dataset': dataset}, seed, diff_rank_seed)
    if not len(dataset):
        raise _empty(_source(dataset))
    batches = cfg.pop('num_batch_per_epoch', None)
    batch_size = cfg.get('batch_size', (cfg.get('batch_sampler') or {}).get('batch_size'))
    if batches is not None:
        dataset = _SlicedDataset(dataset, batches * batch_size * get_world_size())
    board = WorkerBoard(dataset, cfg['num_workers']) if cfg.get('num_workers') else None
    cfg['dataset'] = seeding.SeededDataset(dataset, board)
    common_seed = _common_seed(seed, diff_rank_seed)
    _seed_samplers(cfg, common_seed)
    cfg['collate_fn'] = seeding.SeededCollate(_build_collate(cfg), cfg['dataset'])

    loader = MMEngineRunner.build_dataloader(cfg, seed, diff_rank_seed)
    if not len(loader) and not seeding.is_endless(loader):
        raise ValueError(
            f'{len(dataset)} samples of {_source(dataset)} make no batch of {batch_size} on each of '
            f'{get_world_size()} rank(s); lower batch_size, or set drop_last=False'
        )
    # an iterator draws one number when it is created; from the global generator that would shift the model's
    # draws after every epoch
    loader.generator = torch.Generator().manual_seed(seeding.mix(common_seed, get_rank()) >> 1)
    if board is not None:
        loader.worker_init_fn = StartWorker(board, loader.worker_init_fn)
    return loader


def _without_worker_options(cfg: dict) -> dict:
    """Drop the options that torch refuses without worker processes."""
    if cfg.get('num_workers'):
        return cfg
    return {name: value for name, value in cfg.items() if name not in _WORKER_OPTIONS}


def _build_dataset(dataset):
    if not isinstance(dataset, dict):
        return dataset
    try:
        built = DATASETS.build(dataset)
        if hasattr(built, 'full_init'):
            built.full_init()
    except ValueError as error:
        # NumPy's message when mmengine packs a list of no entries
        if 'need at least one array' not in str(error):
            raise
        source = ' of '.join(str(dataset[key]) for key in ('ann_file', 'data_root') if dataset.get(key))
        raise _empty(source) from error
    return built


def _common_seed(seed: int | None, diff_rank_seed: bool) -> int:
    """Return the seed of the samplers, which is equal on all ranks.

    mmengine draws it from NumPy's generator, whose state at this point differs after a resume.
    """
    if seed is None:
        return sync_random_seed()
    return seed - get_rank() if diff_rank_seed else seed


def _seed_samplers(cfg: dict, seed: int) -> None:
    """Replace the settings of the samplers by built ones that pass seeds on and can start in the middle."""
    sampler = DATA_SAMPLERS.build(cfg['sampler'], default_args=dict(dataset=cfg['dataset'], seed=seed))
    cfg['sampler'] = sampler = seeding.SeededSampler(sampler, seed)
    if isinstance(cfg.get('batch_sampler'), dict):
        default_args = dict(sampler=sampler, batch_size=cfg.pop('batch_size', None))
        batch_sampler = DATA_SAMPLERS.build(cfg['batch_sampler'], default_args=default_args)
        cfg['batch_sampler'] = seeding.SkippingBatchSampler(batch_sampler)


def _build_collate(cfg: dict):
    collate = cfg.pop('collate_fn', dict(type='pseudo_collate'))
    if not isinstance(collate, dict):
        return collate
    arguments = {key: value for key, value in collate.items() if key != 'type'}
    function = FUNCTIONS.get(collate['type']) if isinstance(collate['type'], str) else collate['type']
    return functools.partial(function, **arguments)


def _source(dataset) -> str:
    """Return the annotation file, folder or class of a data set, for messages."""
    return str(
        getattr(dataset, 'ann_file', '') or getattr(dataset, 'data_root', '') or type(dataset).__name__
    )


def _empty(source: str) -> ValueError:
    return ValueError(f'the data set {source} is empty: no image, or none with objects, is left of it')
