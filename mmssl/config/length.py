"""The length of a training run, and schedules that follow it."""

from collections.abc import Iterator
from typing import Any

# settings of a scheduler that are lengths or positions, in the unit of the schedule
_LENGTHS = ('begin', 'end', 'warmup', 'T_max', 'step_size', 'total_steps', 'milestones', 'periods')
# settings of methods that are lengths in epochs
_METHOD_LENGTHS = ('warmup_teacher_temp_epochs',)


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
    factor = length / train_cfg[key]
    train_cfg[key] = length
    for scheduler in schedulers_of(cfg):
        warmup, end = scheduler.get('warmup') or 0, scheduler.get('end') or 0
        for name in _LENGTHS:
            if scheduler.get(name) is not None:
                scheduler[name] = _scaled(scheduler[name], factor)
        if 0 < warmup < end and scheduler['warmup'] >= scheduler['end']:  # rounded up to the whole length
            scheduler['warmup'] = warmup * factor
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


def _scale_method_lengths(node: Any, factor: float) -> None:
    if isinstance(node, (list, tuple)):
        for item in node:
            _scale_method_lengths(item, factor)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in _METHOD_LENGTHS:
                node[key] = _scaled(value, factor)
            else:
                _scale_method_lengths(value, factor)


def _scaled(value: Any, factor: float) -> Any:
    if isinstance(value, (list, tuple)):
        return [_scaled(item, factor) for item in value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    scaled = value * factor
    if isinstance(value, int):
        # an end and the beginning that follows are rounded alike; 0 and negatives have a meaning
        return value if value <= 0 else max(round(scaled), 1)
    return scaled
