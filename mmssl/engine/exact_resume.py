"""What an exact resume needs beyond mmengine's checkpoints.

That is the state of every random generator of every rank, the position in the sample stream, and the
gradients of an accumulated step that was not complete. The input path, whose random draws must not depend on
the workers, is in :mod:`mmssl.engine.seeding`.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mmengine.dist import get_rank, get_world_size
from mmengine.runner import EpochBasedTrainLoop

from mmssl.checkpoint import strip_module
from mmssl.engine import seeding
from mmssl.engine.bare_model import bare_model, is_sharded
from mmssl.engine.nonfinite_flag import refuse_nonfinite_weights
from mmssl.engine.plain_types import make_checkpoint_plain, restore_history_buffers, to_plain
from mmssl.engine.run_state import gather_rng_states, rng_state, seed_all, set_rng_state
from mmssl.engine.runtime_info import read_scalars
from mmssl.engine.schedule_resume import check_optimizer
from mmssl.errors import CheckpointError, MismatchError
from mmssl.layers.distributed import whole


@dataclass
class _Loaded:
    """What was read from a checkpoint, until the run takes up its position."""

    meta: dict
    gradients: dict | None


@dataclass
class _Pending:
    """States of the generators, until the first batch is due.

    Attributes:
        states: States of all ranks, None if the checkpoint has none.
        at_boundary: Whether the checkpoint was written between two epochs, so that the hooks that draw at the
            beginning of an epoch have not run yet.
    """

    states: list[dict] | None
    at_boundary: bool


class ExactResume:
    """Reads and writes what mmengine's checkpoints lack, so that a resumed run equals an uninterrupted one.

    Args:
        runner: The runner.

    Attributes:
        rng_outside_validation: States of this rank's generators as they were before the running validation,
            which must not show in training; None outside of validation.
        validation_due: Whether the run was stopped before a validation that is still to be made.
        saved: Iteration and schedulers of the checkpoint that was resumed.
    """

    def __init__(self, runner):
        self.runner = runner
        self.rng_outside_validation: dict | None = None
        self.validation_due = False
        self.saved: tuple[int, Any] = (0, None)
        self._resuming = False
        self._loaded: _Loaded | None = None
        self._pending: _Pending | None = None
        # (iteration, samples of all ranks before it), moved when a run is resumed with another batch size
        self._stream_base = (0, 0)
        self._saving: dict[str, int] = {}

    # saving

    def complete_meta(self, meta: dict) -> dict:
        """Add the generators and the position to a checkpoint's ``meta``; every rank has to call it.

        Args:
            meta: ``epoch`` and ``iter`` of the checkpoint, and anything else that it contains; with ``rng``
                no rank is asked for its generators.

        Raises:
            NonFiniteError: A weight is NaN or infinite.
        """
        read_scalars(self.runner.message_hub)
        refuse_nonfinite_weights(self._bare_model(), every_rank='rng' not in meta)
        states = self.rng_outside_validation or rng_state()
        if 'rng' not in meta:
            meta['rng'] = gather_rng_states(states)
        meta.update(world_size=get_world_size(), position=self.position(meta['epoch'], meta['iter']))
        self._saving = dict(epoch=meta['epoch'], iter=meta['iter'])
        return meta

    def add_to_checkpoint(self, checkpoint: dict) -> None:
        """Complete a checkpoint that is about to be written, and convert it to plain types."""
        # FlexibleRunner counts one epoch too many when it saves after validation
        checkpoint['meta'].update(self._saving)
        wrapper = self.runner.optim_wrapper
        accumulating = getattr(wrapper, '_accumulative_counts', 1) > 1 and not wrapper.should_update()
        if accumulating and get_world_size() == 1:
            checkpoint['gradients'] = {
                name: whole(parameter.grad).cpu()
                for name, parameter in self._bare_model().named_parameters()
                if parameter.grad is not None
            }
        make_checkpoint_plain(checkpoint)

    def position(self, epoch: int, iteration: int) -> dict:
        """Return the position in the data of a checkpoint.

        It counts batches of the running epoch, or samples of all ranks since the first iteration.
        """
        batches = len(self.runner.train_dataloader)
        position = dict(batch_size=self._batch_size(), world_size=get_world_size())
        if isinstance(self.runner.train_loop, EpochBasedTrainLoop):
            batch = min(max(iteration - epoch * batches, 0), batches)
            return dict(position, batch=batch, batches_per_epoch=batches)
        first, samples = self._stream_base
        return dict(position, samples=samples + (iteration - first) * self._batch_size() * get_world_size())

    def _batch_size(self) -> int:
        loader = self.runner.train_dataloader
        return loader.batch_size or getattr(loader.batch_sampler, 'batch_size', 1)

    def _bare_model(self):
        return getattr(self.runner.model, 'module', self.runner.model)

    # resuming

    @contextlib.contextmanager
    def resuming(self, filename) -> Iterator[None]:
        """Resume from the checkpoint that mmengine loads inside this context.

        The position in the data is taken up at its end; the generators are set when the first batch is due.
        """
        self._resuming = True
        try:
            yield
        finally:
            self._resuming = False
        assert self._loaded is not None
        meta, gradients = self._loaded.meta, self._loaded.gradients
        self._loaded = None
        for name, parameter in self._bare_model().named_parameters():
            if gradients and name in gradients:
                parameter.grad = gradients[name].to(parameter.device, copy=True)
        at_boundary = self._take_position(meta.get('position'))
        if 'rng' not in meta:
            self.runner.logger.warning(
                f'{filename} has no random states: the run continues, but not bit for bit'
            )
        self._pending = _Pending(meta.get('rng'), at_boundary)
        self.validation_due = bool(meta.get('validation_due')) and self.runner.val_loop is not None

    def read_checkpoint(self, checkpoint: dict) -> None:
        """Take out of a loaded checkpoint what mmengine does not read.

        Raises:
            ValueError: The run is to be resumed, and the checkpoint holds weights only.
        """
        restore_history_buffers(checkpoint)
        if not self._resuming:
            return
        meta = checkpoint.get('meta')
        if meta is None or 'iter' not in meta:
            raise ValueError(
                'the checkpoint holds weights only and cannot be resumed; start from it with load_from, '
                'without --resume'
            )
        for name in ('epoch', 'iter'):
            count = meta.get(name, 0)
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise CheckpointError(
                    f'the checkpoint says meta.{name} = {count!r}, which is no count of steps; '
                    'resume from another one, or start from its weights with load_from'
                )
        _check_shapes(self.runner.model, checkpoint.get('state_dict') or {})
        check_optimizer(self.runner.optim_wrapper, checkpoint.get('optimizer'))
        self.saved = (meta['iter'], copy.deepcopy(checkpoint.get('param_schedulers')))
        self._loaded = _Loaded(meta, checkpoint.pop('gradients', None))
        metainfo = getattr(self.runner.train_dataloader.dataset, 'metainfo', None)
        name = 'dataset_meta'
        if to_plain(metainfo, name, 'list') == to_plain(meta.get(name), name, 'list'):
            meta[name] = metainfo  # mmengine compares pickles, which differ for equal values

    def _take_position(self, position: dict | None) -> bool:
        """Move the training loop to a position; return whether that is the beginning of an epoch."""
        loop = self.runner.train_loop
        loader = self.runner.train_dataloader
        if position is None:
            position = self.position(loop.epoch, loop.iter)
        step = self._batch_size() * get_world_size()
        changed = self._warn_of_other_batch_size(position)
        if 'batch' in position and isinstance(loop, EpochBasedTrainLoop):
            batch = position['batch']
            if changed or position['batches_per_epoch'] != len(loader):
                samples = batch * position['batch_size'] * position['world_size']
                batch = min(samples // step, len(loader))
                loop._iter = loop.epoch * len(loader) + batch
            self._start_at_batch(loop, batch)
            return batch == 0
        if 'samples' in position and not isinstance(loop, EpochBasedTrainLoop):
            self._stream_base = (loop.iter, position['samples'])
            self._start_at_batch(loop, position['samples'] // step)
        return False

    @staticmethod
    def _start_at_batch(loop: Any, batch: int) -> None:
        if hasattr(loop, 'start_at_batch'):  # a loop of the user's own begins as mmengine lets it
            loop.start_at_batch(batch)

    def _warn_of_other_batch_size(self, position: dict) -> bool:
        then = (position['batch_size'], position['world_size'])
        now = (self._batch_size(), get_world_size())
        if then != now:
            self.runner.logger.warning(
                f'the checkpoint was written with batch size {then[0]} on {then[1]} rank(s), '
                f'this run has {now[0]} on {now[1]}: it continues at the same place in the data, but not bit '
                'for bit'
            )
        return then != now

    # running

    def restore_generators(self, at_boundary: bool) -> None:
        """Set the generators to the states of the checkpoint, once, when the first batch is due.

        Args:
            at_boundary: Whether the hooks that draw at the beginning of an epoch are still to run; nothing is
                done unless that was so when the checkpoint was written.
        """
        if self._pending is None or (at_boundary and not self._pending.at_boundary):
            return
        states, self._pending = self._pending.states, None
        if states is None:
            return
        if len(states) == get_world_size():
            set_rng_state(states[get_rank()])
        else:
            seed_all(seeding.mix(self.runner.seed, self.runner.iter, get_rank()))

    def run_due_validation(self) -> None:
        """Run the validation before which the run was stopped."""
        if not self.validation_due:
            return
        assert self._pending is not None
        self.validation_due = False
        states = self._pending.states
        if states is not None and len(states) == get_world_size():
            set_rng_state(states[get_rank()])
        self.runner.val_loop.run()

    def begin_validation(self) -> None:
        """Save the states of the generators."""
        self.rng_outside_validation = rng_state()

    def end_validation(self) -> None:
        """Restore the states of the generators: a run that is resumed here does not validate again."""
        assert self.rng_outside_validation is not None
        set_rng_state(self.rng_outside_validation)
        self.rng_outside_validation = None


def _check_shapes(model, weights) -> None:
    """Check that a run can continue with these weights; an optimizer's state fits no others.

    Raises:
        MismatchError: A weight has another shape than in the model.
    """
    if is_sharded(model):
        return  # its strategy compares the whole shapes
    shapes = {name: tuple(tensor.shape) for name, tensor in bare_model(model).state_dict().items()}
    weights = strip_module(weights)
    differing = [
        f'{name} ({"x".join(map(str, tensor.shape))} in the file, {"x".join(map(str, shapes[name]))} here)'
        for name, tensor in weights.items()
        if name in shapes and tuple(getattr(tensor, 'shape', ())) != shapes[name]
    ]
    if differing:
        raise MismatchError(
            'the checkpoint is of another model, and its run cannot be resumed: '
            f'{len(differing)} weights have other shapes, such as {differing[0]}; resume with the config of '
            'that run, or start from the weights that fit with load_from'
        )
