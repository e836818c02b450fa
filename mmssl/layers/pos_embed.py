"""Position embeddings of a grid of patches: the fixed sine-cosine table, and resizing a table to another grid."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def sincos_2d(grid: tuple[int, int], embed_dims: int, num_extra_tokens: int = 1) -> Tensor:
    """Fixed 2-D sine-cosine table as in MAE's released code: the column (x) fills the first half of the channels, the row (y) the second.

    mmpretrain's ``build_2d_sincos_position_embedding`` puts the row first (MoCo v3's convention) and knows
    square grids only.

    Args:
        grid: (rows, columns) of patches.
        embed_dims: channels C, a multiple of 4.
        num_extra_tokens: leading rows of zeros, for the class token.

    Returns:
        (1, num_extra_tokens + rows * columns, C), computed in float64, returned in float32.
    """
    if embed_dims % 4:
        raise ValueError(f'a 2-D sine-cosine table needs embed_dims divisible by 4, not {embed_dims}')
    rows, columns = grid
    quarter = embed_dims // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)

    def wave(position: Tensor) -> Tensor:
        angle = position.reshape(-1, 1) * frequency
        return torch.cat([angle.sin(), angle.cos()], dim=1)

    y, x = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64), torch.arange(columns, dtype=torch.float64), indexing='ij'
    )
    table = torch.cat([wave(x), wave(y)], dim=1)
    return torch.cat([table.new_zeros(num_extra_tokens, embed_dims), table]).float().unsqueeze(0)


def grid_of(num_patches: int, like: tuple[int, int]) -> tuple[int, int]:
    """Guess (rows, columns) of a table: square if it can be, else the factors whose aspect is nearest to that of ``like``."""
    side = math.isqrt(num_patches)
    if side * side == num_patches:
        return side, side
    aspect = math.log(like[0] / like[1])
    pairs = [(rows, num_patches // rows) for rows in range(1, num_patches + 1) if num_patches % rows == 0]
    return min(pairs, key=lambda pair: abs(math.log(pair[0] / pair[1]) - aspect))


def resize_pos_embed(
    table: Tensor,
    source: tuple[int, int],
    target: tuple[int, int],
    num_extra_tokens: int = 1,
    mode: str = 'bicubic',
) -> Tensor:
    """Resize a position table to another grid of patches.

    Args:
        table: (1, num_extra_tokens + source rows * columns, C).
        source, target: (rows, columns).
        num_extra_tokens: leading tokens that are kept as they are.
        mode: of ``torch.nn.functional.interpolate``.

    Returns:
        (1, num_extra_tokens + target rows * columns, C), the table itself where the grids are equal.
    """
    if tuple(source) == tuple(target):
        return table
    extra, patches = table[:, :num_extra_tokens], table[:, num_extra_tokens:]
    if patches.shape[1] != source[0] * source[1]:
        raise ValueError(
            f'a position table of {patches.shape[1]} patches is not a grid of {source[0]}x{source[1]}'
        )
    patches = patches.reshape(1, *source, -1).permute(0, 3, 1, 2)
    align = False if mode in ('bilinear', 'bicubic') else None
    patches = F.interpolate(patches.float(), size=tuple(target), mode=mode, align_corners=align).to(
        table.dtype
    )
    return torch.cat([extra, patches.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def fit_pos_embed(
    state_dict: dict,
    key: str,
    parameter: Tensor,
    grid: tuple[int, int],
    num_extra_tokens: int,
    mode: str = 'bicubic',
) -> None:
    """Make the table under ``key`` of a state dict fit ``parameter``, in place, with a log line; for loading hooks."""
    table = state_dict.get(key)
    if (
        table is None
        or table.shape == parameter.shape
        or table.ndim != 3
        or table.shape[-1] != parameter.shape[-1]
    ):
        return
    from mmengine.logging import print_log

    if table.shape[1] == parameter.shape[1] + 1 and num_extra_tokens == 0:
        table = table[:, 1:]
    else:
        source = grid_of(table.shape[1] - num_extra_tokens, grid)
        print_log(
            f'{key}: position table resized from {source[0]}x{source[1]} to {grid[0]}x{grid[1]} patches ({mode})',
            'current',
        )
        table = resize_pos_embed(table, source, grid, num_extra_tokens, mode)
    state_dict[key] = table
