"""A training run in a few lines: model, data, batch, rate, steps and device; and what it has written."""

import os
import shlex
from pathlib import Path

import torch
from mmengine.dist import get_world_size
from mmengine.optim import OptimWrapperDict

from mmssl import __version__
from mmssl.engine.bare_model import bare_model
from mmssl.engine.progress import accumulated_batches, loader_batch_size


def summary_lines(runner, config: str) -> list[str]:
    """Describe a run that is about to make its first step.

    Args:
        runner: The runner, with its model, loaders and optimizer built.
        config: The config as it was typed.

    Returns:
        About eight lines.
    """
    rows = [
        ('model', _model(runner)),
        ('data', _data(runner)),
        ('batch', _batch(runner)),
        ('rate', _rate(runner)),
        ('steps', _steps(runner)),
        ('device', _device(runner)),
        ('work dir', f'{runner.work_dir} (log: {_log_file(runner)})'),
    ]
    return [f'mmssl {__version__}: train {config}', *(f'  {name:<9} {text}' for name, text in rows if text)]


def closing_lines(runner, config: str) -> list[str]:
    """Say what a run has written, and which commands use it.

    Args:
        runner: The runner after its last step.
        config: The config as it was typed.
    """
    work_dir = Path(runner.work_dir)
    checkpoint = _last_checkpoint(work_dir)
    lines = [f'written   {checkpoint or "no checkpoint"}; log and curves in {runner.log_dir}']
    commands = [f'mmssl report {_quoted(work_dir)}']
    if checkpoint:
        arguments = f'{shlex.quote(config)} {_quoted(checkpoint)}'
        if runner.cfg.get('test_dataloader'):
            commands.insert(0, f'mmssl test {arguments}')
        elif _is_pretraining(runner):
            commands.insert(0, f'mmssl knn {arguments} --data DIR')
    return [*lines, *(f'{"next" if not index else "":<9} {text}' for index, text in enumerate(commands))]


def _model(runner) -> str:
    model = bare_model(runner.model)
    parameters = list(model.parameters())
    total = sum(parameter.numel() for parameter in parameters)
    trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
    text = f'{type(model).__name__}, {total / 1e6:.3g} M parameters'
    return text if trained == total else f'{text}, {trained / 1e6:.3g} M of them trained'


def _data(runner) -> str:
    dataset = runner.train_dataloader.dataset
    try:
        text = f'{len(dataset):,} images'
    except TypeError:
        text = 'a stream of images'
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if classes:
        text += f', {len(classes)} classes'
    root = getattr(dataset, 'data_root', None)
    return f'{text}, {root}' if root else text


def _batch(runner) -> str:
    size = loader_batch_size(runner.train_dataloader)
    accumulated = accumulated_batches(runner.optim_wrapper)
    if not size:
        return ''
    text = f'{size * get_world_size() * accumulated} images a step'
    parts = [f'{size} a process']
    if get_world_size() > 1:
        parts.append(f'{get_world_size()} processes')
    if accumulated > 1:
        parts.append(f'{accumulated} accumulated')
    return f'{text} ({" x ".join(parts)})' if len(parts) > 1 else text


def _rate(runner) -> str:
    wrapper = runner.optim_wrapper
    wrappers = dict(wrapper.items()) if isinstance(wrapper, OptimWrapperDict) else {'': wrapper}
    texts = []
    for name, each in wrappers.items():
        rate = max(group.get('initial_lr', group['lr']) for group in each.optimizer.param_groups)
        text = f'{rate:.4g}, {type(each.optimizer).__name__}'
        dtype = getattr(each, 'cast_dtype', None)
        text += f' in {str(dtype).removeprefix("torch.")}' if dtype else ''
        texts.append(f'{name}: {text}' if name else text)
    return '; '.join(texts)


def _steps(runner) -> str:
    epochs = runner.max_epochs
    text = f'{runner.max_iters:,}'
    if runner.cfg.get('train_cfg', {}).get('by_epoch') or runner.cfg.get('train_cfg', {}).get('max_epochs'):
        text += f' in {epochs} epochs'
    if runner.iter:
        text += f', resumed after step {runner.iter:,}'
    return text


def _device(runner) -> str:
    parameter = next(bare_model(runner.model).parameters(), None)
    device = torch.device('cpu') if parameter is None else parameter.device
    count = f'{get_world_size()} x ' if get_world_size() > 1 else ''
    if device.type == 'cuda':
        return f'{count}{torch.cuda.get_device_name(device)}'
    if device.type == 'cpu':
        return f'{count}CPU, {torch.get_num_threads()} threads'
    return f'{count}{device.type}'


def _log_file(runner) -> str:
    path = Path(runner.logger.log_file or runner.log_dir)
    return os.path.relpath(path, runner.work_dir) if path.is_absolute() else str(path)


def _last_checkpoint(work_dir: Path) -> Path | None:
    pointer = work_dir / 'last_checkpoint'
    if not pointer.is_file():
        return None
    path = work_dir / Path(pointer.read_text(encoding='utf-8').strip()).name
    return path if path.exists() else None


def _is_pretraining(runner) -> bool:
    return type(bare_model(runner.model)).__module__.startswith(
        ('mmssl.selfsup', 'mmpretrain.models.selfsup')
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
