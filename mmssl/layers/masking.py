"""Which patches are masked."""

import torch
from torch import Tensor


def num_visible(num_patches: int, mask_ratio: float) -> int:
    """How many of ``num_patches`` stay visible: floor(N * (1 - ratio)) as in MAE's released code.

    Raises:
        ValueError: the ratio is outside (0, 1), or it leaves nothing visible or nothing masked.
    """
    if not 0 < mask_ratio < 1:
        raise ValueError(f'mask_ratio {mask_ratio} is outside (0, 1); the paper uses 0.75')
    keep = int(num_patches * (1 - mask_ratio))
    if keep < 1 or keep >= num_patches:
        legal = 1 - (1 if keep < 1 else num_patches - 1) / num_patches
        raise ValueError(f'mask_ratio {mask_ratio} of {num_patches} patches leaves {keep} visible and {num_patches - keep} masked; '
                         f'one of each is needed: the nearest ratio is {legal:.4g}' if num_patches > 1 else
                         'an image of one patch cannot be masked; use a smaller patch_size or a larger image')
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
