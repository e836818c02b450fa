"""Mixed precision on the CPU and the GPU."""

from contextlib import contextmanager

import torch
from torch import nn

from mmssl.engine.optim_wrapper import OptimWrapper
from mmssl.registry import OPTIM_WRAPPERS

DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}


@OPTIM_WRAPPERS.register_module()
class AmpOptimWrapper(OptimWrapper):
    """Optimizer wrapper for mixed precision: bfloat16 without loss scaling, or float16 with it.

    mmengine's needs a GPU, autocasts to float16 by default and scales the loss in bfloat16 too.

    Args:
        dtype: ``'bfloat16'``, whose range needs no loss scaling, or ``'float16'`` (CUDA only) with a gradient
            scaler.
        loss_scale: Loss scale of float16: ``'dynamic'``, a fixed number, or a dict of arguments for
            ``torch.amp.GradScaler``.
        use_fsdp: Scale gradients that are sharded over ranks (float16 with FullyShardedDataParallel).
        **kwargs: Passed on to :class:`mmssl.engine.optim_wrapper.OptimWrapper`.

    Raises:
        ValueError: Unknown ``dtype`` or ``loss_scale``, or float16 on the CPU.
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
                f'dtype={dtype!r} of AmpOptimWrapper; give one of {", ".join(DTYPES)}, or use OptimWrapper'
            )
        self.cast_dtype = DTYPES[dtype]
        self.device_type = self.optimizer.param_groups[0]['params'][0].device.type
        self.loss_scaler = None
        self._fixed_scale: float | None = None
        if dtype == 'float16':
            if self.device_type == 'cpu':
                raise ValueError(
                    "dtype='float16' of AmpOptimWrapper needs a GPU: on the CPU use 'bfloat16', "
                    'which needs no loss scaling'
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
                f"loss_scale={loss_scale!r} of AmpOptimWrapper; give 'dynamic', a number above 0, "
                'or a dict for GradScaler'
            )
        if use_fsdp:
            from torch.distributed.fsdp.sharded_grad_scaler import ShardedGradScaler

            return ShardedGradScaler(**arguments)
        return torch.amp.GradScaler(self.device_type, **arguments)

    @contextmanager
    def optim_context(self, model: nn.Module):
        """Autocast the forward pass, in mmengine's context for gradient accumulation."""
        with super().optim_context(model), torch.autocast(self.device_type, self.cast_dtype):
            yield

    def backward(self, loss: torch.Tensor, **kwargs) -> None:
        """Run the backward pass of the loss, scaled in float16."""
        if self.loss_scaler is not None:
            loss = self.loss_scaler.scale(loss)
        super().backward(loss, **kwargs)

    def step(self, **kwargs) -> None:
        """Clip, then step; in float16 a step with infinite gradients is skipped and the scale lowered."""
        if self.loss_scaler is None:
            super().step(**kwargs)
            return
        if self.clip_grad_kwargs:
            self.loss_scaler.unscale_(self.optimizer)
            self._clip_grad()
        self.loss_scaler.step(self.optimizer, **kwargs)
        self.loss_scaler.update(self._fixed_scale)

    def state_dict(self) -> dict:
        """Return the state of the optimizer, and of the scaler under ``loss_scaler`` in float16."""
        state = super().state_dict()
        if self.loss_scaler is not None:
            state['loss_scaler'] = self.loss_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict) -> None:
        """Load the state of this wrapper, of mmengine's or of a plain OptimWrapper, which is not changed."""
        state = dict(state_dict)
        scaler_state = state.pop('loss_scaler', None)
        if self.loss_scaler is not None and scaler_state:
            self.loss_scaler.load_state_dict(scaler_state)
        super().load_state_dict(state)
