"""Hook that stops a run, or skips the step, at the first loss or gradient that is NaN or infinite."""

import math
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapperDict
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from mmssl.engine.bare_model import bare_model
from mmssl.engine.nonfinite_source import GeneratorStates, describe_source
from mmssl.engine.optim_wrapper import OptimWrapper
from mmssl.errors import NonFiniteError
from mmssl.registry import HOOKS

POLICIES = ('stop', 'skip')
SHOWN_FILES = 8


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Handle NaN and infinite losses and gradients before the optimizer uses them.

    mmengine's CheckInvalidLossHook checks the loss every 50 steps, after the optimizer has stepped. Here
    :class:`mmssl.engine.optim_wrapper.OptimWrapper` checks losses and gradients before every step, and this
    hook sets what it does then. The runners of mmssl replace mmengine's OptimWrapper and AmpOptimWrapper by
    the classes that check; with another runner, set ``optim_wrapper=dict(type='mmssl.OptimWrapper', ...)``.
    With a wrapper that does not check, a run stops after the step whose loss was not finite.

    On CUDA the CPU waits for the forward pass before it queues the optimizer's step, and for nothing else:
    with ``policy='stop'`` a gradient that is not finite is found one step late, after the optimizer has used
    it. Checkpoints never hold it: :class:`mmssl.engine.exact_resume.ExactResume` checks the weights of each.

    When a run on one process stops, the step is computed once more to name the module that made the first
    such value (:mod:`mmssl.engine.nonfinite_source`); for that the batch is kept, and the states of the
    generators are saved before each step.

    Args:
        policy: ``'stop'`` raises NonFiniteError; ``'skip'`` skips the step, restores the buffers, such as
            running statistics, and continues.
        budget: Number of steps that may be skipped in the whole run, resumed ones included.
        check_gradients: Whether to check gradients that are not clipped: ``'auto'`` on the CPU only, True
            everywhere (one reading of the gradients), False never. With ``policy='skip'`` the optimizer
            waits for the outcome, which synchronises a GPU at every step.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(self, policy: str = 'stop', budget: int = 10, check_gradients: str | bool = 'auto'):
        if policy not in POLICIES:
            raise ValueError(f'policy={policy!r} of NonFiniteHook; give one of {", ".join(POLICIES)}')
        if budget < 0:
            raise ValueError(f'budget={budget} of NonFiniteHook; give 0 or more')
        if check_gradients not in ('auto', True, False):
            raise ValueError(
                f"check_gradients={check_gradients!r} of NonFiniteHook; give 'auto', True or False"
            )
        self.policy = policy
        self.budget = budget
        self.check_gradients = check_gradients
        self._runner: Any = None
        self._model: Any = None
        self._batch: Any = None
        self._prepared: Any = None
        self._losses: Any = None
        self._generators: GeneratorStates | None = None
        # running statistics and queues before the step, which a skipped one must not change
        self._buffers: dict[str, Tensor] = {}
        self._handles: list[RemovableHandle] = []
        # whether a step can be computed again: one process has all of it
        self._repeatable = False
        self._wrapper_checks = True

    def before_train(self, runner) -> None:
        """Turn on the checks of the optimizer wrapper."""
        self._runner = runner
        self._wrapper_checks = True
        for wrapper in _wrappers_of(runner):
            if isinstance(wrapper, OptimWrapper):
                wrapper.on_nonfinite = self.handle
                wrapper.check_gradients = self.check_gradients
                wrapper.gradients_first = self.policy == 'skip'
            else:
                self._wrapper_checks = False
                runner.logger.warning(
                    f'NonFiniteHook: {type(wrapper).__name__} does not check losses and gradients, so '
                    'that a loss that is not finite stops the run only after the optimizer has used it; to '
                    "check before, set optim_wrapper=dict(type='mmssl.OptimWrapper', ...)"
                )
        self._model = model = bare_model(runner.model)
        self._handles = [model.register_forward_hook(self._keep_losses)]
        preprocessor: Any = getattr(model, 'data_preprocessor', None)
        self._repeatable = get_world_size() == 1 and isinstance(preprocessor, torch.nn.Module)
        if self._repeatable:
            self._handles.append(preprocessor.register_forward_hook(self._keep_prepared))

    def _keep_losses(self, model, inputs, output) -> None:
        if isinstance(output, dict):
            self._losses = output

    def _keep_prepared(self, preprocessor, data, prepared) -> None:
        self._prepared = prepared

    def after_train(self, runner) -> None:
        """Turn the checks off."""
        for wrapper in _wrappers_of(runner):
            if isinstance(wrapper, OptimWrapper):
                wrapper.on_nonfinite = None
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._repeatable = False

    def before_train_iter(self, runner, batch_idx: int, data_batch=None) -> None:
        """Keep the batch, whose files an error names, and the states of the generators."""
        self._batch = data_batch
        self._losses = None
        if self.policy == 'skip':
            self._buffers = {
                name: buffer.clone()
                for name, buffer in self._model.named_buffers()
                if buffer.is_floating_point()
            }
        if self._repeatable:
            device = next((parameter.device for parameter in self._model.parameters()), None)
            self._generators = GeneratorStates(device)

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Release the batch; where the wrapper does not check, stop at a loss that is not finite."""
        if not self._wrapper_checks:
            losses = self._named_losses()
            bad = [name for name, value in losses.items() if not bool(torch.isfinite(value).all())]
            if bad:
                raise NonFiniteError(
                    f'iteration {runner.iter + 1}: {_describe_loss(losses[bad[0]], losses)}'
                    f'{_describe_files(self._batch)}. The optimizer has used it: start again from the last '
                    "checkpoint, with optim_wrapper=dict(type='mmssl.OptimWrapper', ...)"
                )
        self._batch = None
        self._prepared = None
        self._losses = None

    def handle(self, loss: Tensor | None = None, norm: float | None = None, late: bool = False) -> None:
        """Raise, or count and log a skipped step.

        Args:
            loss: The loss, if it is not finite on some rank.
            norm: The norm of the gradients, if it is not finite on some rank.
            late: Whether the norm is that of the step before, whose gradients the optimizer has used.

        Raises:
            NonFiniteError: The policy is 'stop', or the budget is used up.
        """
        if late:
            raise NonFiniteError(
                f'iteration {self._runner.iter}: the gradient norm is {norm}, and the optimizer has used it; '
                'no checkpoint holds these weights: start again from the last one with a lower learning '
                "rate, or skip such steps with NonFiniteHook(policy='skip')"
            )
        losses = self._named_losses()
        if loss is not None:
            problem = _describe_loss(loss, losses)
        else:
            problem = f'the gradient norm is {norm}{_describe_values(losses)}'
        message = f'iteration {self._runner.iter + 1}: {problem}{_describe_files(self._batch)}'
        if self.policy == 'stop':
            raise NonFiniteError(
                f'{message}{self._source()}. The optimizer has not used it: lower the learning rate, '
                "check these images, or skip such steps with NonFiniteHook(policy='skip')"
            )
        hub = self._runner.message_hub
        skipped = (hub.get_info('non_finite_skips') if 'non_finite_skips' in hub.runtime_info else 0) + 1
        hub.update_info('non_finite_skips', skipped)
        if skipped > self.budget:
            raise NonFiniteError(
                f'{message}{self._source()}. Steps skipped so far: {skipped}, more than the budget of '
                f'{self.budget}, so single images are not to blame; lower the learning rate, '
                'or train in bfloat16 or float32'
            )
        for name, buffer in self._buffers.items():
            self._model.get_buffer(name).copy_(buffer)
        self._runner.logger.warning(f'{message}. Step skipped ({skipped} of at most {self.budget})')

    def _named_losses(self) -> dict[str, Any]:
        if self._losses is None:
            return {}
        if hasattr(self._model, 'parse_losses'):
            return dict(self._model.parse_losses(self._losses)[1])
        return dict(self._losses)

    def _source(self) -> str:
        """Return where the value was made, if the step can be repeated."""
        wrapper = self._runner.optim_wrapper
        if self._prepared is None or isinstance(wrapper, OptimWrapperDict):
            return ''
        return describe_source(self._model, self._prepared, wrapper, self._generators)


def _wrappers_of(runner) -> list:
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def _describe_loss(loss: Tensor, losses: dict[str, Any]) -> str:
    """Return the losses that are not finite with their values, and the finite ones."""
    if bool(torch.isfinite(loss).all()):
        return 'the loss of another rank is not finite'
    bad = {
        name: value
        for name, value in losses.items()
        if isinstance(value, Tensor) and not bool(torch.isfinite(value).all())
    }
    # the sum of the losses is named only if none of its parts is to blame
    parts = {name: value for name, value in bad.items() if name != 'loss'} or bad or {'loss': loss}
    values = ', '.join(f'{name} = {float(value.detach().float().sum())}' for name, value in parts.items())
    rest = {name: value for name, value in losses.items() if name not in parts}
    return f'not finite: {values}{_describe_values(rest)}'


def _describe_values(losses: dict[str, Any]) -> str:
    """Return the finite scalars among the losses in parentheses."""
    values = {
        name: value.item()
        for name, value in losses.items()
        if isinstance(value, Tensor) and value.numel() == 1
    }
    shown = [f'{name} = {value:.4g}' for name, value in values.items() if math.isfinite(value)]
    return f' ({", ".join(shown)})' if shown else ''


def _describe_files(batch) -> str:
    files = image_files(batch)
    if not files:
        return ''
    more = f' and {len(files) - SHOWN_FILES} more' if len(files) > SHOWN_FILES else ''
    return f'; the batch: {", ".join(files[:SHOWN_FILES])}{more}'


def image_files(data) -> list[str]:
    """Return the image files in a batch of nested dicts, lists and data samples with ``img_path``."""
    files: dict[str, None] = {}
    stack = [data]
    while stack:
        item = stack.pop()
        if isinstance(item, (list, tuple)):
            stack += reversed(item)
            continue
        if isinstance(item, dict):
            stack += [value for key, value in reversed(item.items()) if key != 'inputs']
            paths = item.get('img_path')
        else:
            paths = None if isinstance(item, Tensor) else getattr(item, 'img_path', None)
        for path in paths if isinstance(paths, (list, tuple)) else [paths]:
            if path is not None:
                files[str(path)] = None
    return list(files)
