"""Random and blockwise masks of patches, and BERT's replacement of the masked ones."""

import math
import random

import numpy as np
import torch
from torch import Tensor


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """Return the number of visible patches, floor(N * (1 - ratio)) as in MAE's released code.

    At least one patch is visible and at least one is masked.

    Args:
        num_patches: N.
        mask_ratio: Fraction of masked patches, in (0, 1).

    Raises:
        ValueError: The ratio is outside (0, 1), or there is only one patch.
    """
    if not 0 < mask_ratio < 1:
        raise ValueError(f'mask_ratio {mask_ratio} is outside (0, 1); the paper uses 0.75')
    if num_patches < 2:
        raise ValueError(
            f'an image of {num_patches} patch cannot be masked; use a smaller patch_size or a larger image'
        )
    return min(max(int(num_patches * (1 - mask_ratio)), 1), num_patches - 1)


def random_masking(
    batch: int,
    num_patches: int,
    mask_ratio: float,
    noise: Tensor | None = None,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw the masked patches of every image, uniformly and without replacement (MAE, section 3).

    Args:
        batch: B.
        num_patches: N.
        mask_ratio: Fraction of masked patches, in (0, 1).
        noise: (B, N), random numbers in [0, 1); drawn if None.
        device: Device to draw on.

    Returns:
        Indices of the visible (B, K) and the masked (B, N - K) patches, int64, in the order of their noise.
    """
    count = num_visible(num_patches, mask_ratio)
    if noise is None:
        noise = torch.rand(batch, num_patches, device=device)
    elif noise.shape != (batch, num_patches):
        raise ValueError(
            f'noise has shape {tuple(noise.shape)}; {batch} images of {num_patches} patches need '
            f'({batch}, {num_patches})'
        )
    order = noise.argsort(dim=1)
    return order[:, :count], order[:, count:]


def block_masking(
    batch: int,
    grid: tuple[int, int],
    mask_ratio: float,
    noise: Tensor | None = None,
    device: torch.device | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw masks of large rectangles, see :func:`blockwise_mask` (MAE, section 4, 'Mask sampling strategy').

    Every image has the same number of masked patches: those that the rectangles lack are drawn at random.

    Args:
        batch: B.
        grid: (rows, columns) of the N patches.
        mask_ratio: Fraction of masked patches, in (0, 1).
        noise: (B, N), random numbers in [0, 1), which give rectangles and order; drawn on the CPU if None.
        device: Device of the result.

    Returns:
        Indices of the visible (B, K) and the masked (B, N - K) patches, int64.
    """
    num_patches = grid[0] * grid[1]
    num_masked = num_patches - num_visible(num_patches, mask_ratio)
    noise = torch.rand(batch, num_patches) if noise is None else noise.cpu()
    blocks = [
        blockwise_mask(grid, num_masked, min(16, num_masked), random.Random(float(row[0]))) for row in noise
    ]
    # masked patches come last in the order
    noise = noise + torch.from_numpy(np.stack(blocks)).flatten(1)
    visible, masked = random_masking(batch, num_patches, mask_ratio, noise)
    return visible.to(device, non_blocking=True), masked.to(device, non_blocking=True)


def grid_masking(
    batch: int, grid: tuple[int, int], mask_ratio: float, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Leave every second (third, ...) patch of every second row visible (MAE, section 4, as above).

    Args:
        batch: B.
        grid: (rows, columns) of the N patches.
        mask_ratio: 3/4 leaves every second patch of a row visible, 8/9 every third, and so on.
        device: Device of the result.

    Returns:
        Indices of the visible (B, K) and the masked (B, N - K) patches, int64, in their order in the image.

    Raises:
        ValueError: The ratio is not 1 - 1 / n^2 with n at least 2, or the grid has a single patch.
    """
    rows, columns = grid
    num_visible(rows * columns, mask_ratio)  # checks the ratio
    step = max(2, round((1 - mask_ratio) ** -0.5))
    if abs(1 - step**-2 - mask_ratio) > 1e-6:
        raise ValueError(
            f"mask_ratio {mask_ratio} does not fit mask_sampling='grid', which leaves one patch of n x n "
            'visible; use 0.75, or 1 - 1 / n^2'
        )
    index = torch.arange(rows * columns, device=device).view(rows, columns)
    visible = index[::step, ::step].flatten()
    hidden = (index // columns % step != 0) | (index % columns % step != 0)
    # a stable order by the mask, whose length is known without reading it from the device
    masked = hidden.flatten().byte().argsort(stable=True)[len(visible) :]
    return visible.expand(batch, -1), masked.expand(batch, -1)


def mask_of(masked: Tensor, num_patches: int) -> Tensor:
    """Convert indices (B, M) of masked patches to a float mask (B, N): 1 for masked, 0 for visible."""
    return torch.zeros(masked.shape[0], num_patches, device=masked.device).scatter_(1, masked, 1)


def blockwise_mask(
    shape: int | tuple[int, int],
    num_patches: int,
    min_patches: int = 16,
    rng=random,
    min_aspect: float = 0.3,
    attempts: int = 10,
) -> np.ndarray:
    """Mask random rectangles of patches (BEiT, arXiv:2106.08254, algorithm 1, as in the released code).

    Each rectangle is drawn at most ``attempts`` times, until one masks new patches without exceeding the
    number. The last ones may be smaller than ``min_patches``, so that the number is nearly reached: on
    average 74.5 of at most 75 patches in a grid of 14x14.

    Args:
        shape: (rows, columns) of patches, or one number for both.
        num_patches: Maximum number of masked patches.
        min_patches: Minimum area of a rectangle.
        rng: Source of random numbers: the module ``random`` or a ``random.Random``.
        min_aspect: Minimum of height / width of a rectangle; the maximum is its inverse.
        attempts: Draws per rectangle.

    Returns:
        (rows, columns), boolean, True for masked patches.

    Raises:
        ValueError: ``num_patches`` exceeds the grid, or ``min_patches`` exceeds ``num_patches``.
    """
    # mmpretrain's BEiTMaskGenerator leaves the last row and column visible in every image, because NumPy's
    # randint excludes its end
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
            area = rng.uniform(min_patches, left_over)  # down to left_over, if that is smaller
            aspect = math.exp(rng.uniform(-log_aspect, log_aspect))
            height = round(math.sqrt(area * aspect))
            width = round(math.sqrt(area / aspect))
            if not (height < rows and width < columns):
                continue
            top = rng.randint(0, rows - height)  # both ends included
            left = rng.randint(0, columns - width)
            block = mask[top : top + height, left : left + width]
            new = height * width - np.count_nonzero(block)
            if 0 < new <= left_over:
                block[:] = True
                left_over -= new
                break
        else:
            break
    return mask


def random_patch_mask(shape: tuple[int, int], num_patches: int, rng=random) -> np.ndarray:
    """Mask patches uniformly and without replacement, the comparison in BEiT's ablation.

    Args:
        shape: (rows, columns) of patches.
        num_patches: Number of masked patches.
        rng: Source of random numbers: the module ``random`` or a ``random.Random``.

    Returns:
        (rows, columns), boolean, True for masked patches.

    Raises:
        ValueError: ``num_patches`` exceeds the grid.
    """
    total = shape[0] * shape[1]
    if not 0 < num_patches <= total:
        raise ValueError(f'num_patches={num_patches} of a grid of {shape[0]}x{shape[1]} patches')
    mask = np.zeros(total, dtype=bool)
    mask[rng.sample(range(total), num_patches)] = True
    return mask.reshape(shape)


def split_replacement(count: int, shares: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Draw what replaces each of the masked patches (BERT, Devlin et al. 2019, section 3.1).

    Args:
        count: Number T of masked patches.
        shares: Probabilities of the mask token, of a random other patch, and of no replacement.

    Returns:
        Two boolean tensors (T,), on the CPU: replaced by the mask token, replaced by a random patch.
    """
    draws = torch.rand(count)
    by_token = draws < shares[0]
    return by_token, ~by_token & (draws < shares[0] + shares[1])


def copy_patches(images: Tensor, sources: Tensor, targets: Tensor, patch_size: tuple[int, int]) -> Tensor:
    """Return images in which the pixels of some patches are those of others of the batch.

    Args:
        images: (B, C, H, W), with H and W divisible by the patch size.
        sources: (T,), indices among all B * N patches.
        targets: (T,), indices of the patches that receive them.
        patch_size: (height, width) in pixels.

    Returns:
        (B, C, H, W).
    """
    batch, channels, height, width = images.shape
    rows, columns = height // patch_size[0], width // patch_size[1]
    grid = (batch, channels, rows, patch_size[0], columns, patch_size[1])
    patches = images.view(grid).permute(0, 2, 4, 1, 3, 5).flatten(0, 2)
    patches = patches.index_copy(0, targets, patches[sources])
    return patches.unflatten(0, (batch, rows, columns)).permute(0, 3, 1, 4, 2, 5).reshape(images.shape)
