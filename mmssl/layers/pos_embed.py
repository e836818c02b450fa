"""Position embeddings of a grid of patches: the fixed sine-cosine table, and resizing to another grid."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.checkpoint.position_tables import describe_pos_embed, described_layout, infer_layout
from mmssl.ops.switch import tracing

__all__ = [
    'describe_pos_embed',
    'described_layout',
    'fit_pos_embed',
    'grid_of',
    'infer_layout',
    'resize_pos_embed',
    'sincos_2d',
]


def sincos_2d(grid: tuple[int, int], embed_dims: int, num_extra_tokens: int = 1) -> Tensor:
    """Return the fixed 2-D sine-cosine table of MAE's released code.

    The column (x) fills the first half of the channels, the row (y) the second.

    Args:
        grid: (rows, columns) of patches.
        embed_dims: Number of channels C, a multiple of 4.
        num_extra_tokens: Number of leading rows of zeros, for the class token.

    Returns:
        (1, num_extra_tokens + rows * columns, C), computed in float64, returned in float32.
    """
    # mmpretrain's build_2d_sincos_position_embedding puts the row first (MoCo v3's convention) and supports
    # square grids only
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
    """Guess (rows, columns) of a position table.

    Args:
        num_patches: Number of patches of the table.
        like: (rows, columns) of another grid.

    Returns:
        A square grid if possible, else the factors with the aspect ratio closest to that of ``like``.
    """
    root = math.isqrt(num_patches)
    if root * root == num_patches:
        return root, root
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
        source: (rows, columns) of the table.
        target: (rows, columns) of the result.
        num_extra_tokens: Number of leading tokens that stay unchanged.
        mode: Mode of ``torch.nn.functional.interpolate``; with the suffix '-antialias' it smooths where the
            table shrinks, as timm and DINOv2's models with registers do.

    Returns:
        (1, num_extra_tokens + target rows * columns, C); ``table`` itself if the grids are equal.
    """
    # a trace has no branches, and resizing to the same size changes nothing
    if tuple(source) == tuple(target) and not (tracing() and mode == 'bicubic'):
        return table
    extra = table[:, :num_extra_tokens]
    patches = table[:, num_extra_tokens:]
    if patches.shape[1] != source[0] * source[1]:
        raise ValueError(
            f'a position table of {patches.shape[1]} patches is not a grid of {source[0]}x{source[1]}'
        )
    patches = patches.reshape(1, *source, -1).permute(0, 3, 1, 2)
    antialias, mode = mode.endswith('-antialias'), mode.removesuffix('-antialias')
    align = False if mode in ('bilinear', 'bicubic') else None
    patches = F.interpolate(
        patches.float(), size=tuple(target), mode=mode, align_corners=align, antialias=antialias
    )
    patches = patches.to(table.dtype).permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([extra, patches], dim=1)


def fit_pos_embed(
    state_dict: dict,
    key: str,
    parameter: Tensor,
    grid: tuple[int, int],
    num_extra_tokens: int,
    mode: str = 'bicubic',
) -> None:
    """Resize the position table of a state dict to a parameter, in place, with a log line; for loading hooks.

    Grid and number of leading tokens of the table are those that :func:`describe_pos_embed` has written, or
    else inferred by :func:`infer_layout`.

    Args:
        state_dict: State dict to change.
        key: Key of the table.
        parameter: Parameter that the table is loaded into.
        grid: (rows, columns) of the parameter.
        num_extra_tokens: Number of leading tokens of the parameter. Further ones of the table are dropped;
            missing ones are zeros, as in models whose class token has no position.
        mode: Mode of ``torch.nn.functional.interpolate``.

    Raises:
        MismatchError: The file does not say the grid, and several are possible.
    """
    table = state_dict.get(key)
    if table is None or table.ndim != 3 or table.shape[-1] != parameter.shape[-1]:
        return  # the loader reports it
    layout = described_layout(state_dict, key, table.shape[1])
    if layout is None:
        layout = infer_layout(table.shape[1], grid, num_extra_tokens, key)
    source, num_leading = layout
    if (tuple(source), num_leading) == (tuple(grid), num_extra_tokens):
        return
    from mmengine.logging import print_log

    num_copied = min(num_leading, num_extra_tokens)
    print_log(
        f'{key}: position table resized from {source[0]}x{source[1]} to {grid[0]}x{grid[1]} patches '
        f'({mode}), with {num_copied} of its {num_leading} leading tokens',
        'current',
    )
    patches = resize_pos_embed(table[:, num_leading:], source, grid, 0, mode)
    zeros = table.new_zeros(1, num_extra_tokens - num_copied, table.shape[-1])
    state_dict[key] = torch.cat([table[:, :num_copied], zeros, patches], dim=1)
