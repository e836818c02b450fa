"""Reconstructions of a masked autoencoder: input, masked input, output."""

from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from mmssl.data.crops import crop_resized
from mmssl.data.pictures import read_rgb, shown_channels
from mmssl.data.reader import ImageReader, decode_pixels
from mmssl.layers.modes import evaluating
from mmssl.visualization.layout import image_grid

TITLES = ('input', 'masked', 'reconstruction')
MASK_GRAY = 0.5


def reconstruction_rows(model, images: Tensor, noise: Tensor | None = None) -> np.ndarray:
    """Return input, masked input and reconstruction of images.

    Args:
        model: An ``MAE`` whose data preprocessor has mean and standard deviation.
        images: (B, C, H, W), RGB or of any channels, 0 to 255.
        noise: (B, N) in [0, 1), from which the mask is drawn.

    Returns:
        (B, 3, H, W, 3) uint8. With ``norm_pix`` a predicted patch is scaled by the mean and variance of the
        patch that it predicts, as in the figures of the paper.
    """
    mean, std = pixel_statistics(model)
    device = next(model.parameters()).device
    images = images.to(device).float()
    with evaluating(model):
        _, mask, reconstruction = model.reconstruct((images - mean) / std, noise)
    patch_height, patch_width = model.head.patch_size
    grid = mask.view(len(mask), images.shape[-2] // patch_height, images.shape[-1] // patch_width)
    mask = grid.repeat_interleave(patch_height, 1).repeat_interleave(patch_width, 2).unsqueeze(1)
    masked = images * (1 - mask) + 255 * MASK_GRAY * mask
    rows = torch.stack([images, masked, reconstruction.float() * std + mean], dim=1)
    rows = rows[:, :, shown_channels(rows.shape[2])]
    return rows.round().clamp(0, 255).byte().permute(0, 1, 3, 4, 2).cpu().numpy()


def draw_reconstructions(model, images: Tensor, noise: Tensor | None = None) -> Image.Image:
    """Draw input, masked input and reconstruction of images, one row per image.

    Args:
        model: As in :func:`reconstruction_rows`.
        images: As in :func:`reconstruction_rows`.
        noise: As in :func:`reconstruction_rows`.
    """
    return image_grid(reconstruction_rows(model, images, noise), TITLES)


def pixel_statistics(model) -> tuple[Tensor, Tensor]:
    """Return (C, 1, 1) mean and standard deviation by which a model normalizes pixels.

    Raises:
        ValueError: Its data preprocessor does not normalize.
    """
    preprocessor = model.data_preprocessor
    if getattr(preprocessor, 'mean', None) is None:
        raise ValueError(
            'the data_preprocessor of the config has no mean and std, so pixels cannot be scaled back'
        )
    return preprocessor.mean.view(-1, 1, 1), preprocessor.std.view(-1, 1, 1)


def read_image(path: str, size: tuple[int, int], **reading: Any) -> Tensor:
    """Read an image file, resized and center-cropped to the model's size.

    Args:
        path: The file.
        size: (H, W) of the result.
        **reading: Settings of :class:`mmssl.data.reader.ImageReader`, for images that are not 8-bit RGB.

    Returns:
        (3, H, W) uint8, RGB, or (C, H, W) from 0 to 255 with settings.
    """
    if reading:
        return _read_values(path, size, ImageReader(**reading))
    image = ImageOps.fit(Image.fromarray(read_rgb(path)), (size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _read_values(path: str, size: tuple[int, int], reader: ImageReader) -> Tensor:
    image = reader.open(path)
    scale = min(image.width / size[1], image.height / size[0])
    width, height = round(size[1] * scale), round(size[0] * scale)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    box = left, top, left + width, top + height
    pixels, _ = crop_resized(image, decode_pixels(image), 1, box, size[::-1], 'bicubic')
    if pixels.shape[2] == 3:  # BGR
        pixels = pixels[..., ::-1]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)
