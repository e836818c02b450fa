"""Hook with a progress bar that shows the loss and the time left."""

import logging
import sys

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from tqdm import tqdm

from mmssl.registry import HOOKS


class _ClearFirst(logging.Filter):
    """Log filter that clears the bars from the line a record is about to be written to.

    The next step draws them again.

    Args:
        hook: The hook with the bars.
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
    """Progress bar with the loss and the time left, in training and evaluation.

    ``mmssl train`` and ``mmssl test`` add it on a terminal.

    Args:
        smoothing: Weight of the newest loss in the displayed average.
    """

    priority = 'VERY_LOW'

    def __init__(self, smoothing: float = 0.1):
        self.smoothing = smoothing
        self.bar: tqdm | None = None
        self.loss = None
        self.evaluation: tqdm | None = None
        self._filter = _ClearFirst(self)

    @property
    def bars(self) -> list[tqdm]:
        """Bars on the screen."""
        return [bar for bar in (self.evaluation, self.bar) if bar is not None]

    def _open(self, runner, desc: str, total: int | None, **settings) -> tqdm | None:
        """Return a new bar on the first rank, None on the others."""
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
        """Advance by one step; the loss is read from its device only when it is drawn."""
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

    def _advance_evaluation(self) -> None:
        if self.evaluation is not None:
            self.evaluation.update()

    def before_val_epoch(self, runner) -> None:
        """Open a second bar."""
        self._before_evaluation(runner, runner.val_dataloader, 'evaluating')

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Advance by one batch."""
        self._advance_evaluation()

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Close the second bar."""
        self._after_evaluation()

    def before_test_epoch(self, runner) -> None:
        """Open the bar."""
        self._before_evaluation(runner, runner.test_dataloader, 'testing')

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Advance by one batch."""
        self._advance_evaluation()

    def after_test_epoch(self, runner, metrics=None) -> None:
        """Close the second bar."""
        self._after_evaluation()
