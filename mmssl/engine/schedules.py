"""Schedules of learning rate and weight decay."""

import math

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler

from mmssl.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(LRSchedulerMixin, _ParamScheduler):
    """Linear warm-up from exactly 0, or a share of the rate, then half a cosine, in closed form: MAE's released code (util/lr_sched.py).

    mmengine's LinearLR reaches its end one step early and its CosineAnnealingLR goes by differences; chained,
    the two do not give the released learning rates. Per parameter group: base = its initial rate, s = its
    ``lr_scale`` (layer-wise decay; 1 without),

        t < warmup:  base * (start_factor + (1 - start_factor) * t / warmup)
        else:        s * eta_min + (base - s * eta_min) * (1 + cos(pi * (t - warmup) / (end - warmup))) / 2

    Args:
        optimizer: the optimizer or its wrapper.
        warmup: length of the warm-up, in epochs (iterations with ``by_epoch=False``).
        end: length of the whole schedule, likewise.
        eta_min: last learning rate.
        start_factor: share of the base that the warm-up begins at.
        convert_to_iter_based (in a config, with ``by_epoch=True``): lengths are epochs, and the rate changes
            every iteration.
    """

    def __init__(
        self,
        optimizer,
        *,
        warmup: float,
        end: float,
        eta_min: float = 0.0,
        start_factor: float = 0.0,
        begin: int = 0,
        by_epoch: bool = True,
        last_step: int = -1,
        verbose: bool = False,
    ):
        if not 0 <= warmup < end:
            raise ValueError(f'WarmupCosineLR: warmup {warmup} must be at least 0 and less than end {end}')
        if not 0 <= start_factor <= 1:
            raise ValueError(
                f'WarmupCosineLR: start_factor {start_factor} must be a share of the learning rate, 0 to 1'
            )
        if begin != 0 or end >= INF:
            raise ValueError(
                'WarmupCosineLR is a whole schedule: begin must be 0, and end the length of the run'
            )
        self.warmup, self.length, self.eta_min, self.start_factor = warmup, end, eta_min, start_factor
        super().__init__(
            optimizer,
            begin=0,
            end=math.ceil(end) + 1,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose,
        )

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args,
        warmup: float,
        end: float,
        by_epoch: bool = True,
        epoch_length: int | None = None,
        **kwargs,
    ):
        """Build the schedule in iterations from lengths in epochs."""
        if not by_epoch or not epoch_length:
            raise ValueError(
                f'convert_to_iter_based needs by_epoch=True and a known epoch length, got {by_epoch} and {epoch_length}'
            )
        return cls(*args, warmup=warmup * epoch_length, end=end * epoch_length, by_epoch=False, **kwargs)

    def _get_value(self) -> list[float]:
        step = min(self.last_step, self.length)
        values = []
        for base, group in zip(self.base_values, self.optimizer.param_groups, strict=True):
            if step < self.warmup:
                values.append(base * (self.start_factor + (1 - self.start_factor) * step / self.warmup))
                continue
            low = self.eta_min * group.get('lr_scale', 1.0)
            progress = (step - self.warmup) / (self.length - self.warmup)
            values.append(low + (base - low) * 0.5 * (1 + math.cos(math.pi * progress)))
        return values


@PARAM_SCHEDULERS.register_module()
class CosineWeightDecay(_ParamScheduler):
    """Weight decay from the optimizer's to ``final`` along half a cosine (DINO, arXiv:2104.14294, section 3.2), in closed form.

    mmengine's CosineAnnealingParamScheduler would raise the decay of biases and norms from 0 as well. Here a
    group without decay stays without, and one with a part of the largest decay keeps its part.

    Args:
        optimizer: the optimizer or its wrapper.
        final: last weight decay.
        end: length of the schedule, in epochs (iterations with ``by_epoch=False``).
        convert_to_iter_based (in a config, with ``by_epoch=True``): the length is epochs, and the decay
            changes every iteration.
    """

    def __init__(
        self,
        optimizer,
        *,
        final: float,
        end: float,
        begin: int = 0,
        by_epoch: bool = True,
        last_step: int = -1,
        verbose: bool = False,
    ):
        if final < 0:
            raise ValueError(f'CosineWeightDecay: final={final} must not be negative')
        if begin != 0 or not 0 < end < INF:
            raise ValueError(
                'CosineWeightDecay is a whole schedule: begin must be 0, and end the length of the run'
            )
        self.length, self.final = end, final
        super().__init__(
            optimizer,
            'weight_decay',
            begin=0,
            end=math.ceil(end) + 1,
            last_step=last_step,
            by_epoch=by_epoch,
            verbose=verbose,
        )

    @classmethod
    def build_iter_from_epoch(
        cls, *args, end: float, by_epoch: bool = True, epoch_length: int | None = None, **kwargs
    ):
        """Build the schedule in iterations from a length in epochs."""
        if not by_epoch or not epoch_length:
            raise ValueError(
                f'convert_to_iter_based needs by_epoch=True and a known epoch length, got {by_epoch} and {epoch_length}'
            )
        return cls(*args, end=end * epoch_length, by_epoch=False, **kwargs)

    def _get_value(self) -> list[float]:
        largest = max(self.base_values)
        progress = min(self.last_step, self.length) / self.length
        value = self.final + (largest - self.final) * 0.5 * (1 + math.cos(math.pi * progress))
        return [value * base / largest if largest else 0.0 for base in self.base_values]
