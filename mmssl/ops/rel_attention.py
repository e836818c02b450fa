"""Attention on a grid with decomposed relative positions (MViTv2, arXiv:2112.01526, equation 4; ViTDet, arXiv:2203.16527).

A score is q.k / sqrt(D) + q.R_h[row of q - row of k] + q.R_w[column of q - column of k]. The sum of the two last terms for all pairs is
as large as the scores of all heads, 0.8 GB for ViT-B at 1024 pixels; it is never kept for long sequences. On the CPU it is made for a few
rows of queries at a time. On a GPU the terms are columns added to q, with ones in the columns of k for its row and its column, so that a
product of longer vectors gives the whole score and the stock fused kernels serve.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# scores of one head that are made at a time on the CPU: 1 M of float32, what a second-level cache holds with the keys
CHUNK = 1 << 20
# queries up to which all scores are made at once: a window
SHORT = 400


def rel_table(rel_pos: Tensor, size: int) -> Tensor:
    """Vectors of all pairs on one axis.

    Args:
        rel_pos: (2 * size - 1, D), offsets, query minus key, upwards from the most negative; another length is resized (linear).
        size: of the axis.

    Returns:
        (size, size, D), query first.
    """
    rel_pos = resize_rel_pos(rel_pos, 2 * size - 1)
    place = torch.arange(size, device=rel_pos.device)
    return rel_pos[place[:, None] - place[None, :] + size - 1]


def resize_rel_pos(rel_pos: Tensor, length: int) -> Tensor:
    """(L, D) offsets to (length, D), linear between; the same tensor where the length is right."""
    if rel_pos.shape[0] == length:
        return rel_pos
    return F.interpolate(rel_pos.t()[None].float(), size=length, mode='linear')[0].t().to(rel_pos.dtype)


def rel_scores(query: Tensor, rel_h: Tensor, rel_w: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Terms of the score that depend on rows and on columns.

    Args:
        query: (B, heads, H * W, D), not scaled.
        rel_h, rel_w: (2 * H - 1, D) and (2 * W - 1, D).
        grid: (H, W).

    Returns:
        (B, heads, H * W, H) and (B, heads, H * W, W), by row and by column of the key.
    """
    batch, heads, length, dim = query.shape
    height, width = grid
    places = query.reshape(batch, heads, height, width, dim)
    down = places @ rel_table(rel_h, height).to(query.dtype).transpose(1, 2)
    right = (places.transpose(2, 3) @ rel_table(rel_w, width).to(query.dtype).transpose(1, 2)).transpose(2, 3)
    return down.reshape(batch, heads, length, height), right.reshape(batch, heads, length, width)


def rel_attention(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, grid: tuple[int, int],
                  way: str = 'auto') -> Tensor:
    """softmax(q k' / sqrt(D) + q R_h + q R_w) v over the cells of a grid.

    Args:
        query, key, value: (B, heads, H * W, D).
        rel_h, rel_w: (2 * H - 1, D) and (2 * W - 1, D), other lengths are resized; None for plain attention.
        grid: (H, W).
        way: 'plain' makes all scores, 'rows' a few rows of queries at a time (not kept, not for gradients), 'augmented' adds columns to q
            and k. 'auto' chooses by device, length and whether gradients are needed; the results differ by rounding only.

    Returns:
        (B, heads, H * W, D).

    Raises:
        ValueError: an unknown way, or one of the tables without the other.
    """
    if (rel_h is None) != (rel_w is None):
        raise ValueError('relative positions need both tables, rel_h and rel_w')
    if rel_h is None:
        return F.scaled_dot_product_attention(query, key, value)
    if way == 'auto':
        way = _choose(query, key, rel_h)
    if way not in _WAYS:
        raise ValueError(f"way={way!r} of attention with relative positions: one of 'auto', {', '.join(map(repr, _WAYS))}")
    return _WAYS[way](query, key, value, *rel_scores(query, rel_h, rel_w, grid), grid)


def _choose(query: Tensor, key: Tensor, rel_h: Tensor) -> str:
    trains = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or rel_h.requires_grad)
    if query.device.type != 'cpu' or torch.compiler.is_compiling():
        return 'augmented'
    if query.shape[-2] <= SHORT:
        return 'plain'
    return 'augmented' if trains else 'rows'


def _bias(down: Tensor, right: Tensor) -> Tensor:
    """(..., L, H) and (..., L, W) to (..., L, H * W)."""
    return (down.unsqueeze(-1) + right.unsqueeze(-2)).flatten(-2)


def _plain(query: Tensor, key: Tensor, value: Tensor, down: Tensor, right: Tensor, grid: tuple[int, int]) -> Tensor:
    scores = query * query.shape[-1]**-0.5 @ key.transpose(-2, -1) + _bias(down, right)
    return scores.softmax(dim=-1) @ value


def _rows(query: Tensor, key: Tensor, value: Tensor, down: Tensor, right: Tensor, grid: tuple[int, int]) -> Tensor:
    length = query.shape[-2]
    step = max(1, CHUNK // length)
    out = torch.empty_like(query)
    for first in range(0, length, step):
        rows = slice(first, first + step)
        out[:, :, rows] = F.scaled_dot_product_attention(query[:, :, rows], key, value, _bias(down[:, :, rows], right[:, :, rows]))
    return out


def _augmented(query: Tensor, key: Tensor, value: Tensor, down: Tensor, right: Tensor, grid: tuple[int, int]) -> Tensor:
    dim, (height, width) = query.shape[-1], grid
    ones = torch.cat([torch.eye(height, dtype=key.dtype, device=key.device).repeat_interleave(width, 0),
                      torch.eye(width, dtype=key.dtype, device=key.device).repeat(height, 1)], dim=1)
    spare = -(dim + height + width) % 8  # fused kernels take multiples of eight
    query = torch.cat([query * dim**-0.5, down, right], dim=-1)
    key = torch.cat([key, ones.expand(*key.shape[:2], -1, -1)], dim=-1)
    query, key = F.pad(query, (0, spare)), F.pad(key, (0, spare))
    value = F.pad(value, (0, height + width + spare))
    return F.scaled_dot_product_attention(query, key, value, scale=1.)[..., :dim]


_WAYS = {'plain': _plain, 'rows': _rows, 'augmented': _augmented}
