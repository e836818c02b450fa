"""Reconstructions of the page."""

from pathlib import Path

import numpy as np


def reconstruct(
    model, path: str | Path, ratio: float, seed: int = 0, max_pixels: int | None = None
) -> np.ndarray:
    """Image, what the model sees of it and what it makes of that, side by side.

    Args:
        model: a masked autoencoder.
        path: of the image.
        ratio: share of the patches that is masked.
        seed: of the masks.
        max_pixels: more are refused.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: a ratio that masks nothing or everything, too many pixels.
        BadImageError: no image.
    """
    import torch

    from mmssl.data.images import open_image
    from mmssl.visualization.reconstruction import picture, read_image, reconstruction_rows

    header = open_image(str(path))
    if max_pixels is not None and header.width * header.height > max_pixels:
        raise ValueError(
            f'{Path(path).name} has {header.width}x{header.height} pixels, and this page takes {max_pixels / 1e6:g} million'
        )
    rows, columns = model.backbone.patch_resolution
    if not 0 < round(rows * columns * ratio) < rows * columns:
        raise ValueError(f'masking {ratio:g} of {rows * columns} patches leaves nothing to see or to draw')
    before, model.backbone.mask_ratio = model.backbone.mask_ratio, ratio
    try:
        images = read_image(str(path), model.backbone.img_size)[None]
        noise = torch.rand(1, rows * columns, generator=torch.Generator().manual_seed(seed))
        return np.asarray(picture(reconstruction_rows(model, images, noise)).convert('RGB'))
    finally:
        model.backbone.mask_ratio = before
