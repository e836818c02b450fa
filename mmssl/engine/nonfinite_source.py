"""Find the module that made the first NaN or infinite value of a step, by computing the step once more."""

import random
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn


def tensors_of(data) -> Iterator[Tensor]:
    """Yield the floating-point tensors in nested dicts, lists, tuples and data samples."""
    if isinstance(data, Tensor):
        if data.is_floating_point():
            yield data
    elif isinstance(data, (dict, BaseDataElement)):
        for value in data.values():
            yield from tensors_of(value)
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from tensors_of(value)


def is_finite(data) -> bool:
    """Whether all floating-point numbers in nested containers are finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors_of(data))


class GeneratorStates:
    """States of the random generators, so that a step can be repeated with the same dropout and masks.

    They are a few kilobytes.

    Args:
        device: Device whose generator is saved with the CPU's.
    """

    def __init__(self, device: torch.device | None = None):
        self.python = random.getstate()
        self.numpy = np.random.get_state()
        self.torch = torch.get_rng_state()
        self.device = device if device is not None and device.type == 'cuda' else None
        self.cuda = torch.cuda.get_rng_state(self.device) if self.device is not None else None

    def restore(self) -> None:
        """Set the generators to the saved states."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)


class FirstNonFinite:
    """Watches all modules of a model for the first output, and the first gradient, that is not finite.

    Args:
        model: The model.

    Attributes:
        forward: The module with the first such output, with its cause; None if there is none.
        backward: The module at whose output the gradient was first not finite.
    """

    def __init__(self, model: nn.Module):
        self.forward: str | None = None
        self.backward: str | None = None
        self._handles = [
            module.register_forward_hook(self._watch(f'{name} ({type(module).__name__})'))
            for name, module in model.named_modules()
            if name
        ]

    def _watch(self, label: str):
        def check_gradient(gradient: Tensor) -> None:
            if self.backward is None and not bool(torch.isfinite(gradient).all()):
                self.backward = label

        def check_output(module, inputs, output) -> None:
            if self.forward is None and not is_finite(output):
                self.forward = label + _cause(module, inputs)
            for tensor in tensors_of(output):
                if tensor.requires_grad:
                    tensor.register_hook(check_gradient)

        return check_output

    def remove(self) -> None:
        """Remove the hooks from the modules."""
        for handle in self._handles:
            handle.remove()


def _cause(module: nn.Module, inputs) -> str:
    if not is_finite(list(module.parameters())):
        return ', which holds a weight that is not finite'
    return '' if is_finite(inputs) else ', whose input already is not'


def describe_source(model: nn.Module, data, optim_wrapper, generators: GeneratorStates | None) -> str:
    """Return where the first value of a step that is not finite was made.

    The step is computed again, forward and backward, from preprocessed data, and its gradients are dropped.
    What a forward pass changes (running means, a queue) it changes a second time: this is for a run that
    ends.

    Args:
        model: The bare model on one process. Where several would have to take part, nothing can be repeated.
        data: Output of ``model.data_preprocessor``.
        optim_wrapper: The optimizer wrapper, for its context (autocast).
        generators: States of the generators before the step.

    Returns:
        The end of a message, '' if the repeated step is finite throughout.
    """
    weights = [name for name, parameter in model.named_parameters() if not is_finite(parameter)]
    if weights:
        return f'; the weights {_shortened(weights)} are not finite before the step'
    images = data.get('inputs', data.get('img')) if isinstance(data, dict) else None
    if images is not None and not is_finite(images):
        return (
            '; the images hold NaN or infinity when they reach the model: check the files and the transforms'
        )
    watch = FirstNonFinite(model)
    before = GeneratorStates()
    try:
        if generators is not None:
            generators.restore()
        return _repeat_step(model, data, optim_wrapper, watch)
    except Exception as error:  # the report of the bad step matters more than why it cannot be repeated
        return f'; looking for the module failed: {type(error).__name__}: {str(error)[:120]}'
    finally:
        watch.remove()
        before.restore()
        optim_wrapper.zero_grad()


def _repeat_step(model: nn.Module, data, optim_wrapper, watch: FirstNonFinite) -> str:
    with optim_wrapper.optim_context(model), torch.enable_grad():
        losses = model._run_forward(data, mode='loss')
    if watch.forward:
        return f'; the first output that is not finite is that of {watch.forward}'
    bad = [name for name, value in losses.items() if not is_finite(value)]
    if bad:
        return (
            f'; the outputs of all modules are finite: {_shortened(bad)} is made in the computation of the '
            'loss itself'
        )
    optim_wrapper.zero_grad()
    total = [tensor.sum() for name, value in losses.items() if 'loss' in name for tensor in tensors_of(value)]
    sum(total).backward()
    if watch.backward:
        return f'; on the way back the gradient is first not finite at the output of {watch.backward}'
    bad = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and not is_finite(parameter.grad)
    ]
    return f'; the gradients of {_shortened(bad)} are not finite' if bad else ''


def _shortened(names: list[str]) -> str:
    return ', '.join(names[:3]) + (f' and {len(names) - 3} more' if len(names) > 3 else '')
