"""Attention on a grid with decomposed relative positions.

MViTv2 (Li et al., CVPR 2022, arXiv:2112.01526, equation 4) and ViTDet (Li et al., ECCV 2022,
arXiv:2203.16527). The score of a query and a key is

    q.k / sqrt(D) + q.R_h[row of q - row of k] + q.R_w[column of q - column of k]
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.ops.switch import always, cpu_constant, cuda_with_flex_attention, fast_form, tracing


def resize_rel_pos(rel_pos: Tensor, length: int) -> Tensor:
    """Resize a table of offsets (L, D) to (length, D) by linear interpolation."""
    if not tracing() and rel_pos.shape[0] == length:  # a trace has no branches
        return rel_pos
    return F.interpolate(rel_pos.t()[None].float(), size=length, mode='linear')[0].t().to(rel_pos.dtype)


def rel_table(rel_pos: Tensor, size: int) -> Tensor:
    """Look up the vectors of all pairs of positions on one axis.

    Args:
        rel_pos: (2 * size - 1, D), by offset (query minus key), the most negative offset first. Tables of
            other lengths are resized.
        size: Length of the axis.

    Returns:
        (size, size, D), query first.
    """
    rel_pos = resize_rel_pos(rel_pos, 2 * size - 1)
    positions = torch.arange(size, device=rel_pos.device)
    return rel_pos[positions[:, None] - positions[None, :] + size - 1]


def rel_scores(query: Tensor, rel_h: Tensor, rel_w: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Compute the terms of the score that depend on the key's row and on its column.

    Args:
        query: (B, heads, H * W, D), not scaled.
        rel_h: (2 * H - 1, D).
        rel_w: (2 * W - 1, D).
        grid: (H, W).

    Returns:
        (B, heads, H * W, H) and (B, heads, H * W, W).
    """
    height, width = grid
    queries = query.unflatten(2, grid)
    table_h = rel_table(rel_h, height).to(query.dtype)
    table_w = rel_table(rel_w, width).to(query.dtype)
    by_row = queries @ table_h.transpose(1, 2)
    by_column = (queries.transpose(2, 3) @ table_w.transpose(1, 2)).transpose(2, 3)
    return by_row.flatten(2, 3), by_column.flatten(2, 3)


def rel_bias(by_row: Tensor, by_column: Tensor) -> Tensor:
    """Add terms (..., L, H) and (..., L, W) of the score for all pairs: (..., L, H * W)."""
    return (by_row.unsqueeze(-1) + by_column.unsqueeze(-2)).flatten(-2)


@fast_form('mmssl.ops.fast.rel_attention:attend_by_rows', when=cpu_constant)
@fast_form('mmssl.ops.fast.flex_attention:attend_flex', when=cuda_with_flex_attention, compiled=True)
@fast_form('mmssl.ops.fast.rel_attention:attend_augmented', when=always, compiled=True)
def rel_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    grid: tuple[int, int],
) -> Tensor:
    """softmax(q k' / sqrt(D) + q R_h + q R_w) v over the positions of a grid.

    Args:
        query: (B, heads, H * W, D).
        key: (B, heads, H * W, D).
        value: (B, heads, H * W, D).
        rel_h: (2 * H - 1, D); another length is resized. None for attention without relative positions.
        rel_w: (2 * W - 1, D), or None.
        grid: (H, W).

    Returns:
        (B, heads, H * W, D).

    Raises:
        ValueError: One of the tables is given without the other.
    """
    if (rel_h is None) != (rel_w is None):
        raise ValueError('relative positions need both tables, rel_h and rel_w')
    if rel_h is None or rel_w is None:
        return F.scaled_dot_product_attention(query, key, value)
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1)
    scores = scores + rel_bias(*rel_scores(query, rel_h, rel_w, grid))
    return scores.softmax(dim=-1) @ value


@fast_form('mmssl.ops.fast.rel_attention:attend_window_by_window', when=cpu_constant)
def window_attention(
    qkv: Tensor,
    num_heads: int,
    window_size: int,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    padding: Tensor | None = None,
) -> Tensor:
    """:func:`rel_attention` inside the windows of a grid that is padded to whole windows.

    Args:
        qkv: (B, H, W, 3C), queries, keys and values of the tokens.
        num_heads: Number of heads.
        window_size: Side of a window in tokens.
        rel_h: (2 * window_size - 1, C / num_heads); None for attention without relative positions.
        rel_w: (2 * window_size - 1, C / num_heads), or None.
        padding: (3C,), query, key and value of a padding token; None for zeros.

    Returns:
        (B, H, W, C).
    """
    batch, height, width, channels = qkv.shape
    dim = channels // 3 // num_heads
    rows = (height + window_size - 1) // window_size
    columns = (width + window_size - 1) // window_size
    below = rows * window_size - height
    right = columns * window_size - width
    if tracing() or below or right:
        qkv = F.pad(qkv, (0, 0, 0, right, 0, below))
        if padding is not None:
            real = torch.ones(1, height, width, 1, dtype=torch.bool, device=qkv.device)
            qkv = torch.where(F.pad(real, (0, 0, 0, right, 0, below)), qkv, padding.to(qkv.dtype))
    windows = qkv.reshape(batch, rows, window_size, columns, window_size, channels).transpose(2, 3)
    heads = windows.reshape(batch * rows * columns, window_size**2, 3, num_heads, dim)
    query, key, value = heads.permute(2, 0, 3, 1, 4).unbind(0)
    out = rel_attention(query, key, value, rel_h, rel_w, (window_size, window_size)).transpose(1, 2)
    out = out.reshape(batch, rows, columns, window_size, window_size, channels // 3).transpose(2, 3)
    return out.reshape(batch, rows * window_size, columns * window_size, channels // 3)[:, :height, :width]
