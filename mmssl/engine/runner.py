"""mmengine's runners with an exact resume and an orderly end after a signal.

N steps, stop and N more give bit for bit what 2N steps give (on the CPU, or with deterministic kernels). The
parts are in :mod:`mmssl.engine.exact_resume`, :mod:`mmssl.engine.stop` and :mod:`mmssl.engine.loops`;
:mod:`mmssl.engine.run_hooks` calls them.
"""

import os
from typing import TYPE_CHECKING, Any

import torch
from mmengine.dist import get_rank
from mmengine.registry import RUNNERS
from mmengine.runner import FlexibleRunner as MMEngineFlexibleRunner
from mmengine.runner import Runner as MMEngineRunner

from mmssl.checkpoint import find_resume_checkpoint, seed_from_checkpoint
from mmssl.data.pictures import settings_of_config, showing
from mmssl.data.reader_settings import reader_settings
from mmssl.engine.dataloader import build_dataloader
from mmssl.engine.exact_resume import ExactResume
from mmssl.engine.launch import device_settings
from mmssl.engine.loops import use_skipping_loop
from mmssl.engine.method_hook import MethodHook
from mmssl.engine.optim_wrapper import use_checked_wrappers
from mmssl.engine.rank_watch import watched_ranks
from mmssl.engine.run_hooks import FirstHook, LastHook
from mmssl.engine.runtime_info import use_deferred_scalars
from mmssl.engine.schedule_resume import ConfiguredSchedules
from mmssl.engine.screen import current_screen
from mmssl.engine.signals import StopSignal
from mmssl.engine.stop import Stopper
from mmssl.engine.training_length import scale_learning_rate
from mmssl.engine.workers import named_worker_deaths
from mmssl.layers.sync_bn import convert_sync_batchnorm

if TYPE_CHECKING:
    from mmengine.runner import Runner as _Base
else:
    _Base = object  # mmengine's Runner or FlexibleRunner follows in the order of resolution

# of torch.set_float32_matmul_precision: 'high' is TF32 on GPUs that have it
MATMUL_PRECISIONS = ('highest', 'high', 'medium')
# seconds at which runs of this process have started, as mmengine names folders
_starts: set[str] = set()
__all__ = ['FlexibleRunner', 'Runner', 'build_dataloader', 'runner_class']


class _ResumableRunner(_Base):
    """What both runners override."""

    build_dataloader = staticmethod(build_dataloader)
    # whether a step of training or testing is done: a run that fails before has nothing worth keeping
    started = False

    def __init__(self, *args, **kwargs):
        if (kwargs.get('randomness') or {}).get('deterministic'):
            # without it torch refuses matrix products on a GPU
            os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')
        _set_matmul_precision(kwargs)
        self.exact_resume = ExactResume(self)
        self.stopper = Stopper(self, self.exact_resume)
        super().__init__(*args, **kwargs)

    def build_logger(self, *args, **kwargs):
        """Build the logger, which writes to the screen what its user needs."""
        logger = super().build_logger(*args, **kwargs)
        screen = current_screen()
        if screen is not None:
            screen.attach(logger)
        return logger

    def register_hooks(self, default_hooks=None, custom_hooks=None) -> None:
        """Register the hooks of the config and those of this runner."""
        super().register_hooks(use_deferred_scalars(default_hooks), custom_hooks)
        if not any(isinstance(hook, MethodHook) for hook in self.hooks):
            self.register_hook(MethodHook())
        self.register_hook(FirstHook(self.exact_resume, self.stopper))
        self.register_hook(LastHook(self.exact_resume, self.stopper))

    def dump_config(self) -> None:
        """Write the whole config into the work directory; never over the file that it was read from."""
        source = self.cfg.filename
        target = os.path.join(self.work_dir, os.path.basename(source or ''))
        if not source or not (os.path.exists(target) and os.path.samefile(source, target)):
            super().dump_config()
        elif get_rank() == 0:
            stem, suffix = os.path.splitext(target)
            self.cfg.dump(f'{stem}_whole{suffix}')

    def build_train_loop(self, loop):
        """Build the training loop, able to start in the middle of the data."""
        return super().build_train_loop(use_skipping_loop(loop))

    def train(self):
        """Train; a run that is resumed takes the checkpoint's seed before its samplers are built."""
        self._take_resumed_seed()
        try:
            with named_worker_deaths(), self._watched_ranks(), self._pictures():
                return super().train()
        except StopSignal as stop:
            self.stopper.leave(stop)
            raise
        finally:
            if hasattr(self._train_loop, 'close'):
                self._train_loop.close()

    def test(self):
        """Test."""
        with named_worker_deaths(), self._watched_ranks(), self._pictures():
            return super().test()

    def _watched_ranks(self):
        distributed = (self.cfg.get('env_cfg') or {}).get('dist_cfg') or {}
        return watched_ranks(distributed.get('timeout'))

    def _pictures(self):
        return showing(settings_of_config(reader_settings(self.cfg)))

    def _take_resumed_seed(self) -> None:
        if not self._resume:
            return
        named = self._resume if isinstance(self._resume, str) else self._load_from
        path = named or find_resume_checkpoint(self.work_dir, quiet=True)
        if path is None or not os.path.exists(path):
            return
        seed = seed_from_checkpoint(path)
        offset = get_rank() if self._randomness().get('diff_rank_seed', False) else 0
        if seed is not None and seed != self.seed - offset:
            self.logger.info(f'the seed of the resumed run is {seed}')
            self._randomness().update(seed=seed)
            self._apply_randomness()

    def _randomness(self) -> dict:
        return self._randomness_cfg

    def _apply_randomness(self) -> None:
        self.set_randomness(**self._randomness())

    def save_checkpoint(
        self, out_dir, filename, *args, meta: dict | None = None, by_epoch: bool = True, **kwargs
    ) -> None:
        """Save as mmengine does, with the states of the generators; every rank has to call it."""
        meta = dict(meta or {})
        meta.setdefault('epoch', self.epoch + 1 if by_epoch else self.epoch)
        meta.setdefault('iter', self.iter if by_epoch else self.iter + 1)
        meta = self.exact_resume.complete_meta(meta)
        super().save_checkpoint(out_dir, filename, *args, meta=meta, by_epoch=by_epoch, **kwargs)

    def resume(
        self,
        filename,
        resume_optimizer: bool = True,
        resume_param_scheduler: bool = True,
        map_location='default',
    ) -> None:
        """Resume as mmengine does, and take up the position in the data and in the config's schedules."""
        configured = None
        if resume_optimizer and resume_param_scheduler and hasattr(self.optim_wrapper, 'param_groups'):
            configured = ConfiguredSchedules.of(self)
        with self.exact_resume.resuming(filename):
            super().resume(filename, resume_optimizer, resume_param_scheduler, map_location)
        if configured is not None:
            iteration, schedulers = self.exact_resume.saved
            configured.restore(self, schedulers, same_position=self.iter == iteration)


class Runner(_ResumableRunner, MMEngineRunner):
    """mmengine's Runner with an exact resume, an orderly end after a signal, and ``sync_bn`` on the CPU."""

    _timestamp: str

    def setup_env(self, env_cfg: dict) -> None:
        """Set up as mmengine does, with the process group bound to the GPU of this rank.

        mmengine keeps logger, visualizer and scope of a run by its second of start, so that a second run of
        the same process and second would write into the folder of the first one: it gets a number.
        """
        distributed = dict(env_cfg.get('dist_cfg') or {})
        device = device_settings(self.launcher, distributed.get('backend', 'nccl'))
        super().setup_env({**env_cfg, 'dist_cfg': {**device, **distributed}})
        second, number = self.timestamp, 1
        while self._timestamp in _starts:
            number += 1
            self._timestamp = f'{second}_{number}'
        _starts.add(self._timestamp)

    def build_optim_wrapper(self, optim_wrapper):
        """Build the optimizer wrapper, of a class that checks losses and gradients if it is mmengine's."""
        return super().build_optim_wrapper(use_checked_wrappers(optim_wrapper))

    def scale_lr(self, optim_wrapper, auto_scale_lr: dict | None = None) -> None:
        """Scale the learning rate with the number of images in a step, accumulated batches included."""
        batch_size = _batch_size(self._train_dataloader)
        scale_learning_rate(optim_wrapper, auto_scale_lr, batch_size, self.world_size)

    def wrap_model(self, model_wrapper_cfg, model):
        """Wrap the model as mmengine does; on the CPU synchronise batch norms without CUDA kernels."""
        sync_bn = self.cfg.get('sync_bn')
        if not sync_bn or not self.distributed or torch.cuda.is_available():
            return super().wrap_model(model_wrapper_cfg, model)
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        convert_sync_batchnorm(model)
        self.cfg.sync_bn = None
        try:
            return super().wrap_model(model_wrapper_cfg, model)
        finally:
            self.cfg.sync_bn = sync_bn


class FlexibleRunner(_ResumableRunner, MMEngineFlexibleRunner):
    """mmengine's FlexibleRunner with an exact resume and an orderly end after a signal.

    Its epoch is also right in a checkpoint that is saved after validation.
    """

    # settings until training begins, then the wrapper
    optim_wrapper: Any

    def train(self):
        """Train, with an optimizer wrapper that checks losses and gradients if it is mmengine's."""
        self.optim_wrapper = use_checked_wrappers(self.optim_wrapper)
        return super().train()

    def build_strategy(self, *args, **kwargs):
        """Build the strategy, with the learning rate scaled as :class:`Runner` does."""
        strategy = super().build_strategy(*args, **kwargs)
        strategy._scale_lr = lambda: scale_learning_rate(
            strategy.optim_wrapper,
            strategy._auto_scale_lr,
            strategy.dispatch_kwargs['train_micro_batch_size_per_gpu'],
            strategy.world_size,
        )
        return strategy

    def _randomness(self) -> dict:
        return self.strategy._randomness

    def _apply_randomness(self) -> None:
        self.strategy._set_randomness(**self._randomness())


def _set_matmul_precision(settings: dict) -> None:
    """Set the precision of float32 matrix products if ``env_cfg.float32_matmul_precision`` asks for one.

    Args:
        settings: Arguments of a runner; mmengine does not know the key, which is taken out.

    Raises:
        ValueError: There is no such precision.
    """
    env_cfg = dict(settings.get('env_cfg') or {})
    precision = env_cfg.pop('float32_matmul_precision', None)
    if precision is None:
        return
    if precision not in MATMUL_PRECISIONS:
        raise ValueError(
            f'env_cfg.float32_matmul_precision={precision!r}; give one of {", ".join(MATMUL_PRECISIONS)}'
        )
    torch.set_float32_matmul_precision(precision)
    settings['env_cfg'] = env_cfg


def _batch_size(loader) -> int:
    """Return the batch size of a loader or of its settings."""
    if not isinstance(loader, dict):
        return loader.batch_size or loader.batch_sampler.batch_size
    return loader.get('batch_size') or (loader.get('batch_sampler') or {}).get('batch_size') or 1


def runner_class(cfg) -> type[MMEngineRunner | MMEngineFlexibleRunner]:
    """Return the runner of a config.

    Args:
        cfg: The config; its ``runner_type`` is 'Runner' (the default) or 'FlexibleRunner' for those of this
            module, or the name of a registered runner.

    Raises:
        ValueError: There is no such runner.
    """
    name = cfg.get('runner_type', 'Runner')
    runners = {'Runner': Runner, 'FlexibleRunner': FlexibleRunner}
    runner = runners.get(name) or RUNNERS.get(name)
    if runner is None:
        raise ValueError(f'no runner_type {name!r}; give one of {", ".join(runners)}, or a registered one')
    return runner
