"""Checks of the numbers in a checkpoint against the model that takes them; torch casts any dtype silently."""

import logging
from collections.abc import Mapping

import torch
from torch import Tensor

from mmssl.errors import MismatchError

# names shown of a longer list
_SHOWN = 4


def check_dtypes(weights: Mapping, tensors: Mapping[str, Tensor], source: str, logger='current') -> None:
    """Refuse dtypes of another kind than the model's; log casts between floats, and NaN or infinity.

    Args:
        weights: Weights of the file, by name.
        tensors: Parameters and buffers of the model, by name.
        source: Name of the file, for the messages.
        logger: As for mmengine's ``print_log``.

    Raises:
        MismatchError: Integers or complex numbers are given for floats, or the other way round; a tensor is
            sparse, or has several values for a scalar.
    """
    from mmengine.logging import print_log

    casts: dict[tuple[torch.dtype, torch.dtype], list[str]] = {}
    not_finite = []
    for name, target in tensors.items():
        value = weights.get(name)
        if not isinstance(value, Tensor) or value.is_meta:
            continue
        _refuse_other_kind(name, value, target.dtype, source)
        if target.ndim == 0 and value.ndim == 1 and len(value) != 1:  # torch would take the first value
            raise MismatchError(f'{source}: {name} has {len(value)} values, and the model takes a single one')
        if value.is_floating_point() and target.is_floating_point():
            if value.dtype != target.dtype:
                casts.setdefault((value.dtype, target.dtype), []).append(name)
            used = value.to(target.dtype)
            if name.endswith('running_var'):
                used = used.sqrt()  # of a negative variance, not a number
            if not torch.isfinite(used).all():
                not_finite.append(name)
    for (old, new), names in casts.items():
        wider = torch.finfo(new).bits > torch.finfo(old).bits
        change = f'{"widened" if wider else "rounded"} from {_short(old)} to {_short(new)}'
        print_log(f'{source}: {_listed(names)} {change}', logger)
    if not_finite:
        print_log(
            f'{source}: NaN or infinite values in {_listed(not_finite)}; the results will be useless: '
            'take an earlier checkpoint',
            logger,
            level=logging.WARNING,
        )


def _refuse_other_kind(name: str, value: Tensor, target: torch.dtype, source: str) -> None:
    if value.layout != torch.strided:
        raise MismatchError(
            f'{source}: {name} is a sparse tensor, which is not read; save it with .to_dense()'
        )
    if not _same_kind(value, target):
        raise MismatchError(
            f'{source}: {name} is {_short(value.dtype)}, and the model takes {_short(target)}: '
            f'a cast would change its meaning; save it as {_short(target)}'
        )


def _same_kind(value: Tensor, target: torch.dtype) -> bool:
    if value.is_quantized:
        return False
    if value.is_complex() or target.is_complex:
        return value.is_complex() and target.is_complex
    if target.is_floating_point:
        return value.is_floating_point()
    if not value.is_floating_point():
        return True
    return bool((value == value.round()).all())  # a counter that a script has saved as a float


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix('torch.')


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ', '.join(names[:_SHOWN]) + (f' and {more} more' if more > 0 else '')
