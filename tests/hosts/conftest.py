"""Calls of mmcv's operators with the compiled functions, and with their replacements."""

import importlib

import pytest
import torch

from mmssl.hosts import ops_import


@pytest.fixture
def swap(monkeypatch):
    """``swap(name)`` makes a module of mmcv.ops call the stand-in, ``swap(name, False)`` the original."""
    before = {}

    def swap(name, replaced=True):
        module = importlib.import_module(f'mmcv.ops.{name}')
        before.setdefault(name, module.ext_module)
        stand_in = ops_import.StandInModule('stand-in')
        monkeypatch.setattr(module, 'ext_module', stand_in if replaced else before[name])
        return module

    return swap


@pytest.fixture
def with_gradients(swap):
    """``with_gradients(name, run, *tensors)``: output and gradients of ``run(module, *tensors)``."""

    def with_gradients(name, run, *tensors, replaced=True):
        module = swap(name, replaced)
        leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
        output = run(module, *leaves)
        weights = torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)
        return [output, *torch.autograd.grad((output * weights).sum(), leaves)]

    return with_gradients
