"""Masked patches of the crops of a batch, as lists of indices (DINOv2, iBOT)."""

import random
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mmssl.layers.masking import blockwise_mask


class MaskedPatches(NamedTuple):
    """Masked patches of the global crops of a batch.

    Attributes:
        image: (M,), crop of each masked patch, among 2 * B.
        patch: (M,), its index among the N patches of the crop.
    """

    image: Tensor
    patch: Tensor

    def mask(self, crops: int, num_patches: int) -> Tensor:
        """Return (2 * B, N), True for masked patches."""
        mask = torch.zeros(crops * num_patches, dtype=torch.bool, device=self.image.device)
        return mask.index_fill_(0, self.image * num_patches + self.patch, True).view(crops, num_patches)

    def select(self, tokens: Tensor) -> Tensor:
        """Return the tokens of the masked patches, (M, C), from those of all patches (2 * B, N, C)."""
        return tokens.flatten(0, 1).index_select(0, self.image * tokens.shape[1] + self.patch)


def no_patches(like: Tensor) -> MaskedPatches:
    """Return an empty selection on the device of a tensor."""
    empty = torch.zeros(0, dtype=torch.int64, device=like.device)
    return MaskedPatches(empty, empty)


def draw_masked_patches(
    crops: int,
    grid: tuple[int, int],
    mask_prob: float = 0.5,
    mask_ratio: tuple[float, float] = (0.1, 0.5),
    rng: random.Random | None = None,
) -> MaskedPatches:
    """Draw block masks for a part of the crops (section 4, 'Patch-level objective').

    Args:
        crops: Number of global crops, 2 * B.
        grid: (rows, columns) of patches.
        mask_prob: Fraction of the crops that are masked.
        mask_ratio: Smallest and largest fraction of masked patches; the masked crops share this range in
            equal steps.
        rng: Source of random numbers; the module ``random`` if None.
    """
    source: random.Random = rng or random  # type: ignore[assignment]
    num_masked = round(crops * mask_prob)
    bounds = np.linspace(*mask_ratio, num_masked + 1)
    chosen = source.sample(range(crops), num_masked)
    images, patches = [], []
    for crop, low, high in zip(chosen, bounds[:-1], bounds[1:], strict=True):
        count = max(1, int(source.uniform(low, high) * grid[0] * grid[1]))
        mask = blockwise_mask(grid, count, min(4, count), source)
        index = np.flatnonzero(mask)
        images.append(np.full(len(index), crop))
        patches.append(index)
    empty = np.zeros(0, np.int64)
    return MaskedPatches(*(torch.from_numpy(np.concatenate([empty, *each])) for each in (images, patches)))
