"""Bilinear interpolation of a map at positions that layers learn: the pixels to read and their weights."""

import torch
from torch import Tensor


def bilinear_neighbours(y: Tensor, x: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Find the four pixels around positions in a map that is padded with one pixel of zeros on every side.

    Positions outside the padding read zeros.

    Args:
        y: (...), 0 at the centre of the first row of the map without padding.
        x: (...), 0 at the centre of the first column.
        height: Height of the map without padding.
        width: Width of the map without padding.

    Returns:
        Indices (..., 4) into the (height + 2) * (width + 2) pixels, int32, and their weights (..., 4), which
        carry the gradient of y and x.
    """
    index, weight = [], []
    for position, size in ((y, height), (x, width)):
        # at the border of the padding the derivative is the one from outside, 0: layers begin with offsets of
        # 0, whose outer taps are there, and trained weights depend on it
        position = position.masked_fill(position <= -1, -1).clamp(max=size)
        first = torch.nan_to_num(position.detach().floor()).clamp(-1, size)
        fraction = position - first
        first = first.to(torch.int32) + 1
        # at exactly `size` both pixels are padding
        index.append((first, (first + 1).clamp(max=size + 1)))
        weight.append((1 - fraction, fraction))
    indices = [row * (width + 2) + column for row in index[0] for column in index[1]]
    weights = [row * column for row in weight[0] for column in weight[1]]
    return torch.stack(indices, -1), torch.stack(weights, -1)
