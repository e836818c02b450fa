"""Attention on a grid with decomposed relative positions (MViTv2, arXiv:2112.01526, equation 4; ViTDet, arXiv:2203.16527).

A score is q.k / sqrt(D) + q.R_h[row of q - row of k] + q.R_w[column of q - column of k]. The sum of the two
last terms for all pairs is as large as the scores of all heads, 0.8 GB for ViT-B at 1024 pixels; it is never
kept for long sequences. On the CPU it is made for a few rows of queries at a time. On a GPU the terms are
columns added to q, with ones in the columns of k for its row and its column, so that a product of longer
vectors gives the whole score and the stock fused kernels serve.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

# scores that are made at a time on the CPU: 1 M of float32, what a second-level cache holds with the keys
CHUNK = 1 << 20
# keys up to which all scores are made at once where gradients are needed: a window
SHORT = 400


def rel_table(rel_pos: Tensor, size: int) -> Tensor:
    """Vectors of all pairs on one axis.

    Args:
        rel_pos: (2 * size - 1, D), offsets, query minus key, upwards from the most negative; another length
            is resized (linear).
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


def rel_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    grid: tuple[int, int],
    way: str = 'auto',
) -> Tensor:
    """softmax(q k' / sqrt(D) + q R_h + q R_w) v over the cells of a grid.

    Args:
        query, key, value: (B, heads, H * W, D).
        rel_h, rel_w: (2 * H - 1, D) and (2 * W - 1, D), other lengths are resized; None for plain attention.
        grid: (H, W).
        way: 'plain' makes all scores, 'rows' a few rows of queries at a time (not kept, not for gradients),
            'augmented' adds columns to q and k. 'auto' chooses by device, length and whether gradients are
            needed; the results differ by rounding only.

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
        way = _choose(query, key, value, rel_h)
    if way not in _WAYS:
        raise ValueError(
            f"way={way!r} of attention with relative positions: one of 'auto', {', '.join(map(repr, _WAYS))}"
        )
    return _WAYS[way](query, key, value, *rel_scores(query, rel_h, rel_w, grid), grid)


def _choose(query: Tensor, key: Tensor, value: Tensor, rel_h: Tensor) -> str:
    if query.device.type != 'cpu' or torch.compiler.is_compiling():
        return 'augmented'
    if query.shape[-2] <= SHORT:
        return 'plain'
    return 'augmented' if _trains(query, key, value, rel_h) else 'rows'


def _trains(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _bias(down: Tensor, right: Tensor) -> Tensor:
    """(..., L, H) and (..., L, W) to (..., L, H * W)."""
    return (down.unsqueeze(-1) + right.unsqueeze(-2)).flatten(-2)


def _plain(
    query: Tensor, key: Tensor, value: Tensor, down: Tensor, right: Tensor, grid: tuple[int, int]
) -> Tensor:
    scores = query * query.shape[-1] ** -0.5 @ key.transpose(-2, -1) + _bias(down, right)
    return scores.softmax(dim=-1) @ value


def _rows(
    query: Tensor, key: Tensor, value: Tensor, down: Tensor, right: Tensor, grid: tuple[int, int]
) -> Tensor:
    batch, heads, length, dim = query.shape
    out = query.new_empty(batch, length, heads, dim).transpose(
        1, 2
    )  # as the projection that follows reads it
    if query.dtype not in (torch.float32, torch.float64):
        step = max(1, CHUNK // length // heads)
        for rows in _slices(length, step):
            out[:, :, rows] = F.scaled_dot_product_attention(
                query[:, :, rows], key, value, _bias(down[:, :, rows], right[:, :, rows])
            )
        return out
    query = query * dim**-0.5
    for sample in range(batch):
        for group in _slices(heads, max(1, CHUNK // length**2)):
            keys, values = key[sample, group].contiguous().transpose(1, 2), value[sample, group].contiguous()
            for rows in _slices(length, max(1, CHUNK // length)):
                out[sample, group, rows] = _scores_to_values(
                    query[sample, group, rows],
                    keys,
                    values,
                    down[sample, group, rows],
                    right[sample, group, rows],
                )
    return out


def _slices(length: int, step: int) -> list[slice]:
    return [slice(first, min(first + step, length)) for first in range(0, length, step)]


def _scores_to_values(query: Tensor, keys: Tensor, values: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """(G, L, D) scaled queries, (G, D, H * W) keys, (G, H * W, D) values, (G, L, H) and (G, L, W) terms to (G, L, D), in one buffer."""
    scores = _bias(down, right).baddbmm_(query, keys)
    return torch.softmax(scores, dim=-1, out=scores) @ values


def _augmented(
    query: Tensor, key: Tensor, value: Tensor, down: Tensor, right: Tensor, grid: tuple[int, int]
) -> Tensor:
    dim, (height, width) = query.shape[-1], grid
    ones = torch.cat(
        [
            torch.eye(height, dtype=key.dtype, device=key.device).repeat_interleave(width, 0),
            torch.eye(width, dtype=key.dtype, device=key.device).repeat(height, 1),
        ],
        dim=1,
    )
    spare = -(dim + height + width) % 8  # fused kernels take multiples of eight
    query = torch.cat([query * dim**-0.5, down, right], dim=-1)
    key = torch.cat([key, ones.expand(*key.shape[:2], -1, -1)], dim=-1)
    query, key = F.pad(query, (0, spare)), F.pad(key, (0, spare))
    value = F.pad(value, (0, height + width + spare))
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :dim]


def window_attention(
    qkv: Tensor,
    num_heads: int,
    side: int,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    outside: Tensor | None = None,
    way: str = 'auto',
) -> Tensor:
    """Attention with relative positions inside square windows of a map.

    The map is filled up with cells of one value to whole windows; they are attended to like all others.

    Args:
        qkv: (B, H, W, 3C), queries, keys and values of the cells.
        num_heads: heads.
        side: of the windows in cells.
        rel_h, rel_w: (2 * side - 1, C / num_heads); None for plain attention.
        outside: (3C,) queries, keys and values of the cells outside the map; None for zeros.
        way: 'whole' for all windows at once, 'each' for one after another (not for gradients); 'auto' chooses
            by device and gradients.

    Returns:
        (B, H, W, C).
    """
    if way == 'auto':
        plain = qkv.device.type == 'cpu' and qkv.dtype in (torch.float32, torch.float64) and rel_h is not None
        way = 'each' if plain and not torch.compiler.is_compiling() and not _trains(qkv, rel_h) else 'whole'
    if way == 'each':
        return _each_window(qkv, num_heads, side, rel_h, rel_w, outside)
    batch, height, width, channels = qkv.shape
    rows, columns = -(-height // side), -(-width // side)
    below, right = rows * side - height, columns * side - width
    if below or right:
        qkv = F.pad(qkv, (0, 0, 0, right, 0, below))
        if outside is not None:
            inside = F.pad(
                torch.ones(1, height, width, 1, dtype=torch.bool, device=qkv.device),
                (0, 0, 0, right, 0, below),
            )
            qkv = torch.where(inside, qkv, outside.to(qkv.dtype))
    windows = qkv.reshape(batch, rows, side, columns, side, channels).transpose(2, 3)
    parts = windows.reshape(
        batch * rows * columns, side * side, 3, num_heads, channels // 3 // num_heads
    ).permute(2, 0, 3, 1, 4)
    query, key, value = parts.unbind(0)
    out = rel_attention(query, key, value, rel_h, rel_w, (side, side)).transpose(1, 2)
    out = out.reshape(batch, rows, columns, side, side, channels // 3).transpose(2, 3)
    return out.reshape(batch, rows * side, columns * side, channels // 3)[:, :height, :width]


def _each_window(
    qkv: Tensor, num_heads: int, side: int, rel_h: Tensor, rel_w: Tensor, outside: Tensor | None
) -> Tensor:
    batch, height, width, channels = qkv.shape
    dim = channels // 3 // num_heads
    parts = qkv.view(batch, height, width, 3, num_heads, dim)
    place = [torch.arange(length, device=qkv.device) % side for length in (height, width)]
    # (rows or columns, D, side): a cell's vectors for the rows or columns of its window
    tables = [
        rel_table(rel_pos, side)[where].transpose(1, 2)
        for rel_pos, where in zip((rel_h, rel_w), place, strict=True)
    ]
    query = parts[:, :, :, 0]
    down = (query.reshape(batch, height, -1, dim) @ tables[0]).view(batch, height, width, num_heads, side)
    right = (
        (query.transpose(1, 2).reshape(batch, width, -1, dim) @ tables[1])
        .view(batch, width, height, num_heads, side)
        .transpose(1, 2)
    )
    blank = qkv.new_zeros(3, num_heads, dim) if outside is None else outside.view(3, num_heads, dim)
    blank = blank[:, :, None, None].expand(-1, -1, side, side, -1)
    out = qkv.new_empty(batch, height, width, num_heads, dim)
    for sample in range(batch):
        for rows in _slices(height, side):
            for columns in _slices(width, side):
                cells = parts[sample, rows, columns].permute(2, 3, 0, 1, 4)
                query, full = cells[0].flatten(1, 2) * dim**-0.5, cells
                if cells.shape[2:4] != (side, side):
                    full = blank.clone()
                    full[:, :, : cells.shape[2], : cells.shape[3]] = cells
                keys, values = full[1].flatten(1, 2).transpose(1, 2), full[2].flatten(1, 2)
                terms = [
                    term[sample, rows, columns].permute(2, 0, 1, 3).flatten(1, 2) for term in (down, right)
                ]
                seen = _scores_to_values(query, keys, values, *terms)
                out[sample, rows, columns] = seen.unflatten(1, cells.shape[2:4]).permute(1, 2, 0, 3)
    return out.flatten(3)


_WAYS = {'plain': _plain, 'rows': _rows, 'augmented': _augmented}
