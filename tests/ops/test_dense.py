"""The dense layer on oneDNN against the plain product."""

import pytest
import torch

from mmssl.ops import linear as module
from mmssl.ops.linear import linear


@pytest.fixture(params=['mkl', 'onednn'])
def path(request, monkeypatch):
    monkeypatch.setenv('MMSSL_CPU_LINEAR', request.param)
    module.onednn_serves.cache_clear()
    yield request.param
    module.onednn_serves.cache_clear()


@pytest.mark.parametrize('shape', [(7, 24), (2, 5, 24), (2, 3, 4, 24), (24,), (0, 24), (1, 24)])
@pytest.mark.parametrize('with_bias', [True, False])
def test_forward_and_gradients(path, shape, with_bias):
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    weight = torch.randn(16, 24, requires_grad=True)
    bias = torch.randn(16, requires_grad=True) if with_bias else None
    inputs = [x, weight] + ([bias] if with_bias else [])
    out = linear(x, weight, bias)
    plain = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = plain[0] @ plain[1].T + (plain[2] if with_bias else 0)
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-5)
    pull = torch.randn_like(out)
    got = torch.autograd.grad(out, inputs, pull)
    want = torch.autograd.grad(expected, plain, pull.double())
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine.double(), theirs, atol=1e-5, rtol=1e-5)


def test_odd_layouts(path):
    x = torch.randn(24, 6).t()
    weight = torch.randn(24, 16).t()
    torch.testing.assert_close(linear(x, weight), x @ weight.t(), atol=1e-5, rtol=1e-5)
    y = torch.randn(2, 24, 3, 3).to(memory_format=torch.channels_last).permute(0, 2, 3, 1)
    torch.testing.assert_close(linear(y, weight), y @ weight.t(), atol=1e-5, rtol=1e-5)


def test_float64_and_bfloat16_keep_their_type(path):
    x, weight = torch.randn(3, 8), torch.randn(4, 8)
    assert linear(x.double(), weight.double()).dtype == torch.float64
    with torch.autocast('cpu', torch.bfloat16):
        assert linear(x, weight).dtype == torch.bfloat16
    assert torch.autograd.gradcheck(linear, (x.double().requires_grad_(), weight.double().requires_grad_()))


def test_only_needed_gradients_are_made(path):
    weight = torch.randn(4, 8, requires_grad=True)
    linear(torch.randn(3, 8), weight).sum().backward()
    assert weight.grad.shape == (4, 8)
    x = torch.randn(3, 8, requires_grad=True)
    linear(x, weight.detach()).sum().backward()
    assert x.grad.shape == (3, 8)


def test_an_unknown_choice_is_refused(monkeypatch):
    monkeypatch.setenv('MMSSL_CPU_LINEAR', 'fast')
    module.onednn_serves.cache_clear()
    with pytest.raises(ValueError, match="MMSSL_CPU_LINEAR='fast'"):
        linear(torch.randn(2, 8), torch.randn(4, 8))
    module.onednn_serves.cache_clear()
