"""Attention against the formula, for lengths on both sides of each limit of its fast form."""

import math

import pytest
import torch

from mmssl.ops.attention import attention


def formula(query, key, value):
    scores = torch.einsum('bhld,bhsd->bhls', query, key) / math.sqrt(query.shape[-1])
    weights = (scores - scores.amax(-1, keepdim=True)).exp()
    return torch.einsum('bhls,bhsd->bhld', weights / weights.sum(-1, keepdim=True), value)


def tensors(dtype, queries, keys, grad=True):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(2, 3, length, 8, generator=generator, dtype=torch.float64).to(dtype).requires_grad_(grad)
        for length in (queries, keys, keys)
    ]


@pytest.mark.parametrize(
    ('dtype', 'tolerance'), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 3e-2)]
)
@pytest.mark.parametrize('keys', [1, 7, 128, 129, 321])
def test_forward_and_gradients_equal_the_formula(dtype, tolerance, keys):
    inputs = tensors(dtype, 5, keys)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    out, expected = attention(*inputs), formula(*exact)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)
    grad_output = torch.randn_like(expected)
    gradients = torch.autograd.grad(out, inputs, grad_output.to(dtype))
    references = torch.autograd.grad(expected, exact, grad_output)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient.double(), reference, atol=4 * tolerance, rtol=4 * tolerance)


def test_training_and_inference_agree():
    inputs = tensors(torch.float32, 9, 9)
    with torch.no_grad():
        inference = attention(*inputs)
    torch.testing.assert_close(attention(*inputs).detach(), inference, atol=1e-6, rtol=1e-5)


def test_autocast_keeps_bfloat16():
    inputs = tensors(torch.bfloat16, 6, 6)
    with torch.autocast('cpu', torch.bfloat16):
        assert attention(*inputs).dtype == torch.bfloat16


def test_dropout_drops_and_keeps_the_mean():
    torch.manual_seed(0)
    query, key = torch.zeros(1, 1, 2000, 4, requires_grad=True), torch.zeros(1, 1, 16, 4)
    out = attention(query, key, torch.ones(1, 1, 16, 4), dropout_p=0.5)
    assert out.std() > 0.1 and abs(out.mean() - 1) < 0.05


def test_gradcheck_with_odd_layouts():
    query, key, value = (
        torch.randn(2, 4, 3, 4, dtype=torch.float64).transpose(1, 2).requires_grad_() for _ in range(3)
    )
    assert torch.autograd.gradcheck(attention, (query, key, value))
