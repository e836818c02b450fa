"""mmengine's runners with an exact resume: N steps, stop and N more give bit for bit what 2N steps give (CPU, or deterministic kernels).

What the host leaves out is added: the state of every random generator of every rank, the position in the
    sample stream, and an input path
whose random draws do not depend on the workers (``mmssl.engine.seeding``).
"""

import copy
import functools
import os

import torch
from mmengine.dist import get_rank, get_world_size, sync_random_seed
from mmengine.registry import DATA_SAMPLERS, DATASETS, FUNCTIONS, RUNNERS
from mmengine.runner import EpochBasedTrainLoop
from mmengine.runner import FlexibleRunner as MMEngineFlexibleRunner
from mmengine.runner import Runner as MMEngineRunner
from mmengine.runner.runner import _SlicedDataset
from torch.utils.data import DataLoader, IterableDataset

from mmssl.checkpoint import find_resume_checkpoint, seed_from_checkpoint
from mmssl.engine import seeding
from mmssl.engine.method_hook import MethodHook
from mmssl.engine.run_state import (
    gather_rng_states,
    plain,
    plain_checkpoint,
    revive_message_hub,
    rng_state,
    seed_all,
    set_rng_state,
)
from mmssl.engine.signals import Stop, current
from mmssl.engine.stop import StopMixin
from mmssl.engine.workers import Board, StartWorker, dead_workers_named
from mmssl.layers.sync_bn import work_on_cpu


def build_dataloader(dataloader, seed: int | None = None, diff_rank_seed: bool = False) -> DataLoader:
    """mmengine's ``build_dataloader`` (the same arguments), with every sample seeded by its position in the stream.

    Args:
        dataloader: config of a data loader, or a built one, which is returned as it is.
        seed: the run's seed.
        diff_rank_seed: whether ``seed`` differs from rank to rank (by the rank); the order of samples is then
            still drawn alike.
    """
    if isinstance(dataloader, DataLoader):
        return dataloader
    cfg = dict(copy.deepcopy(dataloader))
    dataset = cfg['dataset']
    if isinstance(dataset, dict):
        settings = dataset
        try:
            dataset = DATASETS.build(dataset)
            if hasattr(dataset, 'full_init'):
                dataset.full_init()
        except ValueError as error:
            if 'need at least one array' not in str(
                error
            ):  # what mmengine's packing of no entries at all says
                raise
            raise _empty(
                ' of '.join(str(settings[key]) for key in ('ann_file', 'data_root') if settings.get(key))
            ) from error
    if isinstance(dataset, IterableDataset) or not isinstance(cfg.get('sampler'), dict):
        return MMEngineRunner.build_dataloader({**cfg, 'dataset': dataset}, seed, diff_rank_seed)
    if not len(dataset):
        raise _empty(_name(dataset))
    batches = cfg.pop('num_batch_per_epoch', None)
    batch_size = cfg.get('batch_size', (cfg.get('batch_sampler') or {}).get('batch_size'))
    if batches is not None:
        dataset = _SlicedDataset(dataset, batches * batch_size * get_world_size())
    board = Board(dataset, cfg['num_workers']) if cfg.get('num_workers') else None
    cfg['dataset'] = dataset = seeding.SeededDataset(dataset, board)

    # every rank must shuffle alike: the host would draw this from NumPy's generator, whose state at this
    # point differs after a resume
    common_seed = sync_random_seed() if seed is None else seed - get_rank() if diff_rank_seed else seed
    sampler = DATA_SAMPLERS.build(cfg['sampler'], default_args=dict(dataset=dataset, seed=common_seed))
    cfg['sampler'] = sampler = seeding.SeededSampler(sampler, common_seed)
    if isinstance(cfg.get('batch_sampler'), dict):
        default_args = dict(sampler=sampler, batch_size=cfg.pop('batch_size', None))
        cfg['batch_sampler'] = seeding.SkippingBatchSampler(
            DATA_SAMPLERS.build(cfg['batch_sampler'], default_args=default_args)
        )

    collate = cfg.pop('collate_fn', dict(type='pseudo_collate'))
    if isinstance(collate, dict):
        collate = dict(collate)
        function = collate.pop('type')
        collate = functools.partial(
            FUNCTIONS.get(function) if isinstance(function, str) else function, **collate
        )
    cfg['collate_fn'] = seeding.SeededCollate(collate, dataset)

    loader = MMEngineRunner.build_dataloader(cfg, seed, diff_rank_seed)
    if not len(loader) and not seeding.is_endless(loader):
        raise ValueError(
            f'{len(dataset)} samples of {_name(dataset)} make no batch of {batch_size} on each of {get_world_size()} rank(s); '
            'lower batch_size, or set drop_last=False'
        )
    # an iterator draws one number when it is made; from the global generator that would shift the model's
    # draws after every epoch
    loader.generator = torch.Generator().manual_seed(seeding.mix(common_seed, get_rank()) >> 1)
    if board is not None:
        loader.worker_init_fn = StartWorker(board, loader.worker_init_fn)
    return loader


def _name(dataset) -> str:
    """Where a data set comes from, for messages."""
    return str(
        getattr(dataset, 'ann_file', '') or getattr(dataset, 'data_root', '') or type(dataset).__name__
    )


def _empty(name: str) -> ValueError:
    return ValueError(f'the data set {name} is empty: no image, or none with objects, is left of it')


class ExactResumeMixin(StopMixin):
    """Adds to a runner of mmengine what its checkpoints lack, and an end in order when a signal comes. See the module."""

    build_dataloader = staticmethod(build_dataloader)
    # whether a step of training or testing is done: a run that fails before has nothing worth keeping
    started = False
    _resuming = False
    # what of a checkpoint waits for its moment: meta and gradients, then the states of the generators
    _pending: dict | None = None
    # (iteration, samples of all ranks before it), moved when a run goes on with another batch size
    _stream_base = (0, 0)

    def __init__(self, *args, **kwargs):
        if (kwargs.get('randomness') or {}).get('deterministic'):
            os.environ.setdefault(
                'CUBLAS_WORKSPACE_CONFIG', ':4096:8'
            )  # without it torch refuses matrix products on a GPU
        super().__init__(*args, **kwargs)

    def train(self):
        """Train; the seed of a run that is resumed is taken over before its samplers are built."""
        if self._resume:
            named = self._resume if isinstance(self._resume, str) else self._load_from
            path = named or find_resume_checkpoint(self.work_dir, quiet=True)
            if path is not None and os.path.exists(path):
                seed = seed_from_checkpoint(path)
                if seed is not None and seed != self.seed - (get_rank() if self._differing_seeds() else 0):
                    self.logger.info(f'the seed of the resumed run is {seed}')
                    self._adopt_seed(seed)
        if not any(isinstance(hook, MethodHook) for hook in self.hooks):
            self.register_hook(MethodHook())
        try:
            with (
                dead_workers_named(),
                dead_workers_named(),
            ):  # the news may come while the first looks at what it has done
                return super().train()
        except Stop as stop:
            if self._validating and not stop.saved:
                self._leave_validation(stop)
            raise
        finally:
            # an endless loader has workers to the last; collected in a cycle with the runner, each would be
            # waited for five seconds
            iterator = getattr(self._train_loop, 'dataloader_iterator', None)
            if iterator is not None and getattr(iterator, '_iterator', None) is not None:
                iterator._iterator = None

    def test(self):
        """Test; a worker that dies is named."""
        with dead_workers_named():
            return super().test()

    def _randomness(self) -> dict:
        strategy = getattr(self, 'strategy', None)
        return self._randomness_cfg if strategy is None else strategy._randomness

    def _differing_seeds(self) -> bool:
        return bool(self._randomness().get('diff_rank_seed', False))

    def _adopt_seed(self, seed: int) -> None:
        randomness = self._randomness()
        randomness.update(seed=seed)
        if hasattr(self, 'set_randomness'):
            self.set_randomness(**randomness)
        else:
            self.strategy._set_randomness(**randomness)

    def save_checkpoint(
        self, out_dir, filename, *args, meta: dict | None = None, by_epoch: bool = True, **kwargs
    ) -> None:
        """Save as the host does, with the states of the generators; every rank has to call it."""
        meta = dict(meta or {})
        meta.setdefault('epoch', self.epoch + 1 if by_epoch else self.epoch)
        meta.setdefault('iter', self.iter if by_epoch else self.iter + 1)
        state = self._rng_outside_validation or rng_state()
        if 'rng' not in meta:
            meta['rng'] = gather_rng_states(state)
        meta.update(world_size=get_world_size(), position=self._position(meta['epoch'], meta['iter']))
        self._saving = dict(epoch=meta['epoch'], iter=meta['iter'])
        super().save_checkpoint(out_dir, filename, *args, meta=meta, by_epoch=by_epoch, **kwargs)

    def _batch_size(self) -> int:
        loader = self.train_dataloader
        return loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 1)

    def _position(self, epoch: int, iteration: int) -> dict:
        """Where in the data a checkpoint stands: batches of the running epoch, or samples of all ranks since the first iteration."""
        batches = len(self.train_dataloader)
        position = dict(batch_size=self._batch_size(), world_size=get_world_size())
        if isinstance(self.train_loop, EpochBasedTrainLoop):
            return dict(
                position, batch=min(max(iteration - epoch * batches, 0), batches), batches_per_epoch=batches
            )
        first, samples = self._stream_base
        return dict(position, samples=samples + (iteration - first) * self._batch_size() * get_world_size())

    def resume(self, filename, *args, **kwargs) -> None:
        """Resume as the host does, then take up the position in the data; the generators are set when the first batch is due."""
        self._resuming = True
        try:
            super().resume(filename, *args, **kwargs)
        finally:
            self._resuming = False
        assert self._pending is not None
        meta, gradients = self._pending['meta'], self._pending['gradients']
        if gradients:
            self._set_gradients(gradients)
        at_boundary = self._take_position(meta.get('position'))
        if 'rng' not in meta:
            self.logger.warning(f'{filename} keeps no random states: the run goes on, but not bit for bit')
        self._pending = dict(at_boundary=at_boundary, rng=meta.get('rng'))
        self._validation_due = bool(meta.get('validation_due')) and self.val_loop is not None

    def _take_position(self, position: dict | None) -> bool:
        """Move the train loop's data to where the checkpoint stood; returns whether that is the beginning of an epoch."""
        loop, loader = self.train_loop, self.train_dataloader
        batch_size, world_size = self._batch_size(), get_world_size()
        if position is None:
            position = self._position(loop.epoch, loop.iter)
        then = (position['batch_size'], position['world_size'])
        changed = then != (batch_size, world_size)
        if changed:
            self.logger.warning(
                f'the checkpoint was written with batch size {then[0]} on {then[1]} rank(s), this run has {batch_size} on '
                f'{world_size}: it goes on at the same place in the data, but not bit for bit'
            )
        if 'batch' in position and isinstance(loop, EpochBasedTrainLoop):
            batch = position['batch']
            if changed or position['batches_per_epoch'] != len(loader):
                batch = min(batch * then[0] * then[1] // (batch_size * world_size), len(loader))
                loop._iter = loop.epoch * len(loader) + batch
            if batch and seeding.skip_in_epoch(loader, batch):
                run_iter = loop.run_iter
                loop.run_iter = lambda index, data_batch: run_iter(index + batch, data_batch)
            return batch == 0
        if 'samples' in position and hasattr(getattr(loop, 'dataloader_iterator', None), 'skip_iter'):
            self._stream_base = (loop.iter, position['samples'])
            iterator = loop.dataloader_iterator
            iterator.skip_iter = functools.partial(
                _skip_batches,
                iterator,
                loader,
                iterator.skip_iter,
                position['samples'] // (batch_size * world_size),
            )
        return False

    def _restore_generators(self, pending: dict) -> None:
        states, self._pending = pending['rng'], None
        if states is None:
            return
        if len(states) == get_world_size():
            set_rng_state(states[get_rank()])
        else:
            seed_all(seeding.mix(self.seed, self.iter, get_rank()))

    def call_hook(self, fn_name: str, **kwargs) -> None:
        """Call the hooks of one point, and do there what an exact resume needs."""
        if fn_name in ('after_train_iter', 'after_test_iter') and not self.started:
            self.started = True
            watch = current()
            if watch is not None:
                watch.immediate = False  # from here on there is something to save
        starting = fn_name == 'before_train_epoch'
        # hooks that draw at the beginning of an epoch have not run yet at an epoch's boundary, and have
        # within one
        if starting and self._pending is not None and self._pending['at_boundary']:
            self._restore_generators(self._pending)
        if fn_name in ('before_val', 'before_test'):
            self._rng_outside_validation = rng_state()
        if fn_name == 'before_val' and self.started:
            self._stop_before_validation()
        if fn_name == 'after_val_epoch' and self.started:
            self._set_validating(False)
        if fn_name == 'after_load_checkpoint':
            self._read_extras(kwargs['checkpoint'])
        super().call_hook(fn_name, **kwargs)
        if starting and self._pending is not None:
            self._restore_generators(self._pending)
        if fn_name in ('after_val', 'after_test'):
            # what validation draws must not show in training, for a run resumed after it does not validate
            # again
            assert self._rng_outside_validation is not None
            set_rng_state(self._rng_outside_validation)
            self._rng_outside_validation = None
        if fn_name == 'after_train_epoch':
            self.train_loop.__dict__.pop('run_iter', None)
        if fn_name == 'before_save_checkpoint':
            self._add_extras(kwargs['checkpoint'])
        if fn_name == 'before_train' and self._validation_due:
            assert self._pending is not None
            self._validation_due = False
            states = self._pending['rng']
            if states is not None and len(states) == get_world_size():
                set_rng_state(states[get_rank()])
            self.val_loop.run()
        if fn_name == 'after_train_iter':
            self._stop_after_step()
        if fn_name == 'before_val_epoch' and self.started:
            self._set_validating(True)
        if fn_name == 'after_val_iter':
            self._stop_while_validating()

    def _add_extras(self, checkpoint: dict) -> None:
        # FlexibleRunner counts an epoch too many when it saves after validation
        checkpoint['meta'].update(self._saving)
        if self._accumulating() and get_world_size() == 1:
            checkpoint['gradients'] = {
                name: parameter.grad.cpu()
                for name, parameter in self._bare_model().named_parameters()
                if parameter.grad is not None
            }
        plain_checkpoint(checkpoint)

    def _accumulating(self) -> bool:
        """Whether gradients of a batch that is not complete wait for the next step."""
        wrapper = self.optim_wrapper
        return getattr(wrapper, '_accumulative_counts', 1) > 1 and not wrapper.should_update()

    def _bare_model(self):
        return getattr(self.model, 'module', self.model)

    def _read_extras(self, checkpoint: dict) -> None:
        revive_message_hub(checkpoint)
        if not self._resuming:
            return
        meta = checkpoint.get('meta')
        if meta is None or 'iter' not in meta:
            raise ValueError(
                'the checkpoint holds weights only and cannot be resumed; start from it with load_from, without --resume'
            )
        self._pending = dict(meta=meta, gradients=checkpoint.pop('gradients', None))
        ours = getattr(self.train_dataloader.dataset, 'metainfo', None)
        if plain(ours, 'dataset_meta', 'list') == plain(meta.get('dataset_meta'), 'dataset_meta', 'list'):
            # the host compares pickles, which differ for equal values
            meta['dataset_meta'] = ours

    def _set_gradients(self, gradients: dict) -> None:
        for name, parameter in self._bare_model().named_parameters():
            if name in gradients:
                parameter.grad = gradients[name].to(parameter.device, copy=True)


def _skip_batches(iterator, loader, host_skip, batches: int, _iterations: int) -> None:
    """Move the iterator of the iteration-based loop to a batch without loading the ones before; by ``host_skip`` where that cannot be."""
    epoch, batch = (0, batches) if seeding.is_endless(loader) else divmod(batches, len(loader))
    if not seeding.skip_in_epoch(loader, batch):
        host_skip(batches)
        return
    if epoch:
        seeding.set_epoch(loader, epoch)
        iterator._epoch = epoch
    iterator._iterator = None


class Runner(ExactResumeMixin, MMEngineRunner):
    """The host's restarts the random streams when it resumes, so that the second half differs; its ``sync_bn`` fails on the CPU."""

    def wrap_model(self, model_wrapper_cfg, model):
        """Wrap as the host does; on the CPU batch norms are synchronised by ours, before DDP looks for torch's."""
        kind = self.cfg.get('sync_bn')
        if not kind or not self.distributed or torch.cuda.is_available():
            return super().wrap_model(model_wrapper_cfg, model)
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        work_on_cpu(model)
        self.cfg.sync_bn = None
        try:
            return super().wrap_model(model_wrapper_cfg, model)
        finally:
            self.cfg.sync_bn = kind


class FlexibleRunner(ExactResumeMixin, MMEngineFlexibleRunner):
    """The host's restarts the random streams when it resumes; this one also keeps its epoch right when it saves after validation."""


def runner_class(cfg) -> type[MMEngineRunner | MMEngineFlexibleRunner]:
    """The runner for a config: ``runner_type`` 'Runner' (the default) or 'FlexibleRunner' are ours, another name is a registered runner."""
    name = cfg.get('runner_type', 'Runner')
    ours = {'Runner': Runner, 'FlexibleRunner': FlexibleRunner}
    found = ours.get(name) or RUNNERS.get(name)
    if found is None:
        raise ValueError(f'no runner_type {name!r}; one of {", ".join(ours)}, or a registered one')
    return found
