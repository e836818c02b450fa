"""Reconstructions of the page."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def read_for(model: Any, path: str | Path, max_pixels: int | None = None) -> 'Tensor':
    """Read an image at the size of a masked autoencoder.

    Args:
        model: The masked autoencoder.
        path: The image file.
        max_pixels: Largest image to accept.

    Returns:
        (3, H, W) uint8, RGB.

    Raises:
        ValueError: The image is too large.
        BadImageError: The file is not an image.
    """
    from mmssl.demo_page.session import check_size
    from mmssl.visualization.reconstruction import read_image

    check_size(path, Path(path).name, max_pixels)
    return read_image(str(path), model.backbone.img_size)


def reconstruct(model: Any, image: 'Tensor', mask_ratio: float, seed: int = 0) -> bytes:
    """Draw an image, its visible patches and its reconstruction side by side.

    Args:
        model: A masked autoencoder.
        image: (3, H, W) uint8, RGB, of :func:`read_for`.
        mask_ratio: Fraction of the patches that is masked.
        seed: Seed of the masks.

    Returns:
        A PNG.

    Raises:
        ValueError: The ratio masks nothing or everything.
    """
    import torch

    from mmssl.visualization.reconstruction import draw_reconstructions

    rows, columns = model.backbone.patch_resolution
    num_patches = rows * columns
    if not 0 < round(num_patches * mask_ratio) < num_patches:
        raise ValueError(f'masking {mask_ratio:g} of {num_patches} patches leaves nothing to see or to draw')
    before = model.backbone.mask_ratio
    model.backbone.mask_ratio = mask_ratio
    try:
        noise = torch.rand(1, num_patches, generator=torch.Generator().manual_seed(seed))
        picture = draw_reconstructions(model, image[None], noise).convert('RGB')
    finally:
        model.backbone.mask_ratio = before
    file = io.BytesIO()
    picture.save(file, 'png')
    return file.getvalue()
