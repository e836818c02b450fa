"""Hook with a progress bar that shows loss, learning rate, images per second and the time left."""

import logging
import sys
import time
from datetime import timedelta
from weakref import WeakKeyDictionary

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.logging import MMLogger
from tqdm import tqdm

from mmssl.registry import HOOKS

# runner -> (time, step) at the beginning of its training
_beginnings: WeakKeyDictionary = WeakKeyDictionary()


def loader_batch_size(loader) -> int:
    """Return the number of images in a batch of a loader, 0 if it does not say."""
    size = getattr(loader, 'batch_size', None)
    return size or getattr(getattr(loader, 'batch_sampler', None), 'batch_size', None) or 0


def accumulated_batches(wrapper) -> int:
    """Return the number of batches in a step of an optimizer wrapper."""
    return getattr(wrapper, '_accumulative_counts', 1)


def progress_text(runner, loss: float | None, steps_per_second: float | None = None) -> str:
    """Describe the progress of a training run.

    Args:
        runner: The runner.
        loss: Its loss, if it has one.
        steps_per_second: Speed; None measures it since the training began, and adds the time left.

    Returns:
        For example ``'loss 0.412  lr 0.001  96 images/s  0:12:03 left'``.
    """
    parts = [] if loss is None else [f'loss {loss:.3f}']
    rates = [rate for values in runner.optim_wrapper.get_lr().values() for rate in values]
    if rates:
        parts.append(f'lr {max(rates):.3g}')
    left = ''
    if steps_per_second is None:
        began, first = _beginnings.get(runner, (time.monotonic(), runner.iter))
        steps_per_second = (runner.iter + 1 - first) / max(time.monotonic() - began, 1e-3)
        left = f'{timedelta(seconds=int((runner.max_iters - runner.iter - 1) / steps_per_second))} left'
    images = steps_per_second * loader_batch_size(runner.train_dataloader) * get_world_size()
    if images:
        parts.append(f'{images:.3g} images/s' if images < 100 else f'{images:,.0f} images/s')
    return '  '.join([*parts, left] if left else parts)


def note_beginning(runner) -> None:
    """Measure the speed of :func:`progress_text` from now on."""
    _beginnings[runner] = time.monotonic(), runner.iter


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
    """Progress bar with loss, learning rate, images per second and the time left, and one of evaluation.

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
        """Open the bar, which is drawn after the first step: hooks that follow may still write lines."""
        self.bar = self._open(
            runner, 'training', runner.max_iters, initial=runner.iter, unit='step', delay=1e-6
        )

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Advance by one step; the loss is read from its device only when it is drawn."""
        if self.bar is None:
            return
        if outputs and 'loss' in outputs:
            loss = outputs['loss'].detach()
            self.loss = loss if self.loss is None else self.loss + self.smoothing * (loss - self.loss)
        if self.bar.update():
            self._describe(self.bar, runner, refresh=True)

    def after_train(self, runner) -> None:
        """Close the bar."""
        if self.bar is not None:
            self._describe(self.bar, runner, refresh=False)
            self.bar.close()
            self.bar = None

    def _describe(self, bar: tqdm, runner, refresh: bool) -> None:
        """Write the state of the run behind the bar."""
        loss = None if self.loss is None else self.loss.item()
        speed = bar.format_dict['rate'] or 0
        bar.set_postfix_str(progress_text(runner, loss, speed), refresh=refresh)

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
