"""Base classes of the self-supervised methods."""

import warnings

import torch
from mmpretrain.models.selfsup.base import BaseSelfSupervisor
from torch import Tensor, nn

from mmssl.errors import warn_renamed
from mmssl.layers.distributed import resharded
from mmssl.layers.memory_format import memory_format_of
from mmssl.layers.momentum import MomentumEncoder
from mmssl.layers.preprocessing import SelfSupDataPreprocessor
from mmssl.layers.saved_counters import SavedCounters
from mmssl.layers.unused_arguments import refuse_unused
from mmssl.registry import MODELS, build


class TrainingClock(SavedCounters):
    """Step counter (in the state dict) and length of the run (set by ``mmssl.MethodHook`` before training).

    Attributes:
        steps: Optimizer steps done.
        followed: ``steps`` when the teachers last moved, see :meth:`ScheduledSupervisor.update_teachers`.
        steps_per_epoch: Optimizer steps in an epoch; None while unknown.
        max_steps: Optimizer steps of the whole run; None while unknown.
    """

    COUNTERS = ('steps', 'followed')

    def __init__(self):
        super().__init__()
        self.steps = 0
        self.followed = -1
        self.steps_per_epoch: int | None = None
        self.max_steps: int | None = None

    @property
    def epoch(self) -> int:
        """Epochs done; 0 while the length of an epoch is unknown."""
        return self.steps // self.steps_per_epoch if self.steps_per_epoch else 0


class SelfSupervisor(BaseSelfSupervisor):
    """Base class of self-supervised methods.

    A subclass implements ``loss(inputs, data_samples=None) -> dict(loss=...)``. Plain type names resolve in
    mmssl first, then in mmpretrain, whatever the default scope is.

    Args:
        backbone: Config, or built.
        neck: Config, or built.
        head: Config, or built.
        data_preprocessor: Config, or built; :class:`~mmssl.layers.preprocessing.SelfSupDataPreprocessor` by
            default.
        **kwargs: Passed on to mmpretrain's BaseSelfSupervisor.

    Attributes:
        host_syncs: How often a training step may wait for the GPU, from the loss to the optimizer's step.
    """

    host_syncs = 0

    def __init__(self, backbone, neck=None, head=None, data_preprocessor=None, **kwargs):
        refuse_unused(
            type(self).__name__, kwargs, {'target_generator': None}, 'its method sets the target of its loss'
        )
        if data_preprocessor is None or (
            isinstance(data_preprocessor, dict) and 'type' not in data_preprocessor
        ):
            data_preprocessor = {'type': 'mmssl.SelfSupDataPreprocessor', **(data_preprocessor or {})}
        parts = [None if part is None else _build_part(part) for part in (backbone, neck, head)]
        super().__init__(*parts, data_preprocessor=_build_part(data_preprocessor), **kwargs)
        self.memory_format = memory_format_of(self.backbone)
        self.backbone.to(memory_format=self.memory_format)
        if isinstance(self.data_preprocessor, SelfSupDataPreprocessor):
            self.data_preprocessor.memory_format = self.memory_format

    def extract_feat(self, inputs: Tensor) -> tuple[Tensor, ...]:
        """Features (B, C, h, w) or (B, C) of images (B, 3, H, W): the output of the backbone."""
        return self.backbone(inputs)

    def views(self, inputs: list[Tensor], count: int | None = None) -> list[Tensor]:
        """Return the views of a batch in the memory format of the backbone.

        Args:
            inputs: One batch (B, 3, H, W) for each view.
            count: Number of views required; any when None.

        Raises:
            ValueError: ``inputs`` is not a list, or does not have ``count`` views.
        """
        method = type(self).__name__
        if not isinstance(inputs, (list, tuple)):
            raise ValueError(
                f'{method} takes a list of views, not one batch of images; begin the pipeline with '
                'mmssl.LoadViews'
            )
        if count is not None and len(inputs) != count:
            raise ValueError(
                f'{method} takes {count} views, not {len(inputs)}; see the presets of mmssl.LoadViews'
            )
        return [view.contiguous(memory_format=self.memory_format) for view in inputs]


def _build_part(cfg):
    """Build a part; a plain name that mmssl does not register is mmpretrain's."""
    if isinstance(cfg, dict) and isinstance(cfg.get('type'), str) and '.' not in cfg['type']:
        MODELS.import_from_location()
        if cfg['type'] not in MODELS.module_dict:
            cfg = {**cfg, 'type': f'mmpretrain.{cfg["type"]}'}
    return build(cfg, MODELS)


class ScheduledSupervisor(SelfSupervisor):
    """Base class of methods with a teacher, or with something to do around each optimizer step.

    To move a teacher, return it and its student from ``momentum_pairs`` and call ``update_teachers()`` where
    the paper does: in ``loss`` before the teacher is used (MoCo), or in ``after_update`` (BYOL, DINO). Each
    teacher moves once per optimizer step, however many batches are accumulated, and never in evaluation mode.

    ``before_update`` runs between the backward pass and the optimizer's step, ``after_update`` after it.
    ``attach(optimizer)`` connects both; ``mmssl.MethodHook`` and ``train_step`` do so, a custom training loop
    calls it itself. Teachers are set equal to their students when weights are initialised, and when a
    checkpoint holds only the student.

    Args:
        backbone: As for :class:`SelfSupervisor`.
        neck: As for :class:`SelfSupervisor`.
        head: As for :class:`SelfSupervisor`.
        data_preprocessor: As for :class:`SelfSupervisor`.
        **kwargs: Passed on to :class:`SelfSupervisor`.
    """

    def __init__(self, backbone, neck=None, head=None, data_preprocessor=None, **kwargs):
        super().__init__(backbone, neck, head, data_preprocessor, **kwargs)
        self.clock = TrainingClock()
        self._attached = False
        self._skips_step = False  # the optimizer is in a step that a gradient scaler skips
        self._step_pending = False  # without attach(): a forward pass whose after_update has not run yet
        self.register_load_state_dict_post_hook(_copy_missing_teachers)

    def momentum_pairs(self) -> list[tuple[MomentumEncoder, nn.Module]]:
        """(teacher, student) pairs; a student of several parts is their ``nn.Sequential``."""
        return []

    @torch.no_grad()
    def update_teachers(self) -> None:
        """Move every teacher towards its student, at most once per optimizer step."""
        moved = self._attached and self.clock.followed == self.clock.steps
        if self.training and not moved:
            self.clock.followed = self.clock.steps
            with resharded(self):
                for teacher, student in self.momentum_pairs():
                    teacher.update(student)

    def before_update(self) -> None:
        """Run after the backward pass, before the optimizer's step."""

    def after_update(self) -> None:
        """Run after the optimizer's step."""

    def init_weights(self) -> None:
        """Draw the initial weights; teachers are copies of their students."""
        super().init_weights()
        for teacher, student in self.momentum_pairs():
            teacher.copy_from(student)

    def set_schedule(self, iterations_per_epoch: int, max_iterations: int) -> None:
        """Set the length of the run, on which the schedules of momentum and temperature depend.

        Args:
            iterations_per_epoch: Optimizer steps in an epoch.
            max_iterations: Optimizer steps of the whole run.
        """
        if iterations_per_epoch < 1 or max_iterations < 1:
            raise ValueError(
                f'a run of {max_iterations} iterations with {iterations_per_epoch} per epoch: '
                'both must be above 0'
            )
        self.clock.steps_per_epoch = iterations_per_epoch
        self.clock.max_steps = max_iterations
        for module in self.modules():
            if isinstance(module, MomentumEncoder):
                module.max_steps = max_iterations

    def restart_schedule(self) -> None:
        """Begin the schedules at step 0, in a run that starts from the weights of a finished one."""
        self.clock.steps = 0
        self.clock.followed = -1
        for teacher, _ in self.momentum_pairs():
            teacher.steps = 0

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Call ``before_update`` and ``after_update`` around every step of ``optimizer``.

        Repeated calls have no effect. A step that a float16 gradient scaler skips counts for nothing.
        """
        models = vars(optimizer).setdefault('attached_models', [])
        if not any(model is self for model in models):
            models.append(self)
            self._attached = True
            optimizer.register_step_pre_hook(lambda stepping, *_: self._begin_step(stepping))
            optimizer.register_step_post_hook(lambda *_: None if self._skips_step else self._finish_step())

    def _begin_step(self, optimizer: torch.optim.Optimizer) -> None:
        self._skips_step = _is_skipped(optimizer)  # read once: on a GPU the CPU waits for it
        if not self._skips_step:
            self.before_update()

    def _finish_step(self) -> None:
        self.after_update()
        self.clock.steps += 1

    def begin_forward(self) -> None:
        """Call first in ``loss``. Without an attached optimizer, this finishes the previous step."""
        if not self.training or self._attached:
            return
        if self._step_pending:
            self._finish_step()
        elif type(self).before_update is not ScheduledSupervisor.before_update:
            warnings.warn(
                f'{type(self).__name__} changes gradients before each optimizer step, and is not attached to '
                'the optimizer: call model.attach(optimizer)',
                stacklevel=3,
            )
        self._step_pending = True

    def train_step(self, data, optim_wrapper) -> dict[str, Tensor]:
        """Attach to the optimizer, then do one step as mmengine's BaseModel does."""
        self.attach(optim_wrapper.optimizer)
        return super().train_step(data, optim_wrapper)

    def follow(self) -> None:
        """Move the teachers (the former name of :meth:`update_teachers`)."""
        warn_renamed('ScheduledSupervisor.follow', 'update_teachers')
        self.update_teachers()


def _copy_missing_teachers(model: ScheduledSupervisor, incompatible_keys) -> None:
    """After loading weights without a teacher, set it equal to its student."""
    missing = set(incompatible_keys.missing_keys)
    names = {id(module): name for name, module in model.named_modules()}
    for teacher, student in model.momentum_pairs():
        keys = [f'{names[id(teacher)]}.module.{name}' for name, _ in teacher.module.named_parameters()]
        if keys and missing.issuperset(keys):
            teacher.copy_from(student)


def _is_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimizer, which a gradient scaler lets skip steps by itself, skips this one."""
    infinite = getattr(optimizer, 'found_inf', None)
    return infinite is not None and bool(infinite)
