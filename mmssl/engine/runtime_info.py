"""Scalars of the log, which stay on their device until the log needs them."""

from weakref import WeakKeyDictionary

import torch
from mmengine.hooks import LoggerHook
from mmengine.hooks import RuntimeInfoHook as MMEngineRuntimeInfoHook
from mmengine.logging import MessageHub
from torch import Tensor

from mmssl.engine.nonfinite_flag import is_asynchronous
from mmssl.registry import HOOKS

# steps between two readings in a run without a LoggerHook
INTERVAL = 100
# hub -> (name, value) of the scalars that are still on a device
_recorded: WeakKeyDictionary[MessageHub, list[tuple[str, Tensor]]] = WeakKeyDictionary()


def record_scalar(hub: MessageHub, name: str, value) -> None:
    """Give a scalar to a message hub: at once from the CPU, from a device with :func:`read_scalars`."""
    if isinstance(value, Tensor) and is_asynchronous(value):
        _recorded.setdefault(hub, []).append((name, value.detach().reshape(())))
    else:
        hub.update_scalar(name, value)


def read_scalars(hub: MessageHub) -> None:
    """Give the recorded scalars to a message hub, in their order; this waits for their device once."""
    recorded = _recorded.pop(hub, [])
    if recorded:
        values = torch.stack([value.double() for _, value in recorded]).tolist()
        for (name, _), value in zip(recorded, values, strict=True):
            hub.update_scalar(name, value)


@HOOKS.register_module()
class RuntimeInfoHook(MMEngineRuntimeInfoHook):
    """mmengine's RuntimeInfoHook, without a synchronisation at every step.

    mmengine's copies each loss of each step from its device. Here the values of a GPU stay there until the
    log is due, and reach the message hub together, before a checkpoint is written too. The runners of mmssl
    replace mmengine's by it. A hook that reads ``train/loss`` from the message hub in between calls
    :func:`read_scalars` first.
    """

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Record the losses; read those of all steps since the last log if this step is logged."""
        for name, value in (outputs or {}).items():
            record_scalar(runner.message_hub, f'train/{name}', value)
        if self._is_logged(runner, batch_idx):
            read_scalars(runner.message_hub)

    def after_train(self, runner) -> None:
        """Read what is left."""
        read_scalars(runner.message_hub)
        super().after_train(runner)

    def _is_logged(self, runner, batch_idx: int) -> bool:
        intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)] or [INTERVAL]
        return self.end_of_epoch(runner.train_dataloader, batch_idx) or any(
            self.every_n_inner_iters(batch_idx, interval) or self.every_n_train_iters(runner, interval)
            for interval in intervals
        )


def use_deferred_scalars(default_hooks: dict | None) -> dict:
    """Return a config's default hooks with mmengine's RuntimeInfoHook replaced by that of this module."""
    hooks = dict(default_hooks or {})
    hook = hooks.get('runtime_info', {'type': 'RuntimeInfoHook'})
    named = isinstance(hook, dict) and hook.get('type') in (
        'RuntimeInfoHook',
        'mmengine.RuntimeInfoHook',
        MMEngineRuntimeInfoHook,
    )
    return {**hooks, 'runtime_info': {**hook, 'type': RuntimeInfoHook}} if named else hooks
