"""What a runner does when a signal comes (:mod:`mmssl.engine.signals`): it saves after the step at hand and leaves."""

import bisect
import contextlib
from datetime import timedelta
from typing import TYPE_CHECKING

import torch
from mmengine.dist import all_reduce, get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop
from torch.nn.parallel import DistributedDataParallel

from mmssl.engine.run_state import gather_rng_states
from mmssl.engine.signals import Stop, current

if TYPE_CHECKING:
    from mmengine.runner import Runner as Host
else:
    Host = object  # mmengine's Runner, or its FlexibleRunner, comes after the mixins

# how long the other ranks wait for the first one to save
WAIT_SECONDS = 25
_SAVED_KEY = 'mmssl/stopped'


class StopMixin(Host):
    """Adds to a runner what it does when a signal comes. Between two steps all ranks agree; in validation the first one saves alone."""

    _validating = False
    _validation_due = False
    # states of the generators, of this rank and of all of them, as they were before validation
    _rng_outside_validation: dict | None = None
    _rng_of_all: list[dict] | None = None

    def _stop_after_step(self) -> None:
        """After a step and its hooks, before the loop counts it: save and raise, where a signal has come to any rank."""
        signum = _agreed()
        if signum:
            loop, iteration = self.train_loop, self.iter + 1
            due = isinstance(loop, IterBasedTrainLoop) and self._validates_after(iteration)
            self._save_and_stop(signum, epoch=self.epoch, iter=iteration, validation_due=due)

    def _validates_after(self, iteration: int) -> bool:
        loop = self.train_loop
        if self.val_loop is None or iteration < loop.val_begin:
            return False
        interval = loop.dynamic_intervals[bisect.bisect(loop.dynamic_milestones, iteration + 1) - 1]
        return iteration % interval == 0 or iteration == loop.max_iters

    def _stop_before_validation(self) -> None:
        """The same where a signal came after the step's own look, such as while a checkpoint was written."""
        signum = _agreed()
        if signum:
            self._save_and_stop(signum, epoch=self.epoch, iter=self.iter, validation_due=True)
        if current() is not None and get_world_size() > 1:
            assert self._rng_outside_validation is not None
            self._rng_of_all = gather_rng_states(self._rng_outside_validation)

    def _set_validating(self, validating: bool) -> None:
        """Inside, a signal raises where it finds the program; models that are in shards cannot be saved by one rank alone."""
        watch = current()
        if watch is None:
            return
        alone = not is_model_wrapper(self.model) or isinstance(self.model, DistributedDataParallel)
        self._validating = watch.immediate = validating and alone
        if self._validating and watch.signum:
            raise Stop(watch.signum)

    def _stop_while_validating(self) -> None:
        """A signal that came where its error could not rise."""
        watch = current()
        if self._validating and watch is not None and watch.signum:
            raise Stop(watch.signum)

    def _leave_validation(self, stop: Stop) -> None:
        """Bring back the weights that are being trained and save them, on the first rank; the run that goes on validates first."""
        watch = current()
        assert watch is not None
        self._validating = watch.immediate = False
        watch.signum = stop.signum
        for hook in self.hooks:
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(self)
        store = torch.distributed.distributed_c10d._get_default_store() if get_world_size() > 1 else None
        if is_main_process():
            extras = {} if store is None else dict(rng=self._rng_of_all)
            self._save_stopped(stop, epoch=self.epoch, iter=self.iter, validation_due=True, **extras)
            if store is not None:
                store.set(_SAVED_KEY, 'yes')
        elif store is not None:
            with contextlib.suppress(RuntimeError):
                store.wait([_SAVED_KEY], timedelta(seconds=WAIT_SECONDS))
        raise stop

    def _save_and_stop(self, signum: int, **meta) -> None:
        stop = Stop(signum)
        self._save_stopped(stop, **meta)
        if get_world_size() > 1:
            torch.distributed.barrier()
        raise stop

    def _save_stopped(self, stop: Stop, **meta) -> None:
        hook = next((hook for hook in self.hooks if isinstance(hook, CheckpointHook)), None)
        where = 'nothing is saved, since the run has no checkpoint hook'
        if hook is not None and hasattr(hook, 'save_stopped'):
            where = f'saved in {hook.save_stopped(self, meta)}; go on with --resume'
        self.logger.warning(f'stopped by {stop.name} after iteration {meta["iter"]}: {where}')
        stop.saved = True


def _agreed() -> int:
    """The signal that has come to any rank, 0 for none; every rank has to call it."""
    watch = current()
    if watch is None:
        return 0
    signum = watch.signum or 0
    if get_world_size() > 1:
        flag = torch.tensor([signum], dtype=torch.int32)
        all_reduce(flag, op='max')
        signum = int(flag)
    return signum
