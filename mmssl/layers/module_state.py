"""What the results of a module depend on, as values that caches compare: weights, settings and hooks."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from mmssl.ops.switch import cpu

SETTINGS = frozenset((bool, int, float, str, type(None)))


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


class ModuleState:
    """Copies of the weights, buffers and settings of a module, to find out whether one has changed since.

    Args:
        module: The module; hooks are not compared, see :func:`has_hooks`.
    """

    def __init__(self, module: nn.Module):
        self.settings = settings_of(module)
        self.tensors = Snapshot(tensors_of(module).values())

    def matches(self, module: nn.Module) -> bool:
        """True if the module computes what it did, in training or evaluation mode as then."""
        return settings_of(module) == self.settings and self.tensors.matches(tensors_of(module).values())


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """All weights and buffers, also those that are in no state dict."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def settings_of(module: nn.Module) -> list[tuple[str, str, dict]]:
    """Name, class, and numbers and strings of a module and of all modules inside, private ones left out."""
    return [
        (
            name,
            f'{type(part).__module__}.{type(part).__qualname__}',
            {key: value for key, value in vars(part).items() if key[0] != '_' and _is_setting(value)},
        )
        for name, part in module.named_modules()
    ]


def fingerprint(module: nn.Module) -> str:
    """Hexadecimal digest of the weights, buffers and settings of a module, the same in every process."""
    settings = [(name, kind, sorted(values.items())) for name, kind, values in settings_of(module)]
    digest = hashlib.blake2b(repr(settings).encode(), digest_size=16)
    for name, value in sorted(tensors_of(module).items()):
        digest.update(f'{name} {tuple(value.shape)} {value.dtype}'.encode())
        digest.update(bytes_of(value))
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> bytes:
    """The bytes of the values of a tensor."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _is_setting(value) -> bool:
    if isinstance(value, (tuple, list)):
        return all(_is_setting(entry) for entry in value)
    return type(value) in SETTINGS


def has_hooks(module: nn.Module) -> bool:
    """True if a module or one inside has forward hooks or a ``forward`` of its own, which may do anything."""
    return any(
        part._forward_hooks or part._forward_pre_hooks or 'forward' in vars(part) for part in module.modules()
    )
