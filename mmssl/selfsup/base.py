"""What the methods with several views share: their place in a training run."""

import warnings

import torch
from mmpretrain.models.selfsup.base import BaseSelfSupervisor
from torch import Tensor, nn

from mmssl.layers.counter import HostCounters
from mmssl.layers.memory_format import memory_format_of
from mmssl.layers.momentum import MomentumEncoder
from mmssl.registry import MODELS, build


class TrainingClock(HostCounters):
    """Optimizer steps done, kept in the state dict, and the length of an epoch and of the training, set when it begins.

    Attributes:
        steps: optimizer steps done.
        followed: ``steps`` when the momentum encoders last moved in the forward pass, see
            :meth:`ScheduledSupervisor.follow`.
        steps_per_epoch, max_steps: None as long as nobody has said.
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
        """Epochs done; 0 as long as nobody said how long one is."""
        return self.steps // self.steps_per_epoch if self.steps_per_epoch else 0


class SelfSupervisor(BaseSelfSupervisor):
    """mmpretrain's base finds its parts and its data preprocessor in whatever scope is the default; this one in its own.

    A subclass implements ``loss(inputs, data_samples=None) -> dict(loss=...)``.

    Args:
        backbone, neck, head: configs, or built parts.
        data_preprocessor: config or built; mmpretrain's SelfSupDataPreprocessor by default.
        others: of mmpretrain's BaseSelfSupervisor.
    """

    def __init__(self, backbone, neck=None, head=None, data_preprocessor=None, **kwargs):
        if data_preprocessor is None or (
            isinstance(data_preprocessor, dict) and 'type' not in data_preprocessor
        ):
            data_preprocessor = {'type': 'mmpretrain.SelfSupDataPreprocessor', **(data_preprocessor or {})}
        built = [None if part is None else _build_part(part) for part in (backbone, neck, head)]
        super().__init__(*built, data_preprocessor=_build_part(data_preprocessor), **kwargs)
        self.memory_format = memory_format_of(self.backbone)
        self.backbone.to(memory_format=self.memory_format)

    def views(self, inputs: list[Tensor], number: int | None = None) -> list[Tensor]:
        """The views of a batch, in the memory format of the backbone.

        Args:
            inputs: views (B, 3, H, W), one a draw of the augmentation.
            number: how many there must be; any number when None.

        Raises:
            ValueError: not a list, or not ``number`` views.
        """
        method = type(self).__name__
        if not isinstance(inputs, (list, tuple)):
            raise ValueError(
                f'{method} takes a list of views, not one batch of images; begin the pipeline with mmssl.LoadViews'
            )
        if number is not None and len(inputs) != number:
            raise ValueError(
                f'{method} takes {number} views, not {len(inputs)}; see the presets of mmssl.LoadViews'
            )
        return [view.contiguous(memory_format=self.memory_format) for view in inputs]


def _build_part(cfg):
    """Build a part; a plain name that is not ours is mmpretrain's, whatever scope is the default."""
    if isinstance(cfg, dict) and isinstance(cfg.get('type'), str) and '.' not in cfg['type']:
        MODELS.import_from_location()
        if cfg['type'] not in MODELS.module_dict:
            cfg = {**cfg, 'type': f'mmpretrain.{cfg["type"]}'}
    return build(cfg, MODELS)


class ScheduledSupervisor(SelfSupervisor):
    """A method whose recipe does something at every optimizer step, or looks at how far training is.

    Where its recipe asks for it, a subclass has ``before_update`` (between the backward pass and the
    optimizer's step) and ``after_update`` (after it). ``attach(optimizer)`` ties the two to the optimizer,
    however it is driven: accumulated gradients, mixed precision, DDP. In a run ``mmssl.MethodHook`` does
    that; ``train_step`` does it too; a loop of one's own calls ``attach`` itself.

    ``momentum_pairs`` names what follows what; the copies are made equal again when the weights are
    initialised, and when a checkpoint holds the encoder and not its copy.

    Args:
        as for :class:`SelfSupervisor`.
    """

    def __init__(self, backbone, neck=None, head=None, data_preprocessor=None, **kwargs):
        super().__init__(backbone, neck, head, data_preprocessor, **kwargs)
        self.clock = TrainingClock()
        self._attached = False
        self._waiting = False
        self.register_load_state_dict_post_hook(_copy_what_is_missing)

    def momentum_pairs(self) -> list[tuple[MomentumEncoder, nn.Module]]:
        """(copy, encoder) of every momentum encoder; the encoder may be an ``nn.Sequential`` made for the purpose."""
        return []

    def init_weights(self) -> None:
        """Draw the initial weights anew; copies follow."""
        super().init_weights()
        for copy, encoder in self.momentum_pairs():
            copy.copy_from(encoder)

    def set_schedule(self, iterations_per_epoch: int, max_iterations: int) -> None:
        """Tell the schedules how long training is.

        Args:
            iterations_per_epoch: optimizer steps in an epoch.
            max_iterations: optimizer steps of the whole training.
        """
        if iterations_per_epoch < 1 or max_iterations < 1:
            raise ValueError(
                f'a training of {max_iterations} iterations, {iterations_per_epoch} an epoch; both must be above 0'
            )
        self.clock.steps_per_epoch, self.clock.max_steps = iterations_per_epoch, max_iterations
        for module in self.modules():
            if isinstance(module, MomentumEncoder):
                module.max_steps = max_iterations

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Call ``before_update`` and ``after_update`` around every step of ``optimizer`` from now on; a second call changes nothing."""
        models = vars(optimizer).setdefault('attached_models', [])
        if not any(model is self for model in models):
            models.append(self)
            self._attached = True
            optimizer.register_step_pre_hook(lambda *_: self.before_update())
            optimizer.register_step_post_hook(lambda *_: self._after_update())

    def before_update(self) -> None:
        """Gradients are complete, the optimizer has not used them yet."""

    def after_update(self) -> None:
        """The optimizer has stepped."""

    def _after_update(self) -> None:
        self.after_update()
        self.clock.steps += 1

    def begin_forward(self) -> None:
        """To be called first in ``loss``: in a loop that is not attached, what should have followed the last step is done now."""
        if self.training and not self._attached:
            if self._waiting:
                self._after_update()
            elif type(self).before_update is not ScheduledSupervisor.before_update:
                warnings.warn(
                    f'{type(self).__name__} changes gradients before each optimizer step, and is not attached to the optimizer: '
                    'call model.attach(optimizer)',
                    stacklevel=3,
                )
            self._waiting = True

    @torch.no_grad()
    def follow(self) -> None:
        """Move all momentum encoders, for recipes that do so in the forward pass: once an optimizer step, however many batches it has."""
        if not self._attached or self.clock.followed != self.clock.steps:
            self.clock.followed = self.clock.steps
            for copy, encoder in self.momentum_pairs():
                copy.update(encoder)

    def train_step(self, data, optim_wrapper) -> dict[str, Tensor]:
        """One step as mmengine's BaseModel does it, attached to the optimizer."""
        self.attach(optim_wrapper.optimizer)
        return super().train_step(data, optim_wrapper)


def _copy_what_is_missing(model: ScheduledSupervisor, incompatible_keys) -> None:
    """After loading weights that hold an encoder only, its momentum copy starts equal to it."""
    missing = set(incompatible_keys.missing_keys)
    names = {id(module): name for name, module in model.named_modules()}
    for copy, encoder in model.momentum_pairs():
        keys = [f'{names[id(copy)]}.module.{name}' for name, _ in copy.module.named_parameters()]
        if keys and missing.issuperset(keys):
            copy.copy_from(encoder)
