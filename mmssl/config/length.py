"""The length of a training run, and schedules that follow it."""

import itertools
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

# settings of a scheduler in the unit of the schedule
_POSITIONS = ('begin', 'end')
_LENGTHS = ('warmup', 'step_size')
_LENGTHS_FROM_BEGIN = ('T_max', 'total_steps')  # scaled by the position of their ends
# settings of methods that are lengths in epochs or iterations
_METHOD_LENGTHS = ('warmup_teacher_temp_epochs', 'queue_start_epoch', 'freeze_prototypes')


def set_training_length(cfg: Any, epochs: int | None = None, iters: int | None = None) -> None:
    """Change the length of a run together with its schedules, warm-up included.

    Args:
        cfg: The config, which is changed.
        epochs: New number of epochs.
        iters: New number of iterations.

    Raises:
        ValueError: The config counts in the other unit, or the number is not positive.
    """
    if epochs is None and iters is None:
        return
    if epochs is not None and iters is not None:
        raise ValueError('--epochs and --iters are two lengths of one run; give one of them')
    option, key, length = ('--epochs', 'max_epochs', epochs)
    if iters is not None:
        option, key, length = ('--iters', 'max_iters', iters)
    train_cfg = cfg.get('train_cfg') or {}
    if length is None or length < 1:
        raise ValueError(f'{option} {length} must be at least 1')
    if train_cfg.get(key) is None:
        other = '--iters' if iters is None else '--epochs'
        raise ValueError(
            f'{option} {length}: the config has no train_cfg.{key}; its length is set by {other}'
        )
    factor = Fraction(length, int(train_cfg[key]))
    train_cfg[key] = length
    schedulers = list(schedulers_of(cfg))
    if any(_vanishes(scheduler, factor) for scheduler in schedulers):
        for scheduler in schedulers:
            if _counts_epochs(scheduler) and scheduler.get('milestones') is None:
                scheduler['convert_to_iter_based'] = True
    for scheduler in schedulers:
        _scale(scheduler, factor, length)
    _scale_method_lengths(cfg.get('model'), factor)


def schedulers_of(cfg: Any) -> Iterator[Any]:
    """Yield the settings of every scheduler of a config."""
    pending = [cfg.get('param_scheduler')]
    while pending:
        node = pending.pop(0)
        if isinstance(node, (list, tuple)):
            pending += node
        elif isinstance(node, dict) and 'type' in node:
            yield node
        elif isinstance(node, dict):
            pending += node.values()


def _counts_epochs(scheduler: Any) -> bool:
    """Whether a scheduler changes the value once per epoch."""
    return bool(scheduler.get('by_epoch', True)) and not scheduler.get('convert_to_iter_based')


def _vanishes(scheduler: Any, factor: Fraction) -> bool:
    """Whether a schedule in whole epochs would begin and end in the same one."""
    begin, end = scheduler.get('begin') or 0, scheduler.get('end')
    if not _counts_epochs(scheduler) or not _is_number(begin) or not _is_number(end) or begin >= end:
        return False
    return _scaled(begin, factor) >= _scaled(end, factor)


def _scale(scheduler: Any, factor: Fraction, length: int) -> None:
    """Scale one schedule.

    Args:
        scheduler: Its settings, which are changed.
        factor: Ratio of the new length of the training to the old one.
        length: The new length.
    """
    # mmengine takes the fraction of an epoch that it converts, and refuses that of an iteration
    exact = bool(scheduler.get('convert_to_iter_based'))
    begin, warmup, end = (scheduler.get(name) or 0 for name in ('begin', 'warmup', 'end'))
    new_begin = _scaled(begin, factor, exact)
    for name in _LENGTHS_FROM_BEGIN:
        if _is_number(scheduler.get(name)):
            (scheduler[name],) = _scaled_lengths([scheduler[name]], begin, factor, exact)
    if scheduler.get('periods') is not None:
        ends = list(itertools.accumulate(scheduler['periods']))
        ends = [0, *_scaled_lengths(ends, begin, factor, exact)]
        scheduler['periods'] = [after - before for before, after in itertools.pairwise(ends)]
    if scheduler.get('milestones') is not None:
        milestones = _scaled_lengths(scheduler['milestones'], begin, factor, exact)
        # the last change comes before the end of the training, as before
        scheduler['milestones'] = [min(each, max(length - new_begin - 1, 1)) for each in milestones]
    for name in (*_POSITIONS, *_LENGTHS):
        if scheduler.get(name) is not None:
            scheduler[name] = _scaled(scheduler[name], factor, exact)
    if 0 < warmup < end and scheduler['warmup'] >= scheduler['end']:  # rounded up to the whole length
        scheduler['warmup'] = float(warmup * factor)


def _scaled_lengths(lengths: list, begin: float, factor: Fraction, exact: bool) -> list:
    """Scale lengths from a beginning so that their ends are scaled like other positions."""
    after = _scaled(begin, factor, exact)
    ends = [_scaled(begin + length, factor, exact) for length in lengths]
    return [end - after if exact else max(end - after, 1) for end in ends]


def _scale_method_lengths(node: Any, factor: Fraction) -> None:
    if isinstance(node, (list, tuple)):
        for item in node:
            _scale_method_lengths(item, factor)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in _METHOD_LENGTHS:
                node[key] = _scaled(value, factor)
            else:
                _scale_method_lengths(value, factor)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _scaled(value: Any, factor: Fraction, exact: bool = False) -> Any:
    if not _is_number(value):
        return value
    scaled = value * factor
    if isinstance(value, float) or exact:
        return int(scaled) if isinstance(value, int) and scaled.denominator == 1 else float(scaled)
    # an end and the beginning that follows are rounded alike; 0 and negatives have a meaning
    return value if value <= 0 else max(round(scaled), 1)
