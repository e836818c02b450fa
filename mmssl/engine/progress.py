"""A progress bar with the time left, beside the log lines or in their place."""

import logging
import sys

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from tqdm import tqdm

from mmssl.registry import HOOKS


class _ClearFirst(logging.Filter):
    """Takes the bar off the line that a log record is about to be written to; the next step draws it again.

    Args:
        hook: with ``bars``.
    """

    def __init__(self, hook: 'ProgressHook'):
        super().__init__()
        self.hook = hook

    def filter(self, record) -> bool:
        """Let every record through."""
        for bar in self.hook.bars:
            bar.clear()
        return True


@HOOKS.register_module()
class ProgressHook(Hook):
    """One line with the loss and the time left, in training and in evaluation; the host's LoggerHook prints a line every so many steps and
    no bar. ``mmssl train`` and ``test`` add it on a terminal.

    Args:
        smoothing: share of the newest loss in the shown average.
    """

    priority = 'VERY_LOW'

    def __init__(self, smoothing: float = 0.1):
        self.smoothing, self.bar, self.loss = smoothing, None, None
        self.evaluation, self._filter = None, _ClearFirst(self)

    @property
    def bars(self) -> list[tqdm]:
        """Those that are on the screen."""
        return [bar for bar in (self.evaluation, self.bar) if bar is not None]

    def _open(self, runner, desc: str, total: int | None, **settings) -> tqdm | None:
        """A bar, on the first rank."""
        if not is_main_process():
            return None
        for handler in MMLogger.get_current_instance().handlers:
            if (
                isinstance(handler, logging.StreamHandler)
                and not isinstance(handler, logging.FileHandler)
                and self._filter not in handler.filters
            ):
                handler.addFilter(self._filter)
        return tqdm(total=total, desc=desc, file=sys.stderr, dynamic_ncols=True, mininterval=0.5, **settings)

    def before_train(self, runner) -> None:
        """Open the bar."""
        self.bar = self._open(runner, 'training', runner.max_iters, initial=runner.iter, unit='step')

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Move on by one step; the loss is read from its device only when it is drawn."""
        if self.bar is None:
            return
        if outputs and 'loss' in outputs:
            loss = outputs['loss'].detach()
            self.loss = loss if self.loss is None else self.loss + self.smoothing * (loss - self.loss)
        if self.bar.update() and self.loss is not None:
            self.bar.set_postfix_str(f'loss {self.loss.item():.3f}')

    def after_train(self, runner) -> None:
        """Close the bar."""
        if self.bar is not None:
            if self.loss is not None:
                self.bar.set_postfix_str(f'loss {self.loss.item():.3f}', refresh=False)
            self.bar.close()
            self.bar = None

    def _before_evaluation(self, runner, loader, desc: str) -> None:
        try:
            total = len(loader)
        except TypeError:
            total = None
        if self.bar is not None:
            self.bar.clear()
        self.evaluation = self._open(runner, desc, total, unit='batch', leave=False)

    def _after_evaluation(self) -> None:
        if self.evaluation is not None:
            self.evaluation.close()
            self.evaluation = None

    def _evaluated(self) -> None:
        if self.evaluation is not None:
            self.evaluation.update()

    def before_val_epoch(self, runner) -> None:
        """Open a second bar."""
        self._before_evaluation(runner, runner.val_dataloader, 'evaluating')

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Move on by one batch."""
        self._evaluated()

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Close it."""
        self._after_evaluation()

    def before_test_epoch(self, runner) -> None:
        """Open a bar."""
        self._before_evaluation(runner, runner.test_dataloader, 'testing')

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Move on by one batch."""
        self._evaluated()

    def after_test_epoch(self, runner, metrics=None) -> None:
        """Close it."""
        self._after_evaluation()
