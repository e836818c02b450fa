"""Stop, or skip, at the first loss or gradient that is not a number."""

import functools
import math
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapperDict
from torch.utils.hooks import RemovableHandle

from mmssl.engine.nonfinite_source import Draws, first_module
from mmssl.errors import NonFiniteError
from mmssl.registry import HOOKS

POLICIES = ('stop', 'skip')


class _NonFiniteGradient(Exception):
    """Leaves the wrapper's step between clipping and the optimizer."""


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """The host's CheckInvalidLossHook looks every 50 steps, after the optimizer has taken the bad one; this one looks before each step.

    The loss is looked at before the backward pass, and gradients before the optimizer's step: always where
    clipping computes their norm, otherwise as ``check_gradients`` says. A skipped batch of an accumulated
    step takes the whole step with it, so that all ranks do the same and no half batch is weighted as a whole
    one. On CUDA the look at the loss is one synchronisation a step; clipping, and logging the loss, have
    another each. With several ranks the flag is reduced, and all of them stop or skip together.

    Where a run on one process stops, the step is computed once more to name the module that made the first
    such value (:mod:`mmssl.engine.nonfinite_source`); for that the batch is held, and the states of the
    generators are noted before each step.

    float16 with a loss scaler: infinite gradients are the scaler's business, which lowers its scale and skips
        the step by itself.

    Args:
        policy: ``'stop'`` raises NonFiniteError; ``'skip'`` leaves the step out and goes on.
        budget: how many steps may be skipped in the whole run, resumed ones included, before it stops after
            all.
        check_gradients: ``'auto'`` looks at gradients that are not clipped on the CPU only, True everywhere
            (one more synchronisation and one reading of the gradients on CUDA), False never.
    """

    def __init__(self, policy: str = 'stop', budget: int = 10, check_gradients: str | bool = 'auto'):
        if policy not in POLICIES:
            raise ValueError(f'policy={policy!r} of NonFiniteHook; one of {", ".join(POLICIES)}')
        if budget < 0:
            raise ValueError(f'budget={budget} of NonFiniteHook; give 0 or more')
        if check_gradients not in ('auto', True, False):
            raise ValueError(f"check_gradients={check_gradients!r} of NonFiniteHook; 'auto', True or False")
        self.policy = policy
        self.budget = budget
        self.check_gradients = check_gradients
        self.runner: Any = None
        self.data_batch: Any = None
        self.prepared: Any = None
        self.draws: Draws | None = None
        self.losses: dict[str, Any] = {}
        self._bare: Any = None
        self._watching: RemovableHandle | None = None
        # (owner, name, what the owner itself had under it), in the order of wrapping
        self._wrapped: list[tuple[Any, str, Any]] = []
        # wrappers, by id, whose accumulated step is left out
        self._poisoned: set[int] = set()

    def before_train(self, runner) -> None:
        """Put the look in front of the optimizer."""
        self.runner = runner
        wrapper = runner.optim_wrapper
        for one in wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]:
            self._wrap(one, 'update_params', functools.partial(self._update_params, one, one.update_params))
            step: Any = functools.partial(self._step, one, one.step)
            step._with_counter = getattr(
                one.step, '_with_counter', False
            )  # mmengine's schedules look for their mark
            self._wrap(one, 'step', step)
            if hasattr(one, 'clip_func'):
                self._wrap(one, 'clip_func', functools.partial(self._clip, one, one.clip_func))
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if hasattr(model, 'parse_losses'):
            self._wrap(model, 'parse_losses', functools.partial(self._parse_losses, model.parse_losses))
        self._bare = model
        if get_world_size() == 1 and isinstance(getattr(model, 'data_preprocessor', None), torch.nn.Module):
            self._watching = model.data_preprocessor.register_forward_hook(self._keep_prepared)

    def _keep_prepared(self, preprocessor, data, prepared) -> None:
        self.prepared = prepared

    def _wrap(self, owner, name: str, replacement) -> None:
        self._wrapped.append((owner, name, vars(owner).get(name)))
        object.__setattr__(owner, name, replacement)

    def after_train(self, runner) -> None:
        """Take the look away again."""
        for owner, name, before in reversed(self._wrapped):
            if before is None:
                vars(owner).pop(name, None)
            else:
                object.__setattr__(owner, name, before)
        self._wrapped.clear()
        if self._watching is not None:
            self._watching.remove()
            self._watching = None

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Keep hold of the batch, whose files an error names."""
        self.data_batch = data_batch
        self.losses = {}
        if self._watching is not None:
            self.draws = Draws(next((parameter.device for parameter in self._bare.parameters()), None))

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Let go of the batch."""
        self.data_batch = self.prepared = None
        self.losses = {}

    def _parse_losses(self, parse_losses, losses):
        total, self.losses = parse_losses(losses)
        return total, self.losses

    def _update_params(self, wrapper, update_params, loss, *args, **kwargs) -> None:
        if not self._agree(torch.isfinite(loss.detach()).all()):
            self._report(self._loss_report(loss))
            self._discard(wrapper)
        elif id(wrapper) not in self._poisoned:
            update_params(loss, *args, **kwargs)
            return
        # counted, but without a backward pass: learning rates and accumulation go on as if it had been there
        wrapper._inner_count += 1
        if wrapper.should_update():
            self._poisoned.discard(id(wrapper))

    def _discard(self, wrapper) -> None:
        """Drop what has been accumulated and what the rest of this accumulated step would add."""
        wrapper.zero_grad()
        self._poisoned.add(id(wrapper))

    def _step(self, wrapper, step, *args, **kwargs) -> None:
        if _scales(wrapper):
            step(*args, **kwargs)
            return
        clips_norm = bool(wrapper.clip_grad_kwargs) and getattr(wrapper, 'grad_name', '') == 'grad_norm'
        try:
            if not clips_norm:
                self._look_at_gradients(wrapper)
            step(*args, **kwargs)
        except _NonFiniteGradient as bad:
            self._report(f'the gradient norm is {bad}{self._loss_values()}')
            # update_params clears the gradients next

    def _clip(self, wrapper, clip_func, parameters, *args, **kwargs):
        norm = clip_func(parameters, *args, **kwargs)
        if norm is not None and not _scales(wrapper) and not self._agree(torch.isfinite(norm)):
            raise _NonFiniteGradient(float(norm))
        return norm

    def _look_at_gradients(self, wrapper) -> None:
        parameters = [parameter for group in wrapper.optimizer.param_groups for parameter in group['params']]
        if not parameters or not (
            self.check_gradients is True
            or (self.check_gradients == 'auto' and parameters[0].device.type == 'cpu')
        ):
            return
        gradients = [
            parameter.grad
            for parameter in parameters
            if parameter.grad is not None and not parameter.grad.is_sparse
        ]
        # a rank of a sharded model may hold no gradient; it has to take part in the agreement all the same
        gradients = [gradient for gradient in gradients if gradient.numel()] or [
            torch.zeros((), device=parameters[0].device)
        ]
        # the largest magnitudes: finite exactly when every gradient is, without the overflow of a sum of
        # squares
        norm = torch.stack(torch._foreach_norm(gradients, torch.inf)).max()
        if not self._agree(torch.isfinite(norm)):
            raise _NonFiniteGradient(float(norm))

    @staticmethod
    def _agree(finite: torch.Tensor) -> bool:
        """Whether the value is finite on every rank."""
        if get_world_size() > 1:
            flag = finite.to(torch.int32)
            all_reduce(flag, op='min')
            finite = flag
        return bool(finite)

    def _report(self, what: str) -> None:
        """Raise, or count and log a skipped step."""
        iteration = self.runner.iter + 1
        files = image_files(self.data_batch)
        text = f'iteration {iteration}: {what}'
        text += (
            f'; the batch: {", ".join(files[:8])}' + (f' and {len(files) - 8} more' if len(files) > 8 else '')
            if files
            else ''
        )
        if self.policy == 'stop':
            raise NonFiniteError(
                f'{text}{self._where()}. The optimizer has not used it: lower the learning rate, look at these images, or '
                "leave such steps out with NonFiniteHook(policy='skip')"
            )
        hub = self.runner.message_hub
        skipped = (hub.get_info('non_finite_skips') if 'non_finite_skips' in hub.runtime_info else 0) + 1
        hub.update_info('non_finite_skips', skipped)
        if skipped > self.budget:
            raise NonFiniteError(
                f'{text}{self._where()}. Steps left out so far: {skipped}, more than the budget of {self.budget}, so '
                'single images are not to blame; lower the learning rate, or train in bfloat16 or float32'
            )
        self.runner.logger.warning(f'{text}. Step left out ({skipped} of at most {self.budget})')

    def _where(self) -> str:
        """The module to blame, where the step can be repeated."""
        if self.prepared is None:
            return ''
        wrapper = self.runner.optim_wrapper
        if isinstance(wrapper, OptimWrapperDict):
            return ''
        return first_module(self._bare, self.prepared, wrapper, self.draws)

    def _loss_report(self, loss: torch.Tensor) -> str:
        if bool(torch.isfinite(loss).all()):
            return 'the loss of another rank is not finite'
        bad = {
            name: value
            for name, value in self.losses.items()
            if isinstance(value, torch.Tensor) and not bool(torch.isfinite(value).all())
        }
        parts = {name: value for name, value in bad.items() if name != 'loss'} or bad or {'loss': loss}
        return (
            'not finite: '
            + ', '.join(f'{name} = {float(value.detach().float().sum())}' for name, value in parts.items())
            + self._loss_values(except_for=parts)
        )

    def _loss_values(self, except_for=()) -> str:
        rest = {
            name: float(value)
            for name, value in self.losses.items()
            if name not in except_for and isinstance(value, torch.Tensor) and value.numel() == 1
        }
        rest = {name: value for name, value in rest.items() if math.isfinite(value)}
        return f' ({", ".join(f"{name} = {value:.4g}" for name, value in rest.items())})' if rest else ''


def _scales(wrapper) -> bool:
    scaler = getattr(wrapper, 'loss_scaler', None)
    return scaler is not None and scaler.is_enabled()


def image_files(data) -> list[str]:
    """Names of the image files in a batch, however the host nests it: dicts, lists and data samples with ``img_path``."""
    files: dict[str, None] = {}
    stack = [data]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            stack += [value for key, value in reversed(item.items()) if key != 'inputs']
            found = item.get('img_path')
        elif isinstance(item, (list, tuple)):
            stack += reversed(item)
            continue
        else:
            found = None if isinstance(item, torch.Tensor) else getattr(item, 'img_path', None)
        for path in found if isinstance(found, (list, tuple)) else [found]:
            if path is not None:
                files[str(path)] = None
    return list(files)
