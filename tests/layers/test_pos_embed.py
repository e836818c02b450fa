"""The sine-cosine table and resizing."""

import math

import pytest
import torch

from mmssl.layers.pos_embed import grid_of, resize_pos_embed, sincos_2d


def test_x_fills_the_first_half_as_in_the_released_code():
    rows, columns, width = 3, 5, 16
    table = sincos_2d((rows, columns), width)
    assert table.shape == (1, 16, width) and table.dtype == torch.float32 and not table[0, 0].any()
    for y in range(rows):
        for x in range(columns):
            expected = []
            for position in (x, y):
                angles = [position / 10000 ** (n / (width / 4)) for n in range(width // 4)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            torch.testing.assert_close(
                table[0, 1 + y * columns + x], torch.tensor(expected), atol=1e-6, rtol=0
            )


def test_the_host_has_the_axes_swapped():
    from mmpretrain.models.utils import build_2d_sincos_position_embedding

    host = build_2d_sincos_position_embedding(6, 32, cls_token=True)
    ours = sincos_2d((6, 6), 32)
    assert (host - ours).abs().max() > 1
    swapped = ours[:, 1:].view(1, 6, 6, 32).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(host[:, 1:], swapped, atol=2e-6, rtol=0)


def test_a_width_that_is_no_multiple_of_four_is_refused():
    with pytest.raises(ValueError, match='divisible by 4, not 30'):
        sincos_2d((2, 2), 30)


def test_resizing_keeps_extra_tokens_and_the_identity():
    table = torch.randn(1, 1 + 12, 8)
    assert resize_pos_embed(table, (3, 4), (3, 4)) is table
    larger = resize_pos_embed(table, (3, 4), (6, 8))
    assert larger.shape == (1, 49, 8) and torch.equal(larger[:, 0], table[:, 0])
    flat = torch.cat([table[:, :1], torch.full((1, 12, 8), 0.5)], 1)
    torch.testing.assert_close(resize_pos_embed(flat, (3, 4), (5, 7))[:, 1:], torch.full((1, 35, 8), 0.5))
    with pytest.raises(ValueError, match='12 patches is not a grid of 2x5'):
        resize_pos_embed(table, (2, 5), (4, 4))


@pytest.mark.parametrize(
    ('count', 'like', 'grid'),
    [(196, (14, 14), (14, 14)), (98, (28, 56), (7, 14)), (98, (56, 28), (14, 7)), (7, (1, 9), (1, 7))],
)
def test_grid_of(count, like, grid):
    assert grid_of(count, like) == grid
