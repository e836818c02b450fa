"""Momentum encoder: the slowly moving copy of an encoder (key encoder, target, teacher)."""

import copy
import math

import torch
from torch import nn

from mmssl.layers.saved_counters import SavedCounters


def cosine_momentum(step: int, steps: int, momentum: float, final: float) -> float:
    """Raise the momentum along half a cosine (BYOL, arXiv:2006.07733, section 3.2).

    Args:
        step: Number of the update.
        steps: Updates of the whole run.
        momentum: Value at step 0.
        final: Value at step ``steps``.
    """
    return final - (final - momentum) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


class MomentumEncoder(SavedCounters):
    """Exponential moving average of an encoder: teacher = m * teacher + (1 - m) * student.

    The copy gets no gradients and has no stochastic depth. Otherwise it behaves as the encoder does: batch
    norm in training mode uses the batch.

    Args:
        encoder: Encoder to copy; several parts may be given as ``nn.Sequential(backbone, neck)``.
        momentum: m, or its initial value.
        final_momentum: Value that m reaches along half a cosine after ``max_steps`` updates; None for a
            constant m.
        copy_buffers: Copy the encoder's buffers in every update. By default the copy keeps batch norm
            statistics of its own.

    Attributes:
        module: The copy.
        steps: Number of updates so far, saved in the state dict.
        max_steps: Number of updates of the whole run, for the cosine; set when training begins.
    """

    # mmengine's ExponentialMovingAverage reads its step from the device for every parameter, updates the
    # parameters one by one, and overwrites the batch norm statistics of the copy

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
        if 0 < momentum <= 0.1:
            raise ValueError(
                f'momentum={momentum} replaces nearly the whole copy in every step; here it is the part that '
                f"stays, mmpretrain's is 1 minus that: set momentum={1 - momentum:.6g}"
            )
        self.module = copy.deepcopy(encoder).requires_grad_(False)
        for part in self.module.modules():
            if isinstance(getattr(part, 'drop_prob', None), float):  # DropPath of mmssl, mmcv and timm
                part.drop_prob = 0.0
        self.momentum = momentum
        self.final_momentum = final_momentum
        self.copy_buffers = copy_buffers
        self.steps = 0
        self.max_steps: int | None = None

    @torch.no_grad()
    def copy_from(self, encoder: nn.Module) -> None:
        """Copy parameters and buffers of ``encoder``."""
        for target, source in zip(self._tensors(self.module), self._tensors(encoder), strict=True):
            target.copy_(source)

    @staticmethod
    def _tensors(module: nn.Module) -> list[torch.Tensor]:
        return [*module.parameters(), *module.buffers()]

    def current_momentum(self) -> float:
        """Return m of the next update.

        Raises:
            RuntimeError: The length of the cosine is not set.
        """
        if self.final_momentum is None or self.final_momentum == self.momentum:
            return self.momentum
        if not self.max_steps:
            raise RuntimeError(
                f'the momentum goes from {self.momentum} to {self.final_momentum} over an unknown number of '
                'steps: call set_schedule(iterations_per_epoch, max_iterations) of the model, as '
                'mmssl.MethodHook does'
            )
        return cosine_momentum(self.steps, self.max_steps, self.momentum, self.final_momentum)

    @torch.no_grad()
    def update(self, encoder: nn.Module, momentum: float | None = None) -> None:
        """Move the copy towards ``encoder``.

        Args:
            encoder: The trained encoder, or ``nn.Sequential`` of its parts, with parameters in the order of
                the copy.
            momentum: m of this update; by default the schedule's.
        """
        momentum = self.current_momentum() if momentum is None else momentum
        targets = list(self.module.parameters())
        sources = list(encoder.parameters())
        if len(targets) != len(sources):
            raise ValueError(f'the encoder has {len(sources)} parameters, its momentum copy {len(targets)}')
        torch._foreach_lerp_(targets, sources, 1 - momentum)
        if self.copy_buffers:
            for target, source in zip(self.module.buffers(), encoder.buffers(), strict=True):
                target.copy_(source)
        self.steps += 1

    @torch.no_grad()
    def forward(self, *args, **kwargs):
        """Run the copy without gradient."""
        return self.module(*args, **kwargs)
