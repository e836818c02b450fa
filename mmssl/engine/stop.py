"""End of a run after a signal (:mod:`mmssl.engine.signals`): it saves after the current step and leaves."""

import bisect
import contextlib
import time
from datetime import timedelta

import torch
from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.runner import IterBasedTrainLoop
from torch import distributed as dist

from mmssl.engine.bare_model import is_sharded
from mmssl.engine.exact_resume import ExactResume
from mmssl.engine.run_state import gather_rng_states
from mmssl.engine.signals import StopSignal, current_watch
from mmssl.layers.distributed import host_group

# seconds that the other ranks wait for the first one to save
WAIT_SECONDS = 25
# the ranks exchange their signals about this often, in seconds, and after at most so many steps
SECONDS = 1
MOST_STEPS = 50
_SAVED_KEY = 'mmssl/stopped'


class Stopper:
    """Saves a run and raises :class:`StopSignal` where a signal has come.

    Between two steps all ranks agree. In validation, which they leave at different batches, the first rank
    saves alone.

    Args:
        runner: The runner.
        exact_resume: States of the generators during validation.
    """

    def __init__(self, runner, exact_resume: ExactResume):
        self.runner = runner
        self.exact_resume = exact_resume
        self.signals = SignalExchange()
        self._validating = False
        self._rng_of_all_ranks: list[dict] | None = None

    def after_step(self) -> None:
        """Save and raise if any rank has received a signal; called before the loop counts the step."""
        iteration = self.runner.iter + 1
        signum = self.signals.after_step(iteration, last=iteration == self.runner.max_iters)
        if signum:
            loop = self.runner.train_loop
            due = isinstance(loop, IterBasedTrainLoop) and self._validates_after(iteration)
            self._save_and_stop(signum, epoch=self.runner.epoch, iter=iteration, validation_due=due)

    def _validates_after(self, iteration: int) -> bool:
        loop = self.runner.train_loop
        if self.runner.val_loop is None or iteration < loop.val_begin:
            return False
        interval = loop.dynamic_intervals[bisect.bisect(loop.dynamic_milestones, iteration + 1) - 1]
        return iteration % interval == 0 or iteration == loop.max_iters

    def before_validation(self) -> None:
        """Save and raise if a signal has come since the check after the step, as while a file was written."""
        signum = self.signals.now()
        if signum:
            self._save_and_stop(signum, epoch=self.runner.epoch, iter=self.runner.iter, validation_due=True)
        if current_watch() is not None and get_world_size() > 1:
            assert self.exact_resume.rng_outside_validation is not None
            self._rng_of_all_ranks = gather_rng_states(self.exact_resume.rng_outside_validation)

    def set_validating(self, validating: bool) -> None:
        """Let a signal raise at once during validation, unless the model is sharded.

        One rank alone cannot save a sharded model.
        """
        watch = current_watch()
        if watch is None:
            return
        self._validating = watch.immediate = validating and not is_sharded(self.runner.model)
        self.while_validating()

    def while_validating(self) -> None:
        """Raise for a signal whose own exception was swallowed."""
        watch = current_watch()
        if self._validating and watch is not None and watch.signum:
            raise StopSignal(watch.signum)

    def leave(self, stop: StopSignal) -> None:
        """Save on the first rank, with the weights that are being trained, if the signal came in validation.

        The run that is resumed from there validates first.
        """
        if not self._validating or stop.saved:
            return
        watch = current_watch()
        assert watch is not None
        self._validating = watch.immediate = False
        watch.signum = stop.signum
        for hook in self.runner.hooks:
            if isinstance(hook, EMAHook):
                hook.after_val_epoch(self.runner)  # puts the averaged weights aside
        store = dist.distributed_c10d._get_default_store() if get_world_size() > 1 else None
        if is_main_process():
            extras = {} if store is None else dict(rng=self._rng_of_all_ranks)
            self._save(stop, epoch=self.runner.epoch, iter=self.runner.iter, validation_due=True, **extras)
            if store is not None:
                store.set(_SAVED_KEY, 'yes')
        elif store is not None:
            with contextlib.suppress(RuntimeError):
                store.wait([_SAVED_KEY], timedelta(seconds=WAIT_SECONDS))

    def _save_and_stop(self, signum: int, **meta) -> None:
        stop = StopSignal(signum)
        self._save(stop, **meta)
        if get_world_size() > 1:
            dist.barrier(host_group())
        raise stop

    def _save(self, stop: StopSignal, **meta) -> None:
        hook = next((hook for hook in self.runner.hooks if isinstance(hook, CheckpointHook)), None)
        outcome = 'nothing is saved, since the run has no checkpoint hook'
        if hook is not None and hasattr(hook, 'save_stopped'):
            outcome = f'saved in {hook.save_stopped(self.runner, meta)}; go on with --resume'
        self.runner.logger.warning(f'stopped by {stop.name} after iteration {meta["iter"]}: {outcome}')
        stop.saved = True


class SignalExchange:
    """Exchange of the signals that the ranks have received, without waiting for a GPU.

    About once a second the ranks begin to reduce their signals, in the group of the CPUs, and read the
    outcome after the next step, while they go on. All of them read it after the same step: how many steps
    are a second is part of the outcome.
    """

    def __init__(self) -> None:
        self._due = 0
        # iteration and time of the last exchange
        self._last: tuple[int, float] | None = None
        self._pending: tuple[dist.Work, torch.Tensor] | None = None

    def after_step(self, iteration: int, last: bool) -> int:
        """Return the signal that any rank has received, 0 for none; every rank has to call it.

        Args:
            iteration: Steps done.
            last: Whether this is the last step, after which there is nothing to go on with.
        """
        watch = current_watch()
        if watch is None or get_world_size() == 1:
            return (watch and watch.signum) or 0
        signum = self._read(iteration)
        if not signum and (last or iteration >= self._due):
            self._begin(iteration, watch.signum or 0)
            if last:
                signum = self._read(iteration)
        return signum

    def _begin(self, iteration: int, signum: int) -> None:
        now = time.monotonic()
        seconds = float(SECONDS)
        if self._last is not None:
            seconds = (now - self._last[1]) / max(1, iteration - self._last[0])
        self._last = iteration, now
        values = torch.tensor([signum, seconds], dtype=torch.float64)
        work = dist.all_reduce(values, dist.ReduceOp.MAX, host_group(), async_op=True)
        self._pending = work, values

    def _read(self, iteration: int) -> int:
        if self._pending is None:
            return 0
        (work, values), self._pending = self._pending, None
        work.wait()
        signum, seconds = values.tolist()
        self._due = iteration + int(min(MOST_STEPS, SECONDS / max(seconds, 1e-6)))
        return int(signum)

    def now(self) -> int:
        """Return the signal that any rank has received, 0 for none; every rank has to call it and waits."""
        watch = current_watch()
        if watch is None:
            return 0
        flag = torch.tensor([watch.signum or 0])
        if get_world_size() > 1:
            dist.all_reduce(flag, dist.ReduceOp.MAX, host_group())
        return int(flag)
