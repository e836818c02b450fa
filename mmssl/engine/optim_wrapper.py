"""Optimizer wrapper that checks losses and gradients before a step, and can clip every gradient by itself."""

from collections.abc import Callable

import torch
from mmengine.optim import AmpOptimWrapper as MMEngineAmpOptimWrapper
from mmengine.optim import OptimWrapper as MMEngineOptimWrapper
from torch import Tensor, nn

from mmssl.engine.nonfinite_flag import DeviceFlag, finite_everywhere, largest_magnitude
from mmssl.engine.runtime_info import record_scalar
from mmssl.layers.distributed import own_part, whole
from mmssl.ops.scale_each import scale_each_
from mmssl.registry import OPTIM_WRAPPERS


@torch.no_grad()
def clip_each_grad_norm_(parameters: list[nn.Parameter], max_norm: float) -> Tensor:
    """Scale down every gradient whose own norm is above ``max_norm``, as DINO and iBOT clip.

    Args:
        parameters: Parameters with gradients.
        max_norm: Maximum norm of the gradient of one parameter.

    Returns:
        Scalar, the norm of all gradients together before clipping.
    """
    gradients = [parameter.grad for parameter in parameters]
    norms = torch.stack(torch._foreach_norm(gradients))
    scale_each_(gradients, (max_norm / (norms + 1e-6)).clamp(max=1.0))
    return norms.norm()


class _NonFiniteGradient(Exception):  # noqa: N818  control flow, not an error
    """Leaves a step between clipping and the optimizer.

    Args:
        norm: The norm of the gradients.
    """

    def __init__(self, norm: float):
        super().__init__(norm)
        self.norm = norm


@OPTIM_WRAPPERS.register_module()
class OptimWrapper(MMEngineOptimWrapper):
    """mmengine's OptimWrapper with two additions.

    It takes ``clip_grad=dict(type='each', max_norm=...)``, where mmengine's clips the common norm only. And
    while ``on_nonfinite`` is set, as :class:`mmssl.engine.nonfinite.NonFiniteHook` does during training,
    every loss is checked before the optimizer's step, and the gradients: always where clipping computes
    their norm, otherwise as ``check_gradients`` says. With several ranks the outcome is reduced, so that all
    of them act alike. A rejected batch discards the whole accumulated step it belongs to.

    On a GPU the CPU reads the outcome for the loss after the backward pass is queued, so that it waits for
    the forward pass only, and the outcome for the gradients one step later, unless ``gradients_first`` is
    set.

    With a float16 gradient scaler infinite gradients are left to the scaler, which lowers its scale and
    skips the step itself.

    Args:
        *args: Passed on to mmengine's OptimWrapper.
        clip_grad: As for mmengine's OptimWrapper, or ``dict(type='each', max_norm=...)``.
        **kwargs: Passed on to mmengine's OptimWrapper.

    Attributes:
        on_nonfinite: Called with ``loss`` (a tensor) or ``norm`` (of the gradients) that is NaN or
            infinite; the step is skipped if it returns. With ``late=True`` the optimizer has already used
            the gradients. None: nothing is checked.
        check_gradients: Whether to check gradients that are not clipped: True, False, or 'auto' for only on
            the CPU.
        gradients_first: Whether the optimizer waits for the outcome of the check of the gradients.
    """

    on_nonfinite: Callable[..., None] | None = None
    check_gradients: bool | str = 'auto'
    gradients_first = False
    # the norm of the last step's gradients, and whether it is finite, if that has not been read
    _last_norm: tuple[Tensor, DeviceFlag] | None = None
    # whether the rest of the accumulated step is discarded
    _discarding = False

    def __init__(self, *args, clip_grad: dict | None = None, **kwargs):
        each = clip_grad is not None and clip_grad.get('type') == 'each'
        if clip_grad is not None and each:
            clip_grad = {key: value for key, value in clip_grad.items() if key != 'type'}
            if set(clip_grad) != {'max_norm'} or not clip_grad['max_norm'] > 0:
                raise ValueError(
                    "clip_grad=dict(type='each', ...) takes max_norm above 0 and nothing else, "
                    f'not {clip_grad}'
                )
        super().__init__(*args, clip_grad=clip_grad, **kwargs)
        if each:
            self.clip_func = clip_each_grad_norm_

    def update_params(
        self, loss: Tensor, step_kwargs: dict | None = None, zero_kwargs: dict | None = None
    ) -> None:
        """Run the backward pass, and step when the accumulated gradients are complete."""
        if self.on_nonfinite is None:
            super().update_params(loss, step_kwargs, zero_kwargs)
            return
        finite = finite_everywhere(loss)
        if self._discarding or (finite.ready and not finite.read()):
            # counted without a backward pass, so that learning rates and accumulation proceed as usual
            self._inner_count += 1
        else:
            self.backward(self.scale_loss(loss))
        self._read_last_norm()
        if not finite.read():
            self.on_nonfinite(loss=loss)
            self.zero_grad()
            self._discarding = True
        if self.should_update():
            if not self._discarding:
                self.step(**(step_kwargs or {}))
                self.zero_grad(**(zero_kwargs or {}))
            self._discarding = False

    def step(self, **kwargs) -> None:
        """Check the gradients, clip them, and let the optimizer step."""
        if self.on_nonfinite is None or self._scales_loss():
            super().step(**kwargs)
            return
        clips_norm = bool(self.clip_grad_kwargs) and getattr(self, 'grad_name', '') == 'grad_norm'
        try:
            if not clips_norm:
                self._check_gradients()
            super().step(**kwargs)
        except _NonFiniteGradient as error:
            self.on_nonfinite(norm=error.norm)
            # update_params clears the gradients next

    def _clip_grad(self) -> None:
        """Clip the gradients as mmengine does, and check their norm before the optimizer uses them."""
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group['params']]
        parameters = [each for each in parameters if each.requires_grad and each.grad is not None]
        if not parameters:
            return
        norm = self.clip_func(parameters, **self.clip_grad_kwargs)
        if norm is None:  # clipped by value
            return
        norm = whole(norm)
        if self.on_nonfinite is not None and not self._scales_loss():
            self._check_norm(norm)
        record_scalar(self.message_hub, f'train/{self.grad_name}', norm)

    def _check_norm(self, norm: Tensor) -> None:
        finite = finite_everywhere(norm)
        if not finite.ready and not self.gradients_first:
            self._last_norm = norm, finite
        elif not finite.read():
            raise _NonFiniteGradient(float(norm))

    def _read_last_norm(self) -> None:
        if self._last_norm is not None:
            (norm, finite), self._last_norm = self._last_norm, None
            if self.on_nonfinite is not None and not finite.read():
                self.on_nonfinite(norm=float(norm), late=True)

    def _check_gradients(self) -> None:
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group['params']]
        if not parameters or not self.check_gradients:
            return
        device = parameters[0].device
        if self.check_gradients == 'auto' and device.type != 'cpu':
            return
        # a rank of a sharded model may hold no gradient, but has to take part in the reduction
        gradients = [own_part(each.grad) for each in parameters if each.grad is not None]
        gradients = [gradient for gradient in gradients if not gradient.is_sparse]
        self._check_norm(largest_magnitude(gradients, device))

    def _scales_loss(self) -> bool:
        scaler = getattr(self, 'loss_scaler', None)
        return scaler is not None and scaler.is_enabled()


class CheckedAmpOptimWrapper(OptimWrapper, MMEngineAmpOptimWrapper):
    """mmengine's AmpOptimWrapper with the additions of :class:`OptimWrapper`."""


def use_checked_wrappers(cfg):
    """Return the settings of an optimizer wrapper with mmengine's classes replaced by those that check.

    Args:
        cfg: Settings of one wrapper or of several; others, and wrappers that are built, are returned
            unchanged.
    """
    if not isinstance(cfg, dict):
        return cfg
    checked = {'OptimWrapper': OptimWrapper, 'AmpOptimWrapper': CheckedAmpOptimWrapper}
    copied = type(cfg)({key: use_checked_wrappers(value) for key, value in cfg.items()})
    name = cfg.get('type', 'OptimWrapper' if 'optimizer' in cfg else None)
    if isinstance(name, str) and name.removeprefix('mmengine.') in checked:
        copied['type'] = checked[name.removeprefix('mmengine.')]
    return copied
