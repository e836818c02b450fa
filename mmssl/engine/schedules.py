"""Schedules of learning rate and weight decay."""

import math

from mmengine.optim.scheduler.lr_scheduler import LRSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF, _ParamScheduler

from mmssl.registry import PARAM_SCHEDULERS


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(LRSchedulerMixin, _ParamScheduler):
    """Linear warm-up followed by half a cosine, in closed form, as in MAE's released code (util/lr_sched.py).

    mmengine's LinearLR reaches its end one step early and its CosineAnnealingLR accumulates differences;
    chained, the two do not give the released learning rates. For a parameter group with initial rate ``base``
    and ``lr_scale`` s (layer-wise decay; 1 without),

        t < warmup:  base * (start_factor + (1 - start_factor) * t / warmup)
        else:        s * eta_min + (base - s * eta_min) * (1 + cos(pi * (t - warmup) / (end - warmup))) / 2

    Args:
        optimizer: The optimizer or its wrapper.
        warmup: Length of the warm-up, in epochs (iterations with ``by_epoch=False``).
        end: Length of the whole schedule, in the same unit.
        eta_min: Final learning rate.
        start_factor: Fraction of the initial rate at which the warm-up begins.
        begin: 0, the only value; mmengine passes it.
        by_epoch: Whether the schedule steps once per epoch. A config may add ``convert_to_iter_based=True``:
            lengths are then epochs, and the rate changes every iteration.
        last_step: Step before the first, as for mmengine's schedulers.
        verbose: Whether to log every value.

    Raises:
        ValueError: An argument is out of range.
    """

    def __init__(  # noqa: PLR0913  settings of a config
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
                f'WarmupCosineLR: start_factor {start_factor} must be a fraction of the learning rate, 0 to 1'
            )
        if begin != 0 or end >= INF:
            raise ValueError(
                'WarmupCosineLR is a whole schedule: begin must be 0, and end the length of the run'
            )
        self.warmup = warmup
        self.length = end
        self.eta_min = eta_min
        self.start_factor = start_factor
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
                'convert_to_iter_based needs by_epoch=True and a known epoch length, '
                f'got {by_epoch} and {epoch_length}'
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
    """Weight decay on a cosine schedule (DINO, arXiv:2104.14294, section 3.2), in closed form.

    It goes from the optimizer's weight decay to ``final``. mmengine's CosineAnnealingParamScheduler would
    raise the decay of biases and norms from 0 as well. Here a group without decay stays without, and one with
    a fraction of the largest decay keeps its fraction.

    Args:
        optimizer: The optimizer or its wrapper.
        final: Final weight decay.
        end: Length of the schedule, in epochs (iterations with ``by_epoch=False``).
        begin: 0, the only value; mmengine passes it.
        by_epoch: Whether the schedule steps once per epoch. A config may add ``convert_to_iter_based=True``:
            the length is then epochs, and the decay changes every iteration.
        last_step: Step before the first, as for mmengine's schedulers.
        verbose: Whether to log every value.

    Raises:
        ValueError: An argument is out of range.
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
        self.length = end
        self.final = final
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
                'convert_to_iter_based needs by_epoch=True and a known epoch length, '
                f'got {by_epoch} and {epoch_length}'
            )
        return cls(*args, end=end * epoch_length, by_epoch=False, **kwargs)

    def _get_value(self) -> list[float]:
        largest = max(self.base_values)
        progress = min(self.last_step, self.length) / self.length
        value = self.final + (largest - self.final) * 0.5 * (1 + math.cos(math.pi * progress))
        return [value * base / largest if largest else 0.0 for base in self.base_values]
