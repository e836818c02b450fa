"""Attention with decomposed relative positions against the formula."""

import math

import pytest
import torch

from mmssl.ops import switch
from mmssl.ops.fast.rel_attention import attend_augmented
from mmssl.ops.rel_attention import rel_attention, resize_rel_pos, window_attention


def formula(query, key, value, rel_h, rel_w, grid):
    """One pair of positions at a time, in float64."""
    query, key, value, rel_h, rel_w = (x.detach().double() for x in (query, key, value, rel_h, rel_w))
    (height, width), dim = grid, query.shape[-1]
    scores = torch.zeros(*query.shape[:2], height * width, height * width, dtype=torch.float64)
    for i in range(height * width):
        for j in range(height * width):
            rows, columns = i // width - j // width, i % width - j % width
            q = query[:, :, i]
            scores[:, :, i, j] = (
                (q * key[:, :, j]).sum(-1) / math.sqrt(dim)
                + q @ rel_h[rows + height - 1]
                + q @ rel_w[columns + width - 1]
            )
    return scores.softmax(-1) @ value


@pytest.mark.parametrize(
    ('grid', 'plain', 'grad'),
    [
        *(
            (grid, plain, grad)
            for grid in ((3, 5), (1, 1))
            for plain in (True, False)
            for grad in (True, False)
        ),
        ((1, 401), False, True),  # a sequence that is long enough for the other fast form
    ],
)
def test_it_equals_the_formula(grid, plain, grad, monkeypatch):
    monkeypatch.setattr(switch, '_plain_only', plain)
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 1, 1, math.prod(grid), 4)
    tables = torch.randn(2 * grid[0] - 1, 4), torch.randn(2 * grid[1] - 1, 4)
    with torch.set_grad_enabled(grad):
        out = rel_attention(query.requires_grad_(grad), key, value, *tables, grid)
    torch.testing.assert_close(out.double(), formula(query, key, value, *tables, grid), atol=2e-6, rtol=1e-5)


def test_gradients_reach_queries_and_tables():
    torch.manual_seed(0)
    shapes = [(1, 2, 6, 2)] * 3 + [(3, 2), (5, 2)]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda *x: rel_attention(*x, (2, 3)), inputs)


def test_bfloat16_is_near():
    torch.manual_seed(0)
    inputs = [*torch.randn(3, 1, 2, 420, 8), torch.randn(39, 8) * 0.3, torch.randn(41, 8) * 0.3]
    with switch.plain_forms():
        exact = rel_attention(*inputs, (20, 21))
    half = [x.bfloat16() for x in inputs]
    for requires_grad in (False, True):
        half[0].requires_grad_(requires_grad)
        result = rel_attention(*half, (20, 21)).float()
        torch.testing.assert_close(result, exact, atol=5e-2, rtol=5e-2)


@pytest.mark.compile
def test_compiled_it_takes_the_augmented_form_whole(monkeypatch):
    monkeypatch.setattr(switch, '_plain_only', False)
    torch.manual_seed(0)
    inputs = [*torch.randn(3, 1, 2, 420, 8), torch.randn(39, 8), torch.randn(41, 8)]
    compiled = torch.compile(rel_attention, backend='aot_eager', fullgraph=True)
    torch.testing.assert_close(
        compiled(*inputs, (20, 21)), attend_augmented(*inputs, (20, 21)), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize('padding', [True, False])
def test_padding_is_attended_to(padding):
    torch.manual_seed(0)
    qkv, tables = torch.randn(2, 2, 2, 24), torch.randn(2, 5, 4)
    token = torch.randn(24) if padding else None
    window = (torch.zeros(24) if token is None else token).expand(2, 3, 3, 24).clone()
    window[:, :2, :2] = qkv
    query, key, value = window.view(2, 9, 3, 2, 4).permute(2, 0, 3, 1, 4)
    expected = formula(query, key, value, *tables, (3, 3)).transpose(1, 2).reshape(2, 3, 3, 8)[:, :2, :2]
    result = window_attention(qkv, 2, 3, *tables, token)
    torch.testing.assert_close(result.double(), expected, atol=2e-6, rtol=1e-5)


def test_tables_of_other_lengths_are_resized():
    table = torch.arange(5.0)[:, None].expand(-1, 2)
    assert resize_rel_pos(table, 5) is table
    torch.testing.assert_close(resize_rel_pos(table, 9)[4], torch.full((2,), 2.0))


def test_a_table_alone_is_refused():
    x = torch.zeros(1, 1, 4, 2)
    with pytest.raises(ValueError, match='both tables'):
        rel_attention(x, x, x, torch.zeros(3, 2), None, (2, 2))
