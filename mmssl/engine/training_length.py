"""What ties the length and the batch size of a run to its learning rate."""

import logging
from collections.abc import Iterator

from mmengine.logging import print_log
from mmengine.optim import OptimWrapperDict
from mmengine.optim.scheduler.param_scheduler import (
    INF,
    ConstantParamScheduler,
    CosineAnnealingParamScheduler,
    CosineRestartParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    OneCycleParamScheduler,
    StepParamScheduler,
)
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop

from mmssl.engine.seeding import is_endless

# schedules of sudden changes, whose last value is meant to stay
_STEPS = (MultiStepParamScheduler, StepParamScheduler)
# share by which T_max and the end may differ: many recipes forget the warm-up in T_max
_TOLERATED = 0.1


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


def refuse_endless_epochs(runner) -> None:
    """Refuse an epoch loop whose sampler never ends an epoch.

    Args:
        runner: The runner, before its first step.

    Raises:
        ValueError: The training counts epochs, and its sampler is without end.
    """
    loader = runner.train_dataloader
    if isinstance(runner.train_loop, EpochBasedTrainLoop) and is_endless(loader):
        raise ValueError(
            'the sampler of train_dataloader has no end, as InfiniteSampler, so the first epoch would not '
            "end; use sampler=dict(type='DefaultSampler', shuffle=True), or count iterations: "
            "train_cfg=dict(type='IterBasedTrainLoop', max_iters=...)"
        )


def warn_of_other_length(runner) -> None:
    """Log one warning if the learning rate's schedule is of another length than the training.

    Args:
        runner: The runner, before its first step.

    Raises:
        ValueError: A schedule counts epochs in a run that counts iterations.
    """
    by_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop)
    if runner.iter >= runner.max_iters > 0:
        print_log(
            f'nothing is trained: the checkpoint stands after iteration {runner.iter}, and the training ends '
            f'after {runner.max_iters}; give --epochs or --iters, or a longer train_cfg, to go on',
            'current',
            level=logging.WARNING,
        )
    schedulers = _schedulers(runner.param_schedulers)
    if not by_epoch and isinstance(runner.train_loop, IterBasedTrainLoop):
        _refuse_epochs(schedulers)
    schedulers = [each for each in schedulers if each.param_name in ('lr', 'weight_decay')]
    training, unit, setting = runner.max_iters, 'iterations', 'max_iters'
    per_unit = 1
    if by_epoch:
        training, unit, setting = runner.max_epochs, 'epochs', 'max_epochs'
        per_unit = len(runner.train_dataloader)
    ends = [(each, end if each.by_epoch else end / per_unit) for each, end in _ends(schedulers)]
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


def _schedulers(schedulers) -> list:
    """Return the schedulers of one optimizer, or of several, as a list."""
    if isinstance(schedulers, dict):
        return [each for members in schedulers.values() for each in members]
    return list(schedulers or ())


def _refuse_epochs(schedulers: list) -> None:
    """Refuse schedules that a loop over iterations never advances, as it has no epochs."""
    for scheduler in schedulers:
        if scheduler.by_epoch and not getattr(scheduler, 'need_val_args', False):
            raise ValueError(
                f'{type(scheduler).__name__} of param_scheduler counts epochs (by_epoch=True, the default), '
                f'and the training iterations: {scheduler.param_name} would never change; set by_epoch=False '
                'and lengths in iterations'
            )


def _ends(schedulers: list) -> Iterator[tuple]:
    """Yield (scheduler, step of its last change) of those that have an end."""
    for scheduler in schedulers:
        end = None if getattr(scheduler, 'need_val_args', False) else _end(scheduler)
        if end is not None:
            yield scheduler, end


def _end(scheduler) -> float | None:
    """Return the step of the last change of a schedule, None if it has no end."""
    end = scheduler.end if scheduler.end < INF else None
    length = _length_of_shape(scheduler)
    if length is None:
        return end
    shape = scheduler.begin + length
    if end is None or hasattr(scheduler, 'length'):
        return shape
    if isinstance(scheduler, _STEPS):
        return max(shape, end)
    return shape if abs(shape - end) > _TOLERATED * (end - scheduler.begin) else end


def _length_of_shape(scheduler) -> float | None:
    """Return the number of steps after which a schedule is complete, None if only its end says it."""
    if isinstance(scheduler, MultiStepParamScheduler):
        return max(scheduler.milestones, default=None)
    if isinstance(scheduler, StepParamScheduler):
        return scheduler.step_size
    if isinstance(scheduler, CosineAnnealingParamScheduler):
        return scheduler.T_max
    if isinstance(scheduler, OneCycleParamScheduler):
        return scheduler.total_steps
    if isinstance(scheduler, CosineRestartParamScheduler):
        return scheduler.cumulative_periods[-1]
    return getattr(scheduler, 'length', None)


def _problem(ends: list[tuple], training: float, tolerance: float) -> tuple | None:
    """Return the scheduler with the latest end, that end and what happens then; None if nothing is wrong."""
    constant = [pair for pair in ends if isinstance(pair[0], ConstantParamScheduler)]
    ends = [pair for pair in ends if pair not in constant]
    if not ends:
        return None
    scheduler, end = max(ends, key=lambda pair: pair[1])
    if end > training + tolerance:
        return scheduler, end, 'training stops before the schedule is complete'
    if end >= training - tolerance or any(end >= training - tolerance for _, end in constant):
        return None
    if isinstance(scheduler, _STEPS) and scheduler.end >= INF:
        return None  # the last rate is meant to stay
    if isinstance(scheduler, LinearParamScheduler) and scheduler.end_factor == 1:
        return None  # a warm-up only
    if isinstance(scheduler, CosineAnnealingParamScheduler) and scheduler.end > end:
        return scheduler, end, 'its value rises again afterwards'
    return scheduler, end, 'the rest of the training keeps the last value'
