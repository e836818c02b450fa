"""What ties the length and the batch size of a run to its learning rate."""

import logging
from collections.abc import Iterator

from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.optim.scheduler.param_scheduler import (
    INF,
    ConstantParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
)
from mmengine.runner import EpochBasedTrainLoop


def scale_learning_rate(wrapper, settings: dict | None, batch_size: int, world_size: int) -> None:
    """Scale the learning rates linearly with the number of images in a step of the optimizer.

    mmengine leaves out accumulated batches, and the base rate that it logs.

    Args:
        wrapper: The optimizer wrapper, before schedulers are built.
        settings: ``auto_scale_lr`` of the config.
        batch_size: Number of images in a batch of one rank.
        world_size: Number of ranks.

    Raises:
        ValueError: The settings lack ``base_batch_size``.
    """
    if not settings or not settings.get('enable'):
        return
    base = settings.get('base_batch_size')
    if not base:
        raise ValueError('auto_scale_lr is enabled without base_batch_size: give the batch size of the rate')
    wrappers = list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    for each in wrappers:
        accumulated = getattr(each, '_accumulative_counts', 1)
        images = batch_size * world_size * accumulated
        factor = images / base
        print_log(
            f'the learning rate is multiplied by {factor:g}: a step has {batch_size} images x {world_size} '
            f'rank(s) x {accumulated} accumulated batch(es) = {images}, and the rate is for {base}',
            'current',
        )
        for group in each.param_groups:
            group['lr'] = group['lr'] * factor


def warn_of_other_length(runner) -> None:
    """Log one warning if the learning rate's schedule is of another length than the training.

    Args:
        runner: The runner, before its first step.
    """
    schedulers = runner.param_schedulers
    if not isinstance(schedulers, (list, tuple)):
        return
    schedulers = [each for each in schedulers if each.param_name in ('lr', 'weight_decay')]
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    training, unit, setting = runner.max_iters, 'iterations', 'max_iters'
    per_unit = 1
    if by_epoch:
        training, unit, setting = runner.max_epochs, 'epochs', 'max_epochs'
        per_unit = len(runner.train_dataloader)
    ends = [(each, end if each.by_epoch else end / per_unit) for each, end in _ends(schedulers)]
    if not by_epoch:  # schedules in epochs do not advance in a loop over iterations
        ends = [(each, end) for each, end in ends if not each.by_epoch]
    problem = _problem(ends, training, tolerance=1 / per_unit)
    if problem is None:
        return
    scheduler, end, outcome = problem
    print_log(
        f'{type(scheduler).__name__} of param_scheduler reaches its end after {end:g} {unit}, but '
        f'train_cfg.{setting} is {training:g}: {outcome}; set both alike, or give '
        f'--{"epochs" if by_epoch else "iters"} {training:g} to scale the schedule with the training',
        'current',
        level=logging.WARNING,
    )


def _ends(schedulers: list) -> Iterator[tuple]:
    """Yield (scheduler, step of its last change) of those that have an end."""
    for scheduler in schedulers:
        if isinstance(scheduler, ConstantParamScheduler) or getattr(scheduler, 'need_val_args', False):
            continue
        if isinstance(scheduler, MultiStepParamScheduler):
            milestones = list(scheduler.milestones)
            if milestones:
                yield scheduler, scheduler.end if scheduler.end < INF else scheduler.begin + max(milestones)
            continue
        end = getattr(scheduler, 'length', scheduler.end)
        if end < INF:
            yield scheduler, end


def _problem(ends: list[tuple], training: float, tolerance: float) -> tuple | None:
    """Return the scheduler with the latest end, that end and what happens then; None if nothing is wrong."""
    if not ends:
        return None
    scheduler, end = max(ends, key=lambda pair: pair[1])
    if end > training + tolerance:
        return scheduler, end, 'training stops before the schedule is complete'
    if end >= training - tolerance:
        return None
    if isinstance(scheduler, MultiStepParamScheduler) and scheduler.end >= INF:
        return None  # the last rate is meant to stay
    if isinstance(scheduler, LinearParamScheduler) and scheduler.end_factor == 1:
        return None  # a warm-up only
    return scheduler, end, 'the rest of the training keeps the last value'
