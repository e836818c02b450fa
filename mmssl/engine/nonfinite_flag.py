"""Truth values that a device computes, and that the CPU reads without waiting for the rest of its queue."""

import torch
from mmengine.dist import all_reduce, get_world_size
from torch import Tensor, nn

from mmssl.errors import NonFiniteError
from mmssl.layers.distributed import own_part


def is_asynchronous(tensor: Tensor) -> bool:
    """Whether the device of a tensor computes asynchronously, so that reading a value waits for it."""
    return tensor.device.type == 'cuda'


class DeviceFlag:
    """A truth value that is copied from a device to the CPU without waiting for the device.

    The copy is queued behind the work that the device has now; reading the value waits for that work, and
    for nothing that is queued later. On the CPU the value is available at once.

    Args:
        flag: 0-dimensional, bool or an integer.

    Attributes:
        ready: Whether reading never waits.
    """

    def __init__(self, flag: Tensor):
        self.ready = not is_asynchronous(flag)
        self._value = flag
        self._copied: torch.cuda.Event | None = None
        if flag.is_cuda:
            self._value = torch.empty_like(flag, device='cpu', pin_memory=True)
            self._value.copy_(flag, non_blocking=True)
            self._copied = torch.cuda.Event()
            self._copied.record()

    def read(self) -> bool:
        """Return the value."""
        if self._copied is not None:
            self._copied.synchronize()
        return bool(self._value)


def finite_everywhere(value: Tensor) -> DeviceFlag:
    """Return whether a tensor is finite on every rank; all ranks have to call it."""
    finite = torch.isfinite(value.detach()).all()
    if get_world_size() > 1:
        finite = finite.to(torch.int32)
        all_reduce(finite, op='min')
    return DeviceFlag(finite)


def largest_magnitude(tensors: list[Tensor], device: torch.device) -> Tensor:
    """Return the largest absolute value in floating-point tensors, 0 without any.

    It is finite exactly if all of them are, whereas a sum of squares could overflow.

    Args:
        tensors: Tensors on one device, of any shapes; empty ones are ignored.
        device: The device.

    Returns:
        Scalar.
    """
    tensors = [tensor for tensor in tensors if tensor.numel()]
    if not tensors:
        return torch.zeros((), device=device)
    return torch.stack([norm.float() for norm in torch._foreach_norm(tensors, torch.inf)]).max()


def refuse_nonfinite_weights(model: nn.Module, every_rank: bool) -> None:
    """Refuse to save a model with parameters that are not finite, or with NaN in its buffers.

    Buffers may hold infinity, as masks of attention do.

    Args:
        model: The model; of a sharded one this rank checks its part.
        every_rank: Whether all ranks call this, and act alike.

    Raises:
        NonFiniteError: There is such a value.
    """
    tensors = {name: own_part(parameter.detach()) for name, parameter in model.named_parameters()}
    tensors.update((name, buffer.nan_to_num(nan=torch.nan)) for name, buffer in model.named_buffers())
    weights = {name: tensor for name, tensor in tensors.items() if tensor.is_floating_point()}
    if not weights:
        return
    magnitude = largest_magnitude(list(weights.values()), next(iter(weights.values())).device)
    finite = finite_everywhere(magnitude) if every_rank else DeviceFlag(torch.isfinite(magnitude))
    if not finite.read():
        names = [name for name, value in weights.items() if not bool(torch.isfinite(value).all())]
        shown = f'{names[0]} and {len(names) - 1} more' if names else 'those of another rank'
        raise NonFiniteError(
            f'weights are NaN or infinite ({shown}), and no checkpoint is written: start again from the last '
            'one, with a lower learning rate'
        )
