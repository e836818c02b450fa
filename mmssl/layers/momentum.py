"""The slowly moving copy of an encoder (key encoder, target, teacher)."""

import copy
import math

import torch
from torch import nn

from mmssl.layers.counter import HostCounters


def cosine_momentum(step: int, steps: int, momentum: float, final: float) -> float:
    """From ``momentum`` at step 0 to ``final`` at step ``steps`` along half a cosine (BYOL, arXiv:2006.07733, section 3.2)."""
    return final - (final - momentum) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


class MomentumEncoder(HostCounters):
    """A copy of an encoder that follows it: teacher = m * teacher + (1 - m) * student.

    mmengine's ExponentialMovingAverage reads its step from the device for every parameter, updates parameters
    one by one, and overwrites the copy's batch norm statistics by the encoder's.

    The copy takes no gradients and has no stochastic depth; otherwise it behaves as the encoder does (batch
    norm in training mode uses the batch). Number of updates and momentum are computed on the host, and
    ``steps`` is in the state dict.

    Args:
        encoder: what is copied; its parts may be given as ``nn.Sequential(backbone, neck)``.
        momentum: m, or its first value.
        final_momentum: m moves to this value along half a cosine over ``max_steps`` updates; constant when
            None.
        copy_buffers: take the encoder's buffers over in every update, instead of the copy keeping its own
            batch norm statistics.

    Attributes:
        module: the copy.
        steps: updates done.
        max_steps: updates of the whole training, for the cosine; set by the method when training begins.
    """

    COUNTERS = ('steps',)

    def __init__(
        self,
        encoder: nn.Module,
        momentum: float = 0.999,
        final_momentum: float | None = None,
        copy_buffers: bool = False,
    ):
        super().__init__()
        for name, value in (('momentum', momentum), ('final_momentum', final_momentum)):
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f'{name}={value} of a momentum encoder must be between 0 and 1')
        self.module = copy.deepcopy(encoder).requires_grad_(False)
        for part in self.module.modules():
            for name in ('drop_path_rate', 'drop_prob'):  # our blocks; DropPath of mmcv and timm
                if isinstance(getattr(part, name, None), float):
                    setattr(part, name, 0.0)
        self.momentum, self.final_momentum, self.copy_buffers = momentum, final_momentum, copy_buffers
        self.steps = 0
        self.max_steps: int | None = None

    @torch.no_grad()
    def copy_from(self, encoder: nn.Module) -> None:
        """Take over parameters and buffers as they are."""
        for own, other in zip(self._tensors(self.module), self._tensors(encoder), strict=True):
            own.copy_(other)

    @staticmethod
    def _tensors(module: nn.Module) -> list[torch.Tensor]:
        return [*module.parameters(), *module.buffers()]

    def current_momentum(self) -> float:
        """m of the next update.

        Raises:
            RuntimeError: the cosine does not know how long training is.
        """
        if self.final_momentum is None or self.final_momentum == self.momentum:
            return self.momentum
        if not self.max_steps:
            raise RuntimeError(
                f'the momentum goes from {self.momentum} to {self.final_momentum} over a training of unknown length: '
                'call set_schedule(iterations_per_epoch, max_iterations) of the model; in a run mmssl.MethodHook does so'
            )
        return cosine_momentum(self.steps, self.max_steps, self.momentum, self.final_momentum)

    @torch.no_grad()
    def update(self, encoder: nn.Module, momentum: float | None = None) -> None:
        """Follow ``encoder``, whose parameters come in the order of the copy's.

        Args:
            encoder: the trained one, or ``nn.Sequential`` of its parts.
            momentum: m of this update; the schedule's when None.
        """
        momentum = self.current_momentum() if momentum is None else momentum
        own, other = list(self.module.parameters()), list(encoder.parameters())
        if len(own) != len(other):
            raise ValueError(f'the encoder has {len(other)} parameters, its momentum copy {len(own)}')
        torch._foreach_lerp_(own, other, 1 - momentum)
        if self.copy_buffers:
            for mine, theirs in zip(self.module.buffers(), encoder.buffers(), strict=True):
                mine.copy_(theirs)
        self.steps += 1

    @torch.no_grad()
    def forward(self, *args, **kwargs):
        """What the copy makes of its input, without gradient."""
        return self.module(*args, **kwargs)
