"""Layout of position tables in state dicts: the grid of patches and the number of leading tokens."""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from mmssl.errors import MismatchError


def describe_pos_embed(
    state_dict: Mapping, key: str, grid: tuple[int, int], num_extra_tokens: int = 1
) -> Mapping:
    """Write the grid and the number of leading tokens of a position table into a state dict.

    They are kept beside the weights, in ``_metadata``, which torch saves with the state dict of a model.

    Args:
        state_dict: State dict; one that is no OrderedDict is copied.
        key: Key of the table.
        grid: (rows, columns) of the table.
        num_extra_tokens: Number of leading tokens that are no patches.

    Returns:
        The state dict to save or to load.
    """
    described: Any = state_dict if isinstance(state_dict, OrderedDict) else OrderedDict(state_dict)
    if not hasattr(described, '_metadata'):
        described._metadata = OrderedDict()
    module, _, name = key.rpartition('.')
    metadata = described._metadata.setdefault(module, {})
    metadata[f'{name}_layout'] = [int(grid[0]), int(grid[1]), int(num_extra_tokens)]
    return described


def described_layout(state_dict: Mapping, key: str, length: int) -> tuple[tuple[int, int], int] | None:
    """Return the (grid, number of leading tokens) that a state dict says of a table of this length.

    None if it does not say, or says it of a table of another length, which was put there later.
    """
    module, _, name = key.rpartition('.')
    metadata = getattr(state_dict, '_metadata', None) or {}
    layout = (metadata.get(module) or {}).get(f'{name}_layout')
    if not isinstance(layout, (list, tuple)) or len(layout) != 3:
        return None
    if not all(isinstance(number, int) and number >= 0 for number in layout):
        return None
    rows, columns, num_leading = layout
    return ((rows, columns), num_leading) if rows * columns + num_leading == length else None


# leading tokens of released models: none, a class token, with a distillation token, with four registers
_LEADING = (0, 1, 2, 5)
# longest grid that is thought possible: 8 times as long as wide
_ELONGATION = 8


def infer_layout(
    length: int, grid: tuple[int, int], num_extra_tokens: int, key: str = 'pos_embed'
) -> tuple[tuple[int, int], int]:
    """Infer (grid, number of leading tokens) of a position table if only one is possible.

    For a model with a square grid a table is thought to be square too, as in all released models; one for a
    rectangle may come from either.

    Args:
        length: Length of the table.
        grid: (rows, columns) of the model.
        num_extra_tokens: Number of leading tokens of the model.
        key: Name of the table, for the message.

    Raises:
        MismatchError: None or several are possible; the message lists them and how to choose one.
    """
    counts = [num_extra_tokens, *(count for count in _LEADING if count != num_extra_tokens)]
    square = grid[0] == grid[1]
    squares = [
        count for count in counts if length > count and math.isqrt(length - count) ** 2 == length - count
    ]
    if square and squares and (squares[0] == num_extra_tokens or len(squares) == 1):
        side = math.isqrt(length - squares[0])
        return (side, side), squares[0]
    choices = [(pair, count) for count in counts if length > count for pair in _grids(length - count)]
    if len(choices) == 1:
        return choices[0]
    shown = ', '.join(f'{rows}x{columns} with {count}' for (rows, columns), count in choices[:6])
    raise MismatchError(
        f'{key} has {length} positions, and the file does not say of which grid and with how many leading '
        f'tokens; the model has {grid[0]}x{grid[1]} with {num_extra_tokens}, the table may be '
        f'{shown or "of no grid"}{", ..." if len(choices) > 6 else ""}. Say it: '
        f'weights = mmssl.layers.pos_embed.describe_pos_embed(weights, {key!r}, grid=(rows, columns), '
        'num_extra_tokens=1), and load or save these'
    )


def _grids(num_patches: int) -> list[tuple[int, int]]:
    """Return the grids of a number of patches, the most compact first."""
    pairs = [(rows, num_patches // rows) for rows in range(1, num_patches + 1) if num_patches % rows == 0]
    pairs = [pair for pair in pairs if max(pair) <= _ELONGATION * min(pair)]
    return sorted(pairs, key=lambda pair: max(pair) / min(pair))
