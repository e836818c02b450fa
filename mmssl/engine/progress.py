"""A progress bar in the place of log lines."""

import sys

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from tqdm import tqdm

from mmssl.registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """One line with the loss and the time left; the host's LoggerHook prints a line every so many steps and no bar.

    Args:
        smoothing: share of the newest loss in the shown average.
    """

    priority = 'VERY_LOW'

    def __init__(self, smoothing: float = 0.1):
        self.smoothing, self.bar, self.loss = smoothing, None, None

    def before_train(self, runner) -> None:
        """Open the bar, on the first rank."""
        if is_main_process():
            self.bar = tqdm(total=runner.max_iters, initial=runner.iter, desc='training', unit='step', file=sys.stderr, dynamic_ncols=True,
                            mininterval=0.5)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Move on by one step."""
        if self.bar is None:
            return
        if outputs and 'loss' in outputs:
            loss = outputs['loss'].item()
            self.loss = loss if self.loss is None else self.loss + self.smoothing * (loss - self.loss)
            self.bar.set_postfix_str(f'loss {self.loss:.3f}', refresh=False)
        self.bar.update()

    def after_train(self, runner) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()
            self.bar = None
