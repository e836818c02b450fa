"""Which patches are masked."""

import math
import random

import numpy as np
import torch
from torch import Tensor


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """How many of ``num_patches`` stay visible: floor(N * (1 - ratio)) as in MAE's released code, but at least one, and not all.

    Raises:
        ValueError: the ratio is outside (0, 1), or there is one patch only.
    """
    if not 0 < mask_ratio < 1:
        raise ValueError(f'mask_ratio {mask_ratio} is outside (0, 1); the paper uses 0.75')
    if num_patches < 2:
        raise ValueError(
            f'an image of {num_patches} patch cannot be masked; use a smaller patch_size or a larger image'
        )
    keep = min(max(int(num_patches * (1 - mask_ratio)), 1), num_patches - 1)
    return keep


def random_masking(
    batch: int,
    num_patches: int,
    mask_ratio: float,
    noise: Tensor | None = None,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw which patches of every image are masked, uniformly and without replacement.

    Args:
        batch: B.
        num_patches: N.
        mask_ratio: share of masked patches, in (0, 1).
        noise: (B, N) in [0, 1), the draw; drawn here when None.
        device: where to draw.

    Returns:
        visible (B, K) and masked (B, N - K) patch numbers, int64, both in the order of their noise.
    """
    keep = num_visible(num_patches, mask_ratio)
    if noise is None:
        noise = torch.rand(batch, num_patches, device=device)
    elif noise.shape != (batch, num_patches):
        raise ValueError(
            f'noise has shape {tuple(noise.shape)}; {batch} images of {num_patches} patches need ({batch}, {num_patches})'
        )
    order = noise.argsort(dim=1)  # ascending: the lowest scores stay visible (MAE, section 3)
    return order[:, :keep], order[:, keep:]


def mask_of(masked: Tensor, num_patches: int) -> Tensor:
    """(B, M) numbers of masked patches as a (B, N) float mask: 1 masked, 0 visible."""
    return torch.zeros(masked.shape[0], num_patches, device=masked.device).scatter_(1, masked, 1)


def blockwise_mask(
    shape: int | tuple[int, int],
    num_patches: int,
    min_patches: int = 16,
    rng=random,
    min_aspect: float = 0.3,
    attempts: int = 10,
) -> np.ndarray:
    """Mask rectangles of patches until no more fit into the number (BEiT, arXiv:2106.08254, algorithm 1, as its released code does it).

    Each rectangle is tried at most ``attempts`` times, and kept where it masks something new and not too
    much; the last ones may be smaller than ``min_patches``, so that little or nothing is left over: of 14x14
    patches with at most 75, 74.5 are masked in the mean. mmpretrain's BEiTMaskGenerator leaves the last row
    and column visible in every image, because NumPy's randint excludes its end.

    Args:
        shape: (rows, columns) of patches, or one number.
        num_patches: most patches that are masked.
        min_patches: least area of a rectangle.
        rng: where the draws come from; the module ``random`` or a ``random.Random``.
        min_aspect: least height / width of a rectangle; the largest is its inverse.
        attempts: for one rectangle.

    Returns:
        (rows, columns), boolean, True = masked.

    Raises:
        ValueError: more patches than there are, or than ``min_patches`` allows.
    """
    rows, columns = (shape, shape) if isinstance(shape, int) else shape
    if not 0 < num_patches <= rows * columns:
        raise ValueError(
            f'num_patches={num_patches} of a grid of {rows}x{columns} patches; about 40 % are usual, '
            f'{max(1, round(0.4 * rows * columns))}'
        )
    if not 0 < min_patches <= num_patches:
        raise ValueError(f'min_patches={min_patches} must be between 1 and num_patches={num_patches}')
    if not 0 < min_aspect <= 1:
        raise ValueError(f'min_aspect={min_aspect} must be in (0, 1]')
    log_aspect = math.log(1 / min_aspect)
    mask = np.zeros((rows, columns), dtype=bool)
    left_over = num_patches
    while left_over > 0:
        for _ in range(attempts):
            area = rng.uniform(min_patches, left_over)  # goes down to left_over where that is the smaller one
            aspect = math.exp(rng.uniform(-log_aspect, log_aspect))
            height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if not (height < rows and width < columns):
                continue
            top, left = rng.randint(0, rows - height), rng.randint(0, columns - width)  # both ends included
            block = mask[top : top + height, left : left + width]
            new = height * width - np.count_nonzero(block)
            if 0 < new <= left_over:
                block[:] = True
                left_over -= new
                break
        else:
            break
    return mask
