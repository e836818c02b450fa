"""What the results of a module depend on, as values that caches compare: weights, settings and hooks."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmssl.ops.switch import cpu

SETTINGS = (bool, int, float, str, type(None))


class Snapshot:
    """Copies of tensors, to find out whether one has changed its value since.

    Values are compared, because writes through ``.data`` and in inference mode leave no other trace.

    Args:
        tensors: Tensors to copy.
    """

    def __init__(self, tensors: Iterable[Tensor]):
        self.values = [tensor.detach().clone() for tensor in tensors]

    def matches(self, tensors: Iterable[Tensor]) -> bool:
        """True if tensors have the data types, devices, shapes and values of the copies."""
        values = [tensor.detach() for tensor in tensors]
        if [_layout(value) for value in values] != [_layout(value) for value in self.values]:
            return False
        changed = []
        for before, now in zip(self.values, values, strict=True):
            if not cpu([before]):
                changed.append(before.ne(now).any())  # read once at the end, which waits for the device
            elif not torch.equal(before, now):
                return False
        return not changed or not bool(torch.stack(changed).any())


def _layout(tensor: Tensor) -> tuple:
    return tensor.dtype, tensor.device, tensor.shape


def settings_of(module: nn.Module) -> str:
    """Classes, names of hooks, numbers and strings of a module and of all modules inside, no private ones."""
    lines = []
    for name, part in module.named_modules():
        values = {key: value for key, value in vars(part).items() if key[0] != '_' and _is_setting(value)}
        hooks = [*part._forward_pre_hooks.values(), *part._forward_hooks.values()]
        functions = [type(part), *hooks, *([part.forward] if 'forward' in vars(part) else [])]
        lines.append(f'{name} {[_name(function) for function in functions]} {sorted(values.items())}')
    return '\n'.join(lines)


def _name(function) -> str:
    named = function if hasattr(function, '__qualname__') else type(function)
    return f'{named.__module__}.{named.__qualname__}'


def _is_setting(value) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_setting(entry) for entry in value)
    return isinstance(value, SETTINGS)


def has_hooks(module: nn.Module) -> bool:
    """True if a module or one inside has forward hooks or a ``forward`` of its own, which may do anything."""
    return any(
        part._forward_hooks or part._forward_pre_hooks or 'forward' in vars(part) for part in module.modules()
    )
