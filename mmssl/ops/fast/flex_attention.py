"""Attention with decomposed relative positions by FlexAttention, which adds the relative terms in its kernel.

Queries and keys keep their length, where :func:`mmssl.ops.fast.rel_attention.attend_augmented` appends a
number for every row and column. ``MMSSL_FLEX_ATTENTION=1`` selects this form; ``tools/gpu_check.py`` times
both.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from mmssl.ops.fast.rel_attention import SHORT
from mmssl.ops.rel_attention import rel_scores
from mmssl.ops.switch import eager


def attend_flex(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    grid: tuple[int, int],
) -> Tensor:
    """:func:`mmssl.ops.rel_attention.rel_attention` for whole maps by one compiled kernel."""
    if rel_h is None or rel_w is None or query.shape[-2] <= SHORT or query.shape[0] == 0:
        return NotImplemented
    width = grid[1]
    by_row, by_column = rel_scores(query, rel_h, rel_w, grid)

    def add_relative_terms(score, batch, head, query_index, key_index):
        row = by_row[batch, head, query_index, key_index // width]
        return score + row + by_column[batch, head, query_index, key_index % width]

    # the kernel exists only compiled, and on the CPU only for inference
    attend = _compiled() if eager() and query.device.type != 'cpu' else flex_attention
    return attend(query, key, value, score_mod=add_relative_terms)


@functools.lru_cache
def _compiled() -> Callable:
    return torch.compile(flex_attention)
