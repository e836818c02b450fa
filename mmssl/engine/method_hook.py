"""Hook that connects a self-supervised method to its run."""

import logging

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.runner import EpochBasedTrainLoop

from mmssl.engine.bare_model import bare_model
from mmssl.registry import HOOKS


@HOOKS.register_module()
class MethodHook(Hook):
    """Connect a self-supervised method to its run before training.

    A model with ``set_schedule`` gets the number of optimizer steps in an epoch and in the whole run, and one
    with ``attach`` gets the optimizer, around whose steps it acts. In a run that is not resumed, schedules
    begin at step 0, also where ``load_from`` names a finished run. The runners of mmssl add this hook
    themselves; with mmengine's own add ``dict(type='mmssl.MethodHook')`` to ``custom_hooks``.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner) -> None:
        """Set the schedule, and attach the model to the optimizer."""
        model = bare_model(runner.model)
        if runner.iter == 0 and hasattr(model, 'restart_schedule'):
            model.restart_schedule()
        accumulated = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if hasattr(model, 'set_schedule'):
            length = len(runner.train_dataloader)
            if not isinstance(runner.train_loop, EpochBasedTrainLoop):
                length = min(length, runner.max_iters)
            model.set_schedule(max(1, length // accumulated), max(1, runner.max_iters // accumulated))
        if hasattr(model, 'attach'):
            if accumulated > 1 and getattr(model, 'momentum_pairs', list)():
                print_log(
                    f'gradients of {accumulated} batches make one step: a queue advances with every batch, '
                    'a momentum encoder with every step',
                    logger='current',
                    level=logging.INFO,
                )
            model.attach(runner.optim_wrapper.optimizer)
