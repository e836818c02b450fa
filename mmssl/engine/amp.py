"""Optimizer wrappers: mixed precision on the CPU as on the GPU, and clipping of every gradient by itself."""

from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmssl.registry import OPTIM_WRAPPERS

if TYPE_CHECKING:
    from mmengine.optim import OptimWrapper as Host
else:
    Host = object  # the wrapper comes after the mixin

DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}


@torch.no_grad()
def clip_each_grad_norm_(parameters: list[nn.Parameter], max_norm: float) -> torch.Tensor:
    """Scale every gradient whose own norm is above ``max_norm`` down to it, as DINO and iBOT clip.

    Args:
        parameters: with gradients.
        max_norm: largest norm of the gradient of one parameter.

    Returns:
        scalar, the norm of all gradients together before clipping.
    """
    gradients = [parameter.grad for parameter in parameters]
    norms = torch.stack(torch._foreach_norm(gradients))
    torch._foreach_mul_(gradients, list((max_norm / (norms + 1e-6)).clamp(max=1.0).unbind()))
    return norms.norm()


class ClipEachMixin(Host):
    """Adds ``clip_grad=dict(type='each', max_norm=...)`` to an optimizer wrapper of mmengine, which clips the common norm only."""

    def __init__(self, *args, clip_grad: dict | None = None, **kwargs):
        each = clip_grad is not None and clip_grad.get('type') == 'each'
        if clip_grad is not None and each:
            clip_grad = {key: value for key, value in clip_grad.items() if key != 'type'}
            if set(clip_grad) != {'max_norm'} or not clip_grad['max_norm'] > 0:
                raise ValueError(
                    f"clip_grad=dict(type='each', ...) takes max_norm above 0 and nothing else, not {clip_grad}"
                )
        super().__init__(*args, clip_grad=clip_grad, **kwargs)
        if each:
            self.clip_func = clip_each_grad_norm_


@OPTIM_WRAPPERS.register_module(name='OptimWrapper')
class EachOptimWrapper(ClipEachMixin, OptimWrapper):
    """The host's clips the common norm of all gradients only; this one takes ``clip_grad=dict(type='each', max_norm=3.0)`` too."""


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(ClipEachMixin, OptimWrapper):
    """The host's refuses to run without a GPU, autocasts to float16 unless told otherwise, and scales the loss even in bfloat16.

    Args:
        dtype: ``'bfloat16'``, whose range needs no loss scaling, or ``'float16'`` (CUDA only) with a gradient
            scaler.
        loss_scale: of float16: ``'dynamic'``, a fixed number, or a dict of arguments for
            ``torch.amp.GradScaler``.
        use_fsdp: scale gradients that are sharded over ranks (float16 with FullyShardedDataParallel).
        **kwargs: ``optimizer``, ``accumulative_counts``, ``clip_grad``, as for mmengine's OptimWrapper.

    Raises:
        ValueError: an unknown ``dtype`` or ``loss_scale``, or float16 on the CPU.
    """

    def __init__(
        self,
        dtype: str | torch.dtype | None = 'bfloat16',
        loss_scale='dynamic',
        use_fsdp: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        dtype = 'bfloat16' if dtype is None else str(dtype).removeprefix('torch.')
        if dtype not in DTYPES:
            raise ValueError(
                f'dtype={dtype!r} of AmpOptimWrapper; one of {", ".join(DTYPES)} (float32 is plain OptimWrapper)'
            )
        self.cast_dtype = DTYPES[dtype]
        self.device_type = self.optimizer.param_groups[0]['params'][0].device.type
        self.loss_scaler = None
        self._fixed_scale: float | None = None
        if dtype == 'float16':
            if self.device_type == 'cpu':
                raise ValueError(
                    "dtype='float16' of AmpOptimWrapper needs a GPU: on the CPU use 'bfloat16', which needs no loss scaling"
                )
            self.loss_scaler = self._build_scaler(loss_scale, use_fsdp)

    def _build_scaler(self, loss_scale, use_fsdp: bool):
        if loss_scale == 'dynamic':
            arguments = {}
        elif isinstance(loss_scale, (int, float)) and loss_scale > 0:
            self._fixed_scale = float(loss_scale)
            arguments = dict(init_scale=self._fixed_scale)
        elif isinstance(loss_scale, dict):
            arguments = loss_scale
        else:
            raise ValueError(
                f"loss_scale={loss_scale!r} of AmpOptimWrapper; 'dynamic', a number above 0, or a dict for GradScaler"
            )
        if use_fsdp:
            from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

            return ShardedGradScaler(**arguments)
        return torch.amp.GradScaler(self.device_type, **arguments)

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Autocast the forward pass, with the host's context for gradient accumulation."""
        with super().optim_context(model), torch.autocast(self.device_type, self.cast_dtype):
            yield

    def backward(self, loss: torch.Tensor, **kwargs) -> None:
        """Backward pass of the loss, scaled in float16."""
        if self.loss_scaler is not None:
            loss = self.loss_scaler.scale(loss)
        super().backward(loss, **kwargs)

    def step(self, **kwargs) -> None:
        """Clip, then step; in float16 a step with infinite gradients is left out and the scale lowered."""
        if self.loss_scaler is None:
            super().step(**kwargs)
            return
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self._fixed_scale)

    def state_dict(self) -> dict:
        """State of the optimizer, and of the scaler under ``loss_scaler`` in float16."""
        state = super().state_dict()
        if self.loss_scaler is not None:
            state['loss_scaler'] = self.loss_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Load what ``state_dict`` of this wrapper, of the host's or of a plain OptimWrapper gave; ``state_dict`` is not changed."""
        state = dict(state_dict)
        scaler_state = state.pop('loss_scaler', None)
        if self.loss_scaler is not None and scaler_state:
            self.loss_scaler.load_state_dict(scaler_state)
        super().load_state_dict(state)
