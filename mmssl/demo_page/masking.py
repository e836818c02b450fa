"""Reconstructions of the page."""

from pathlib import Path
from typing import Any

import numpy as np


def reconstruct(
    model: Any, path: str | Path, mask_ratio: float, seed: int = 0, max_pixels: int | None = None
) -> np.ndarray:
    """Draw an image, its visible patches and its reconstruction side by side.

    Args:
        model: A masked autoencoder.
        path: The image file.
        mask_ratio: Fraction of the patches that is masked.
        seed: Seed of the masks.
        max_pixels: Largest image to accept.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: The ratio masks nothing or everything, or the image is too large.
        BadImageError: The file is not an image.
    """
    import torch

    from mmssl.demo_page.session import check_size
    from mmssl.visualization.reconstruction import draw_reconstructions, read_image

    check_size(path, Path(path).name, max_pixels)
    rows, columns = model.backbone.patch_resolution
    num_patches = rows * columns
    if not 0 < round(num_patches * mask_ratio) < num_patches:
        raise ValueError(f'masking {mask_ratio:g} of {num_patches} patches leaves nothing to see or to draw')
    before = model.backbone.mask_ratio
    model.backbone.mask_ratio = mask_ratio
    try:
        images = read_image(str(path), model.backbone.img_size)[None]
        noise = torch.rand(1, num_patches, generator=torch.Generator().manual_seed(seed))
        return np.asarray(draw_reconstructions(model, images, noise).convert('RGB'))
    finally:
        model.backbone.mask_ratio = before
