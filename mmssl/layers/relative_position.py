"""Learned relative position bias of a grid of patches with a class token (BEiT, arXiv:2106.08254, as in its released code)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def relative_position_index(grid: tuple[int, int]) -> Tensor:
    """Which entry of a bias table each pair of tokens uses.

    Args:
        grid: (rows, columns) of patches; the class token comes before them.

    Returns:
        (1 + N, 1 + N), int64. Entries 0 to (2 * rows - 1) * (2 * columns - 1) - 1 are offsets between
        patches, query minus key, row by row; the last three are class token to patch, patch to class token,
        class token to itself.
    """
    rows, columns = grid
    place = torch.stack(torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing='ij')).flatten(1)
    down, right = place[:, :, None] - place[:, None, :]
    offsets = (2 * rows - 1) * (2 * columns - 1)
    index = torch.full((1 + rows * columns,) * 2, offsets, dtype=torch.int64)
    index[1:, 1:] = (down + rows - 1) * (2 * columns - 1) + right + columns - 1
    index[1:, 0] = offsets + 1
    index[0, 0] = offsets + 2
    return index


def resize_bias_table(table: Tensor, source: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Bias table of one grid for another: offsets keep their share of the image, what is between is interpolated (bicubic).

    Args:
        table: ((2 * rows - 1) * (2 * columns - 1) + 3, heads) of ``source``.
        source, target: (rows, columns) of patches.

    Returns:
        the same for ``target``; the table itself where the grids are equal.
    """
    if tuple(source) == tuple(target):
        return table
    offsets = table[:-3].t().reshape(1, -1, 2 * source[0] - 1, 2 * source[1] - 1)
    offsets = F.interpolate(
        offsets.float(), size=(2 * target[0] - 1, 2 * target[1] - 1), mode='bicubic', align_corners=True
    )
    return torch.cat([offsets.flatten(2)[0].t().to(table.dtype), table[-3:]])


class RelativePositionBias(nn.Module):
    """A learned number for each head and each offset between two patches. Names as in the released code.

    Args:
        grid: (rows, columns) of patches of the training images.
        num_heads: heads.
    """

    def __init__(self, grid: tuple[int, int], num_heads: int):
        super().__init__()
        self.grid = (grid[0], grid[1])
        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * grid[0] - 1) * (2 * grid[1] - 1) + 3, num_heads)
        )
        self.register_buffer('relative_position_index', relative_position_index(grid))

    def forward(self, grid: tuple[int, int]) -> Tensor:
        """(heads, 1 + N, 1 + N), added to the attention scores, for a grid of N patches."""
        return bias_of(self.relative_position_bias_table, self.relative_position_index, self.grid, grid)


def bias_of(table: Tensor, index: Tensor, source: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """(heads, 1 + N, 1 + N) out of the table and index of a ``source`` grid, for a grid of N patches."""
    if tuple(grid) != tuple(source):
        table, index = resize_bias_table(table, source, grid), relative_position_index(grid).to(table.device)
    return F.embedding(index, table).permute(2, 0, 1).contiguous()
