"""Schedules of a resumed run: what they are comes from the config, where they stand from the checkpoint.

mmengine restores every attribute of a scheduler and every hyperparameter of the optimizer from the
checkpoint, so that a longer run, another batch size or a new learning rate would be without effect.
"""

import copy
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mmengine.optim import OptimWrapperDict
from mmengine.runner import EpochBasedTrainLoop

from mmssl.errors import MismatchError

# attributes of a scheduler that say where it stands
_POSITION = {'last_step', '_global_step', '_last_value', 'verbose'}
# the same of ReduceOnPlateau, whose values follow the validation and cannot be computed from a step
_PLATEAU_POSITION = _POSITION | {'best', 'num_bad_epochs', 'cooldown_counter'}
# hyperparameters by which the kind of an optimizer shows
_KINDS = ('momentum', 'betas', 'alpha', 'dampening', 'trust_coefficient', 'rho', 'max_iter')
# prefixes of the values between which a schedule moves
_BOUNDS = ('initial_', 'max_', 'min_')
# hyperparameters of parameter groups; an optimizer may keep a state of its own beside them
_HYPERPARAMETERS = {
    'lr',
    'weight_decay',
    'momentum',
    'betas',
    'eps',
    'dampening',
    'nesterov',
    'alpha',
    'amsgrad',
    'lr_scale',
    'trust_coefficient',
}


@dataclass
class ConfiguredSchedules:
    """Hyperparameters and schedulers as the config built them, at step 0.

    Args:
        groups: Hyperparameters of every parameter group.
        states: State of every scheduler.
    """

    groups: list[dict[str, Any]]
    states: list[dict[str, Any]]

    @classmethod
    def of(cls, runner) -> 'ConfiguredSchedules':
        """Copy those of a runner, before a checkpoint is loaded."""
        return cls(
            [_hyperparameters(group) for group in _groups(runner.optim_wrapper)],
            [_state(scheduler) for scheduler in _schedulers(runner.param_schedulers)],
        )

    def restore(self, runner, saved, same_position: bool) -> None:
        """Replace those that a checkpoint has restored where the config or the position differs.

        Args:
            runner: The runner, at the position at which it resumes.
            saved: ``param_schedulers`` of the checkpoint.
            same_position: Whether the iteration is that of the checkpoint.
        """
        groups = _groups(runner.optim_wrapper)
        schedulers = _schedulers(runner.param_schedulers)
        scheduled = {scheduler.param_name for scheduler in schedulers}
        if 'momentum' in scheduled:
            scheduled.add('betas')
        loaded = [_hyperparameters(group) for group in groups]
        differences = _group_differences(self.groups, loaded, scheduled)
        differences += _scheduler_differences(schedulers, self.states, _schedulers(saved))
        if not differences and same_position:
            return
        if differences:
            runner.logger.warning(
                'the schedules or the optimizer of the config differ from those of the checkpoint: '
                f'{", ".join(dict.fromkeys(differences))}; the config applies from iteration {runner.iter} on'
            )
        for group, configured in zip(groups, self.groups, strict=True):
            group.update(copy.deepcopy(configured))
        epoch = runner.epoch if isinstance(runner.train_loop, EpochBasedTrainLoop) else 0
        self._advance(schedulers, epoch, runner.iter)
        for scheduler in schedulers:
            if getattr(scheduler, 'need_val_args', False):
                _keep_reached_factor(scheduler.param_name, groups, loaded)

    def _advance(self, schedulers: list, epoch: int, iteration: int) -> None:
        """Step the schedulers from 0 to where the run stands."""
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # of schedulers that step before the optimizer
            followed: dict[bool, list] = {False: [], True: []}
            for scheduler, configured in zip(schedulers, self.states, strict=True):
                plateau = getattr(scheduler, 'need_val_args', False)
                observed = {key: scheduler.__dict__[key] for key in _PLATEAU_POSITION} if plateau else {}
                scheduler.__dict__ = {
                    **_functions(scheduler),
                    'optimizer': scheduler.optimizer,
                    **copy.deepcopy(configured),
                    **observed,
                }
                if not plateau:
                    followed[scheduler.by_epoch].append(scheduler)
            for by_epoch, steps in ((False, iteration), (True, epoch)):
                for _ in range(steps if followed[by_epoch] else 0):
                    for scheduler in followed[by_epoch]:
                        scheduler.step()


def check_optimizer(wrapper, saved: Any) -> None:
    """Check that the optimizer of the config can take the state of a checkpoint.

    Args:
        wrapper: The optimizer wrapper of the run, or its settings.
        saved: ``optimizer`` of the checkpoint: a state dict, or one for each name.

    Raises:
        MismatchError: The state is of another kind of optimizer, or of other parameter groups.
    """
    if not isinstance(saved, dict) or isinstance(wrapper, dict):
        return
    parts = (
        [saved] if 'param_groups' in saved else [each for each in saved.values() if isinstance(each, dict)]
    )
    before = [group for part in parts for group in part.get('param_groups') or ()]
    # without the settings that mmengine's wrappers add to their param_groups
    now = [group for each in _wrappers(wrapper) for group in each.optimizer.param_groups]
    if not before:
        return
    kinds = [[key for key in _KINDS if key in groups[0]] for groups in (before, now)]
    if kinds[0] != kinds[1]:
        described = [', '.join(kind) or 'none of these' for kind in kinds]
        reason = f'of an optimizer with {described[0]}, and that of the config has {described[1]}'
    elif len(before) != len(now):
        reason = f'of {len(before)} parameter groups, and that of the config has {len(now)}'
    else:
        return
    raise MismatchError(
        f'the state of the optimizer in the checkpoint is {reason}: the run cannot be resumed; use its '
        'optim_wrapper, or start from the weights with load_from, without --resume'
    )


def _wrappers(wrapper) -> list:
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def _groups(wrapper) -> list[dict]:
    return [group for each in _wrappers(wrapper) for group in each.param_groups]


def _schedulers(schedulers) -> list:
    if schedulers is None:
        return []
    if isinstance(schedulers, dict):
        return [each for members in schedulers.values() for each in members]
    return list(schedulers)


def _functions(scheduler) -> dict[str, Any]:
    """Return the functions among the attributes of a scheduler, which are no part of its state."""
    return {key: value for key, value in scheduler.__dict__.items() if callable(value)}


def _state(scheduler) -> dict[str, Any]:
    functions = _functions(scheduler)
    return copy.deepcopy({k: v for k, v in scheduler.state_dict().items() if k not in functions})


def _hyperparameters(group: dict) -> dict[str, Any]:
    return {
        key: copy.deepcopy(value)
        for key, value in group.items()
        if key in _HYPERPARAMETERS or key.startswith(_BOUNDS)
    }


def _group_differences(configured: list[dict], loaded: list[dict], scheduled: set[str]) -> list[str]:
    return [
        f'{key.removeprefix("initial_")} {_short(saved[key])} is now {_short(group[key])}'
        for group, saved in zip(configured, loaded, strict=True)
        for key in sorted(group.keys() & saved.keys() - scheduled)
        if _plain(group[key]) != _plain(saved[key])
    ]


def _scheduler_differences(schedulers: list, configured: list[dict], saved: list[dict]) -> list[str]:
    if len(saved) != len(schedulers):
        return [f'{len(saved)} schedulers are now {len(schedulers)}']
    differences = []
    for scheduler, state, before in zip(schedulers, configured, saved, strict=True):
        name = type(scheduler).__name__
        position = _PLATEAU_POSITION if getattr(scheduler, 'need_val_args', False) else _POSITION
        # base_values are compared as the initial values of the groups
        for key in sorted((state.keys() | before.keys()) - position - {'base_values'}):
            if _plain(state.get(key)) != _plain(before.get(key)):
                differences.append(f'{name} {key} {_short(before.get(key))} is now {_short(state.get(key))}')
    return differences


def _keep_reached_factor(name: str, groups: list[dict], loaded: list[dict]) -> None:
    """Scale the configured values by the factor that a schedule of the validation's results has reached."""
    for group, before in zip(groups, loaded, strict=True):
        base = before.get(f'initial_{name}', 0)
        if base:
            group[name] = group[f'initial_{name}'] * before[name] / base


def _plain(value):
    """Return a value with tuples as lists: a checkpoint of plain types may hold either."""
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _short(value) -> str:
    if isinstance(value, float):
        return f'{value:g}'
    if isinstance(value, Iterable) and not isinstance(value, str):
        items = list(value)
        shown = ', '.join(_short(item) for item in items[:4])
        return f'[{shown}{", ..." if len(items) > 4 else ""}]'
    return str(value)
