"""Which module made the first value that is not a number: the step is computed once more, and every module's output looked at."""

import random
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn


def tensors_of(data) -> Iterator[Tensor]:
    """The floating-point tensors in nested dicts, lists, tuples and data samples."""
    if isinstance(data, Tensor):
        if data.is_floating_point():
            yield data
    elif isinstance(data, dict):
        for value in data.values():
            yield from tensors_of(value)
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from tensors_of(value)
    elif isinstance(data, BaseDataElement):
        for value in data.values():
            yield from tensors_of(value)


def is_finite(data) -> bool:
    """Whether all numbers in it are."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors_of(data))


class Draws:
    """The states of the generators, so that a step can be repeated with the same dropout and the same masks.

    ``device`` is the one whose generator is kept beside the CPU's; the states are a few kilobytes.
    """

    def __init__(self, device: torch.device | None = None):
        self.python, self.numpy, self.torch = random.getstate(), np.random.get_state(), torch.get_rng_state()
        self.device = device if device is not None and device.type == 'cuda' else None
        self.cuda = torch.cuda.get_rng_state(self.device) if self.device is not None else None

    def restore(self) -> None:
        """Set the generators to what they were."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


class Watch:
    """Looks at the output of every module in the order in which they finish, and at the gradient that comes back to it."""

    def __init__(self, model: nn.Module):
        self.forward: str | None = None
        self.backward: str | None = None
        names = {module: name for name, module in model.named_modules()}
        self._handles = [
            module.register_forward_hook(self._look(name, type(module).__name__))
            for module, name in names.items()
            if name
        ]

    def _look(self, name: str, kind: str):
        where = f'{name} ({kind})'

        def look_back(gradient: Tensor) -> None:
            if self.backward is None and not bool(torch.isfinite(gradient).all()):
                self.backward = where

        def look(module, inputs, output) -> None:
            if self.forward is None and not is_finite(output):
                cause = (
                    ', which holds a weight that is not finite'
                    if not is_finite(list(module.parameters()))
                    else ', whose input already is not'
                    if not is_finite(inputs)
                    else ''
                )
                self.forward = where + cause
            for tensor in tensors_of(output):
                if tensor.requires_grad:
                    tensor.register_hook(look_back)

        return look

    def remove(self) -> None:
        """Take the hooks away."""
        for handle in self._handles:
            handle.remove()


def first_module(model: nn.Module, data, optim_wrapper, draws: Draws | None) -> str:
    """Say where a step's first value that is not finite was made.

    The step is computed again, forward and backward, from data that has been through the preprocessor, and
    its gradients are dropped. What a forward pass changes (running means, a queue) it changes a second time:
    this is for a run that ends.

    Args:
        model: the bare model, on one process; where several would have to take part, nothing is repeated.
        data: what ``model.data_preprocessor`` gave.
        optim_wrapper: for its context (autocast).
        draws: the states of the generators before the step.

    Returns:
        words for the end of a message, '' where the repeated step is finite throughout.
    """
    weights = [name for name, parameter in model.named_parameters() if not is_finite(parameter)]
    if weights:
        return f'; the weights {_some(weights)} are not finite before the step'
    images = data.get('inputs', data.get('img')) if isinstance(data, dict) else None
    if images is not None and not is_finite(images):
        return '; the images hold NaN or infinity when they reach the model: look at the files and at the transforms'
    watch, before = Watch(model), Draws()
    try:
        if draws is not None:
            draws.restore()
        with optim_wrapper.optim_context(model), torch.enable_grad():
            losses = model._run_forward(data, mode='loss')
        if watch.forward:
            return f'; the first output that is not finite is that of {watch.forward}'
        bad = [name for name, value in losses.items() if not is_finite(value)]
        if bad:
            return f'; the outputs of all modules are finite: {_some(bad)} is made in the computation of the loss itself'
        optim_wrapper.zero_grad()
        sum(
            tensor.sum() for name, value in losses.items() if 'loss' in name for tensor in tensors_of(value)
        ).backward()
        bad = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is not None and not is_finite(parameter.grad)
        ]
        if watch.backward:
            return f'; on the way back the gradient is first not finite at the output of {watch.backward}'
        return f'; the gradients of {_some(bad)} are not finite' if bad else ''
    except Exception as error:  # the report of the bad step matters more than why it cannot be repeated
        return f'; looking for the module failed: {type(error).__name__}: {str(error)[:120]}'
    finally:
        watch.remove()
        before.restore()
        optim_wrapper.zero_grad()


def _some(names: list[str]) -> str:
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')
