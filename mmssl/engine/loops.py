"""mmengine's training loops, able to start in the middle of the data without loading what comes before."""

from mmengine.runner import EpochBasedTrainLoop as MMEngineEpochBasedTrainLoop
from mmengine.runner import IterBasedTrainLoop as MMEngineIterBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator

from mmssl.engine import seeding


class EpochBasedTrainLoop(MMEngineEpochBasedTrainLoop):
    """mmengine's loop by epochs, whose first epoch can begin at a later batch."""

    # batches of the running epoch that were left out
    _first_batch = 0

    def start_at_batch(self, batch: int) -> None:
        """Let the next epoch begin at a batch, if its sampler can."""
        if batch and seeding.skip_in_epoch(self.dataloader, batch):
            self._first_batch = batch

    def run_iter(self, idx, data_batch) -> None:
        """Run one iteration, counted from the beginning of the epoch."""
        super().run_iter(idx + self._first_batch, data_batch)

    def run_epoch(self) -> None:
        """Run one epoch, or the rest of the first one."""
        super().run_epoch()
        self._first_batch = 0


class SkippingIterator(_InfiniteDataloaderIterator):
    """mmengine's endless iterator, which skips batches without loading them."""

    # batches to skip when the loop asks for it; None for as many as the loop says
    start: int | None = None

    def skip_iter(self, num_iters: int) -> None:
        """Move forward by ``num_iters`` batches, or to the batch set by ``start``."""
        batches = num_iters if self.start is None else self.start
        epoch, batch = 0, batches
        if not seeding.is_endless(self._dataloader):
            epoch, batch = divmod(batches, len(self._dataloader))
        if not seeding.skip_in_epoch(self._dataloader, batch):
            super().skip_iter(batches)
            return
        if epoch:
            seeding.set_epoch(self._dataloader, epoch)
            self._epoch = epoch
        self._iterator = None

    def close(self) -> None:
        """Release the workers.

        An endless loader has workers until the end. Collected in a cycle with the runner, each of them would
        be waited for five seconds.
        """
        self._iterator = None


class IterBasedTrainLoop(MMEngineIterBasedTrainLoop):
    """mmengine's loop by iterations, which can begin at any sample of the stream."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.dataloader_iterator = SkippingIterator(self.dataloader)

    def start_at_batch(self, batch: int) -> None:
        """Let the loop begin at a batch, counted from the first step of the run."""
        self.dataloader_iterator.start = batch

    def close(self) -> None:
        """Release the workers."""
        self.dataloader_iterator.close()


def use_skipping_loop(cfg):
    """Return the settings of a training loop with mmengine's classes replaced by those of this module.

    Args:
        cfg: Settings of a loop; others, and loops that are built, are returned unchanged.
    """
    if not isinstance(cfg, dict):
        return cfg
    loops = {'EpochBasedTrainLoop': EpochBasedTrainLoop, 'IterBasedTrainLoop': IterBasedTrainLoop}
    cfg = dict(cfg)
    if 'type' not in cfg and 'by_epoch' in cfg:
        cfg['type'] = EpochBasedTrainLoop if cfg.pop('by_epoch') else IterBasedTrainLoop
    elif isinstance(cfg.get('type'), str):
        name = cfg['type'].removeprefix('mmengine.')
        cfg['type'] = loops.get(name, cfg['type'])
    return cfg
