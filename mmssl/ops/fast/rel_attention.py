"""Attention with decomposed relative positions without the scores of all pairs in memory.

The relative terms of all pairs are as large as the scores of all heads: 0.8 GB for ViT-B at 1024 pixels.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.ops.rel_attention import rel_bias, rel_scores, rel_table

# scores computed at a time on the CPU: 1 M in float32 fit into a second-level cache together with the keys
CHUNK = 1 << 20
# sequences up to this length, such as windows, are faster on the CPU with all scores at once
SHORT = 400


def attend_by_rows(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    grid: tuple[int, int],
) -> Tensor:
    """:func:`mmssl.ops.rel_attention.rel_attention` for a few queries at a time, without gradients."""
    if rel_h is None or rel_w is None or query.shape[-2] <= SHORT:
        return NotImplemented
    batch, heads, length, dim = query.shape
    by_row, by_column = rel_scores(query, rel_h, rel_w, grid)
    # in the order in which the projection that follows reads it
    out = query.new_empty(batch, length, heads, dim).transpose(1, 2)
    if query.dtype not in (torch.float32, torch.float64):
        for rows in _slices(length, CHUNK // length // heads):
            bias = rel_bias(by_row[:, :, rows], by_column[:, :, rows])
            out[:, :, rows] = F.scaled_dot_product_attention(query[:, :, rows], key, value, bias)
        return out
    query = query * dim**-0.5
    for sample in range(batch):
        for group in _slices(heads, CHUNK // length**2):
            keys = key[sample, group].contiguous().transpose(1, 2)
            values = value[sample, group].contiguous()
            for rows in _slices(length, CHUNK // length):
                part = sample, group, rows
                out[part] = _attend(query[part], keys, values, by_row[part], by_column[part])
    return out


def attend_augmented(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    grid: tuple[int, int],
) -> Tensor:
    """:func:`mmssl.ops.rel_attention.rel_attention` by torch's fused kernels, with gradients.

    The relative terms are appended to the queries, and a one for its row and its column to each key, so that
    the product of the longer vectors is the whole score.
    """
    if rel_h is None or rel_w is None or (query.device.type == 'cpu' and query.shape[-2] <= SHORT):
        return NotImplemented
    dim = query.shape[-1]
    height, width = grid
    by_row, by_column = rel_scores(query, rel_h, rel_w, grid)
    row_of_key = torch.eye(height, dtype=key.dtype, device=key.device).repeat_interleave(width, 0)
    column_of_key = torch.eye(width, dtype=key.dtype, device=key.device).repeat(height, 1)
    indicators = torch.cat([row_of_key, column_of_key], dim=1).expand(*key.shape[:2], -1, -1)
    spare = -(dim + height + width) % 8  # fused kernels take multiples of eight
    query = F.pad(torch.cat([query * dim**-0.5, by_row, by_column], dim=-1), (0, spare))
    key = F.pad(torch.cat([key, indicators], dim=-1), (0, spare))
    value = F.pad(value, (0, height + width + spare))
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :dim]


def attend_window_by_window(
    qkv: Tensor,
    num_heads: int,
    window_size: int,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    padding: Tensor | None = None,
) -> Tensor:
    """:func:`mmssl.ops.rel_attention.window_attention` for one window at a time, without gradients.

    Padding is added to the windows at the border only, and the relative terms are computed for the tokens of
    the map only.
    """
    if rel_h is None or rel_w is None or qkv.dtype not in (torch.float32, torch.float64):
        return NotImplemented
    batch, height, width, channels = qkv.shape
    dim = channels // 3 // num_heads
    parts = qkv.view(batch, height, width, 3, num_heads, dim)
    query = parts[:, :, :, 0]
    row_in_window = torch.arange(height, device=qkv.device) % window_size
    column_in_window = torch.arange(width, device=qkv.device) % window_size
    # (rows or columns, D, window_size)
    table_h = rel_table(rel_h, window_size)[row_in_window].transpose(1, 2)
    table_w = rel_table(rel_w, window_size)[column_in_window].transpose(1, 2)
    by_row = query.reshape(batch, height, width * num_heads, dim) @ table_h
    by_row = by_row.view(batch, height, width, num_heads, window_size)
    by_column = query.transpose(1, 2).reshape(batch, width, height * num_heads, dim) @ table_w
    by_column = by_column.view(batch, width, height, num_heads, window_size).transpose(1, 2)
    blank = qkv.new_zeros(3, num_heads, dim) if padding is None else padding.view(3, num_heads, dim)
    blank = blank[:, :, None, None].expand(-1, -1, window_size, window_size, -1)
    out = qkv.new_empty(batch, height, width, num_heads, dim)
    for sample in range(batch):
        for rows in _slices(height, window_size):
            for columns in _slices(width, window_size):
                part = sample, rows, columns
                window = parts[part].permute(2, 3, 0, 1, 4)
                size = window.shape[2:4]
                query = window[0].flatten(1, 2) * dim**-0.5
                if size != (window_size, window_size):
                    real = window
                    window = blank.clone()
                    window[:, :, : size[0], : size[1]] = real
                key = window[1].flatten(1, 2).transpose(1, 2)
                value = window[2].flatten(1, 2)
                terms = [term[part].permute(2, 0, 1, 3).flatten(1, 2) for term in (by_row, by_column)]
                out[part] = _attend(query, key, value, *terms).unflatten(1, size).permute(1, 2, 0, 3)
    return out.flatten(3)


def _attend(query: Tensor, key: Tensor, value: Tensor, by_row: Tensor, by_column: Tensor) -> Tensor:
    """Attend with all scores in one buffer.

    Args:
        query: (heads, L, D), scaled.
        key: (heads, D, H * W).
        value: (heads, H * W, D).
        by_row: (heads, L, H), terms of the score.
        by_column: (heads, L, W), terms of the score.

    Returns:
        (heads, L, D).
    """
    scores = rel_bias(by_row, by_column).baddbmm_(query, key)
    return torch.softmax(scores, dim=-1, out=scores) @ value


def _slices(length: int, step: int) -> list[slice]:
    step = max(1, step)
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]
