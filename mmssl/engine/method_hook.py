"""Ties a self-supervised method to its run."""

import logging

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.runner import EpochBasedTrainLoop

from mmssl.registry import HOOKS


@HOOKS.register_module()
class MethodHook(Hook):
    """The host has no place for what a recipe does around an optimizer step; its schedules guess the length of training from a message hub.

    Before training, a model with ``set_schedule`` is told how many optimizer steps an epoch and the whole run
    have, and one with ``attach`` is tied to the optimizer. Our runner adds this hook by itself; for
    mmengine's own runner add ``dict(type='mmssl.MethodHook')`` to ``custom_hooks``.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner) -> None:
        """Set the schedule and attach to the optimizer."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        accumulated = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if hasattr(model, 'set_schedule'):
            length = len(runner.train_dataloader)
            if not isinstance(runner.train_loop, EpochBasedTrainLoop):
                length = min(length, runner.max_iters)
            model.set_schedule(max(1, length // accumulated), max(1, runner.max_iters // accumulated))
        if hasattr(model, 'attach'):
            if accumulated > 1 and getattr(model, 'momentum_pairs', list)():
                print_log(
                    f'gradients of {accumulated} batches make one step: a queue moves on with every batch, a momentum encoder with '
                    'every step',
                    logger='current',
                    level=logging.INFO,
                )
            model.attach(runner.optim_wrapper.optimizer)
