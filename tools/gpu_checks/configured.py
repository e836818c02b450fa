"""Models, optimizers and batches of configs, as a run has them."""

import argparse
import copy
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

SMOKE = 'smoke/{}.py'
# loads no weights, which would be downloaded
RANDOM = 'random'


def load(name: str, options: Sequence[str] = ()) -> Any:
    """Load a config and adapt it to this machine, as ``mmssl train`` does; demo data go to data/demo."""
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope

    from mmssl.config.load import load_config
    from mmssl.engine.launch import prepare

    if not MMLogger.check_instance_created('gpu_check'):
        MMLogger.get_instance('gpu_check', log_level='ERROR')  # mmengine logs a line per parameter
    cfg = load_config(name, options)
    init_default_scope(cfg.default_scope)
    args = argparse.Namespace(data=None, work_dir='unused', launcher='none', local_rank=0)
    prepare(cfg, args, name)
    return cfg


def build_model(cfg: Any, device: torch.device) -> nn.Module:
    """Build the model of a config for training, with random weights."""
    from mmengine.model import revert_sync_batchnorm
    from mmengine.registry import MODELS

    torch.manual_seed(0)
    settings = copy.deepcopy(cfg.model.to_dict())
    if 'tokenizer' in settings:
        settings['tokenizer']['checkpoint'] = RANDOM
    if cfg.get('data_preprocessor'):
        settings.setdefault('data_preprocessor', cfg.data_preprocessor.to_dict())
    model = revert_sync_batchnorm(MODELS.build(settings)).to(device).train()
    if hasattr(model, 'set_schedule'):
        model.set_schedule(1000, 100000)
    return model


def build_optimizer(cfg: Any, model: nn.Module, dtype: str | None = None, **settings: Any) -> Any:
    """Build the optimizer wrapper of a config.

    Args:
        cfg: The config.
        model: The model, on its device.
        dtype: Data type of autocast; None for float32.
        **settings: Further arguments of the wrapper.
    """
    from mmengine.optim import build_optim_wrapper

    wrapper = {key: value for key, value in cfg.optim_wrapper.items() if key not in ('dtype', 'loss_scale')}
    wrapper['type'] = 'mmssl.AmpOptimWrapper' if dtype else 'mmssl.OptimWrapper'
    wrapper.update(settings)
    if dtype:
        wrapper['dtype'] = dtype
    return build_optim_wrapper(model, wrapper)


def batches(cfg: Any, count: int, batch_size: int | None = None) -> list[Any]:
    """Load batches of a config's training data in this process."""
    from mmssl.engine.dataloader import build_dataloader

    loader = copy.deepcopy(cfg.train_dataloader.to_dict())
    loader.update(num_workers=0, persistent_workers=False, pin_memory=False)
    loader.update(sampler=dict(type='InfiniteSampler', shuffle=True))
    loader.pop('batch_sampler', None)
    loader['batch_size'] = batch_size or loader['batch_size']
    seed_all(0)
    iterator = iter(build_dataloader(loader, seed=0))
    return [next(iterator) for _ in range(count)]


def repeated(batch: Any, times: int) -> Any:
    """Repeat the images and samples of a batch, so that few have to be decoded."""
    if isinstance(batch, torch.Tensor):
        return batch.repeat(times, *[1] * (batch.dim() - 1))
    if isinstance(batch, dict):
        return {key: repeated(value, times) for key, value in batch.items()}
    if (
        isinstance(batch, (list, tuple))
        and batch
        and isinstance(batch[0], torch.Tensor)
        and batch[0].dim() == 4
    ):
        return [repeated(view, times) for view in batch]  # views of a self-supervised method
    return [copy.deepcopy(sample) for _ in range(times) for sample in batch] if batch else batch


def pinned(batch: Any) -> Any:
    """Copy the tensors of a batch to pinned memory, as a loader does."""
    return torch.utils.data._utils.pin_memory.pin_memory(batch)


def seed_all(seed: int) -> None:
    """Seed all generators."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


class CpuDraws(TorchFunctionMode):
    """Draw every random number with the CPU's generator, so that two devices draw the same ones."""

    FACTORIES = (torch.rand, torch.randn, torch.randint, torch.randperm, torch.normal)
    LIKE = (torch.rand_like, torch.randn_like, torch.randint_like)
    SAMPLERS = (torch.bernoulli, torch.multinomial)
    IN_PLACE = ('bernoulli_', 'uniform_', 'normal_', 'exponential_', 'random_', 'log_normal_', 'cauchy_')

    def __torch_function__(self, func, types, args=(), kwargs=None):
        """Replace random functions."""
        kwargs = dict(kwargs or {})
        if func in self.FACTORIES:
            device = kwargs.pop('device', None)
            kwargs.pop('generator', None)
            drawn = func(*args, **kwargs)
            return drawn if device is None else drawn.to(device)
        if func in self.LIKE:
            device = kwargs.pop('device', None) or args[0].device
            return func(args[0].cpu(), *args[1:], **kwargs).to(device)
        if func in self.SAMPLERS:
            kwargs.pop('generator', None)
            return func(args[0].cpu(), *args[1:], **kwargs).to(args[0].device)
        if func is torch.nn.functional.dropout:
            return self.dropout(*args, **kwargs)
        name = getattr(func, '__name__', '')
        if name in self.IN_PLACE and isinstance(args[0], torch.Tensor):
            kwargs.pop('generator', None)
            rest = [value.cpu() if isinstance(value, torch.Tensor) else value for value in args[1:]]
            drawn = func(torch.empty(args[0].shape, dtype=args[0].dtype), *rest, **kwargs)
            with torch.no_grad():
                args[0].copy_(drawn)
            return args[0]
        return func(*args, **kwargs)

    @staticmethod
    def dropout(input, p=0.5, training=True, inplace=False):
        """Apply dropout with a mask from the CPU."""
        if not training or p == 0:
            return input
        keep = (torch.rand(input.shape) >= p).to(input.device, input.dtype)
        return input * keep / (1 - p)
