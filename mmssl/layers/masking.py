"""Which patches are masked."""

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
        raise ValueError(f'an image of {num_patches} patch cannot be masked; use a smaller patch_size or a larger image')
    keep = min(max(int(num_patches * (1 - mask_ratio)), 1), num_patches - 1)
    return keep


def random_masking(batch: int, num_patches: int, mask_ratio: float, noise: Tensor | None = None,
                   device: torch.device | None = None) -> tuple[Tensor, Tensor]:
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
        raise ValueError(f'noise has shape {tuple(noise.shape)}; {batch} images of {num_patches} patches need ({batch}, {num_patches})')
    order = noise.argsort(dim=1)  # ascending: the lowest scores stay visible (MAE, section 3)
    return order[:, :keep], order[:, keep:]


def mask_of(masked: Tensor, num_patches: int) -> Tensor:
    """(B, M) numbers of masked patches as a (B, N) float mask: 1 masked, 0 visible."""
    return torch.zeros(masked.shape[0], num_patches, device=masked.device).scatter_(1, masked, 1)
