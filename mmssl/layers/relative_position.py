"""Learned relative position bias of a grid of patches with a class token, as in BEiT's released code."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relative_position_index(grid: tuple[int, int]) -> Tensor:
    """Return the entry of a bias table that each pair of tokens uses.

    Args:
        grid: (rows, columns) of patches; the class token comes before them.

    Returns:
        (1 + N, 1 + N), int64. Entries 0 to (2 * rows - 1) * (2 * columns - 1) - 1 are offsets between
        patches, query minus key, row by row. The last three are class token to patch, patch to class token,
        and class token to itself.
    """
    rows, columns = grid
    positions = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing='ij')).flatten(
        1
    )
    row_offset, column_offset = positions[:, :, None] - positions[:, None, :]
    num_offsets = (2 * rows - 1) * (2 * columns - 1)
    index = torch.full((1 + rows * columns,) * 2, num_offsets, dtype=torch.int64)
    index[1:, 1:] = (row_offset + rows - 1) * (2 * columns - 1) + column_offset + columns - 1
    index[1:, 0] = num_offsets + 1
    index[0, 0] = num_offsets + 2
    return index


def grid_of_index(index: Tensor) -> tuple[int, int] | None:
    """Return (rows, columns) of the grid whose index it is (:func:`relative_position_index`), or None."""
    num_patches = len(index) - 1
    for columns in range(1, num_patches + 1):
        grid = (num_patches // columns, columns)
        if grid[0] * columns == num_patches and torch.equal(relative_position_index(grid).to(index), index):
            return grid
    return None


def resize_bias_table(table: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Resize the bias table of one grid to another by bicubic interpolation.

    An offset keeps its size relative to the image.

    Args:
        table: ((2 * rows - 1) * (2 * columns - 1) + 3, heads) of ``source``.
        source: (rows, columns) of patches.
        target: (rows, columns) of patches.

    Returns:
        The table of ``target``; ``table`` itself if the grids are equal.
    """
    if tuple(source) == tuple(target):
        return table
    offsets = table[:-3].t().reshape(1, -1, 2 * source[0] - 1, 2 * source[1] - 1)
    size = 2 * target[0] - 1, 2 * target[1] - 1
    offsets = F.interpolate(offsets.float(), size=size, mode='bicubic', align_corners=True)
    return torch.cat([offsets.flatten(2)[0].t().to(table.dtype), table[-3:]])


def bias_for_grid(table: Tensor, index: Tensor, source: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Look up the bias of all pairs of tokens for a grid of N patches.

    Args:
        table: Bias table of the grid ``source``.
        index: Result of :func:`relative_position_index` for ``source``.
        source: (rows, columns) of patches.
        grid: (rows, columns) of the N patches.

    Returns:
        (heads, 1 + N, 1 + N).
    """
    if tuple(grid) != tuple(source):
        table = resize_bias_table(table, source, grid)
        index = relative_position_index(grid).to(table.device)
    return F.embedding(index, table).permute(2, 0, 1).contiguous()


class RelativePositionBias(nn.Module):
    """Learned bias for each head and each offset between two patches, named as in the released code.

    Args:
        grid: (rows, columns) of patches of the training images.
        num_heads: Number of heads.
    """

    def __init__(self, grid: tuple[int, int], num_heads: int):
        super().__init__()
        self.grid = (grid[0], grid[1])
        num_offsets = (2 * grid[0] - 1) * (2 * grid[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(num_offsets + 3, num_heads))
        self.register_buffer('relative_position_index', relative_position_index(grid))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """Return the term added to the attention scores, (heads, 1 + N, 1 + N), for a grid of N patches."""
        return bias_for_grid(self.relative_position_bias_table, self.relative_position_index, self.grid, grid)
