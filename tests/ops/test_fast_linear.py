"""Float32 products through oneDNN: the results of torch's kernels, and nothing else changes."""

import argparse
import types
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmssl import cli
from mmssl.ops import switch
from mmssl.ops.fast import linear

pytestmark = pytest.mark.skipif(
    not linear.available(), reason='this torch cannot replace the kernel of a product'
)


WIDTH = 256  # products of 256 x 256 x 256 are large enough for oneDNN


@pytest.fixture
def onednn(monkeypatch):
    """Large products on oneDNN, whatever the machine."""
    monkeypatch.setenv('MMSSL_CPU_LINEAR', 'onednn')
    monkeypatch.setattr(switch, '_plain_only', False)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert linear.enable()
    yield
    linear.disable()


def close(result, reference):
    torch.testing.assert_close(result.double(), reference, atol=2e-4, rtol=1e-5)


@pytest.mark.parametrize(
    'shape', [(259, WIDTH), (2, 131, WIDTH), (2, 3, 44, WIDTH), (WIDTH,), (0, WIDTH), (1, WIDTH)]
)
@pytest.mark.parametrize('with_bias', [True, False])
def test_forward_and_gradients(onednn, shape, with_bias):
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    weight = torch.randn(WIDTH, WIDTH, requires_grad=True)
    bias = torch.randn(WIDTH, requires_grad=True) if with_bias else None
    inputs = [x, weight] + ([bias] if with_bias else [])
    out = F.linear(x, weight, bias)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = exact[0] @ exact[1].T + (exact[2] if with_bias else 0)
    close(out, expected)
    grad_output = torch.randn_like(out)
    gradients = torch.autograd.grad(out, inputs, grad_output)
    references = torch.autograd.grad(expected, exact, grad_output.double())
    for gradient, reference in zip(gradients, references, strict=True):
        close(gradient, reference)


def test_odd_layouts_and_factors(onednn):
    weight = torch.randn(WIDTH, 300).t()
    for x in (
        torch.randn(WIDTH, 270).t(),
        torch.randn(270, 3, WIDTH)[:, 0],
        torch.randn(1, WIDTH).expand(270, -1),
        torch.randn(270, 2 * WIDTH)[:, ::2],
    ):
        close(x @ weight.t(), x.double() @ weight.double().t())
    matrix = torch.randn(270, 300)
    for bias, keywords in (
        (matrix, {}),
        (matrix[0], {'beta': 2}),
        (matrix[0], {'alpha': 0.5}),
        (matrix[:1], {}),
    ):
        result = torch.addmm(bias, x, weight.t(), **keywords)
        close(result, torch.addmm(bias.double(), x.double(), weight.double().t(), **keywords))
    with pytest.raises(RuntimeError, match='shapes cannot be multiplied'):
        torch.randn(300, WIDTH) @ torch.randn(300, WIDTH)


def test_other_types_keep_their_type(onednn):
    x, weight = torch.randn(WIDTH, WIDTH), torch.randn(WIDTH, WIDTH)
    assert F.linear(x.double(), weight.double()).dtype == torch.float64
    with torch.autocast('cpu', torch.bfloat16):
        assert F.linear(x, weight).dtype == torch.bfloat16
    assert (x.long() @ weight.long().T).dtype == torch.int64


@pytest.mark.filterwarnings('ignore:.torch.jit:DeprecationWarning')
def test_everything_above_the_kernel_sees_an_ordinary_linear(onednn):
    layer, x = nn.Linear(WIDTH, WIDTH), torch.randn(WIDTH, WIDTH)
    names = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(str(func))
            return func(*args, **(kwargs or {}))

    with Record():
        layer(x)
    assert names == ['aten.t.default', 'aten.addmm.default']
    exact = torch.nn.Linear(WIDTH, WIDTH).double()
    exact.load_state_dict(layer.state_dict())
    second = []
    for module, inputs in ((layer, x), (exact, x.double())):
        inputs = inputs.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(module(inputs).square().sum(), inputs, create_graph=True)
        second.append(torch.autograd.grad(gradient.sum(), module.weight)[0])
    torch.testing.assert_close(second[0].double(), second[1], atol=1e-3, rtol=1e-4)
    per_sample = torch.func.vmap(torch.func.grad(lambda row: layer(row).square().sum()))(x)
    close(per_sample, 2 * exact(x.double()) @ exact.weight)
    close(torch.jit.trace(layer, x)(x), exact(x.double()))
    with torch.inference_mode():
        close(layer(x), exact(x.double()))


def test_small_products_and_the_environment(monkeypatch):
    assert not linear._worthwhile(torch.zeros(8, 8), torch.zeros(8, 8))
    assert linear._worthwhile(torch.zeros(800, 768), torch.zeros(768, 3072))
    for choice in ('mkl', 'onednn'):
        monkeypatch.setenv('MMSSL_CPU_LINEAR', choice)
        monkeypatch.setattr(switch, '_plain_only', False)
        with linear.enabled() as on:
            assert on == (choice == 'onednn')
        assert linear._library is None
    with switch.plain_forms(), linear.enabled() as on:
        assert not on
    monkeypatch.setenv('MMSSL_CPU_LINEAR', 'fast')
    with pytest.raises(ValueError, match="MMSSL_CPU_LINEAR='fast'"), linear.enabled():
        pass


def test_enabling_twice_is_enabling_once(monkeypatch):
    monkeypatch.setenv('MMSSL_CPU_LINEAR', 'onednn')
    monkeypatch.setattr(switch, '_plain_only', False)
    with linear.enabled():
        with linear.enabled():
            pass
        assert linear._library is not None
    assert linear._library is None


def test_commands_that_run_a_network_switch_it_on_and_off(monkeypatch):
    monkeypatch.setenv('MMSSL_CPU_LINEAR', 'onednn')
    monkeypatch.setattr(switch, '_plain_only', False)
    states = []
    command = types.SimpleNamespace(run=lambda args: states.append(linear._library is not None))
    monkeypatch.setattr(cli, 'command_module', lambda name: command)
    monkeypatch.setattr(cli, 'command_parser', lambda name: argparse.ArgumentParser())
    assert cli.main(['knn']) == 0 and cli.main(['list']) == 0
    assert states == [True, False] and linear._library is None
