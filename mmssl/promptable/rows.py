"""The map's side of the two-way transformer a few rows at a time, on the CPU without gradients.

Between two looks of the tokens every cell goes through the same steps, none of which sees another cell:
    scores against the tokens, softmax,
a sum of their values, a norm, scores of the next look. Taken a few hundred cells at a time all of it stays in
the cache, where products are up to twice as fast.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

# cells at a time for every thread
CELLS = 512


def at_a_time() -> int:
    """How many cells are taken at a time."""
    return CELLS * torch.get_num_threads()


class Folded(NamedTuple):
    """One prompt's tokens as cells meet them. ``heads`` of ``d`` channels, ``T`` tokens.

    Attributes:
        near: (heads, T, d), queries or keys of the tokens, scaled, for products with what is projected
            already.
        places: (heads, L, d), the other factor: projected places, or projected cells and places.
        wide: (heads * T, C), the same queries or keys with the projection of the cells in them; None where
            ``places`` holds the cells.
    """

    near: Tensor
    places: Tensor
    wide: Tensor | None

    def scores(self, rows: slice, cells: Tensor) -> Tensor:
        """(heads, T, n) of ``rows``, whose ``cells`` are (n, C)."""
        scores = torch.bmm(self.near, self.places[:, rows].transpose(1, 2))
        if self.wide is not None:
            scores.flatten(0, 1).addmm_(self.wide, cells.t())
        return scores


def look_at(cells: Tensor, query: Folded) -> Tensor:
    """Tokens look at the cells (L, C) of their prompt: (heads, T, C), the weighted means of the cells that they see."""
    heads, tokens, _ = query.near.shape
    scores = cells.new_empty(heads * tokens, len(cells))
    step = at_a_time()
    for start in range(0, len(cells), step):
        rows = slice(start, start + step)
        scores[:, rows] = query.scores(rows, cells[rows]).flatten(0, 1)
    return (scores.softmax(dim=1) @ cells).view(heads, tokens, -1)


def answer_and_look(
    cells: Tensor, key: Folded, values: Tensor, norm: nn.LayerNorm, query: Folded, out: Tensor
) -> Tensor:
    """Cells of one prompt look at its tokens and are normalised; then tokens look at them.

    Args:
        cells: (L, C).
        key: keys of the tokens.
        values: (heads * T, C), values of the tokens, projected back to the width of a cell, with the bias in
            those of one head.
        norm: of the cells.
        query: queries of the tokens that look.
        out: (L, C), where the new cells go; may be ``cells``.

    Returns:
        (heads, T of the query, C): the weighted means of the cells that the tokens see.
    """
    heads, tokens, _ = query.near.shape
    scores = cells.new_empty(heads * tokens, len(cells))
    step = at_a_time()
    for start in range(0, len(cells), step):
        rows = slice(start, start + step)
        before, after = cells[rows], out[rows]
        weights = key.scores(rows, before).softmax(dim=1).flatten(0, 1).t()
        if cells is out:
            after.addmm_(weights, values)
        else:
            torch.addmm(before, weights, values, out=after)
        normed = norm(after)
        after.copy_(normed)
        scores[:, rows] = query.scores(rows, normed).flatten(0, 1)
    return (scores.softmax(dim=1) @ out).view(heads, tokens, -1)
