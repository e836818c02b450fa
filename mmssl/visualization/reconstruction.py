"""Pictures of what a masked autoencoder makes of images: input, masked, reconstruction."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont, ImageOps
from torch import Tensor

TITLES = ('input', 'masked', 'reconstruction')
MASK_GREY = 0.5


def reconstruction_rows(model, images: Tensor, noise: Tensor | None = None) -> np.ndarray:
    """Input, masked input and reconstruction of images.

    Args:
        model: an ``MAE`` with a data preprocessor that knows mean and standard deviation.
        images: (B, 3, H, W), RGB, 0 to 255.
        noise: (B, N) in [0, 1), the draw of the mask.

    Returns:
        (B, 3, H, W, 3) uint8. With ``norm_pix`` a predicted patch is scaled by the mean and variance of the
        patch it stands for, as the paper's own pictures are.
    """
    mean, std = pixel_statistics(model)
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    normalised = (images.to(device).float() - mean) / std
    _, mask, pasted = model.reconstruct(normalised, noise)
    model.train(training)
    height, width = model.head.patch_size
    grid = mask.view(len(mask), images.shape[-2] // height, images.shape[-1] // width)
    hidden = grid.repeat_interleave(height, 1).repeat_interleave(width, 2).unsqueeze(1)
    seen = images.to(device).float() * (1 - hidden) + 255 * MASK_GREY * hidden
    rows = torch.stack([images.to(device).float(), seen, pasted.float() * std + mean], dim=1)
    return rows.round().clamp(0, 255).byte().permute(0, 1, 3, 4, 2).cpu().numpy()


def pixel_statistics(model) -> tuple[Tensor, Tensor]:
    """(3, 1, 1) mean and standard deviation that the model's preprocessor takes off RGB pixels.

    Raises:
        ValueError: it does not normalise.
    """
    preprocessor = model.data_preprocessor
    if getattr(preprocessor, 'mean', None) is None:
        raise ValueError(
            'the data_preprocessor of the config has no mean and std; a picture cannot be scaled back'
        )
    return preprocessor.mean.view(-1, 1, 1), preprocessor.std.view(-1, 1, 1)


def picture(rows: np.ndarray, height: int = 224, titles: Sequence[str] = TITLES) -> Image.Image:
    """Lay rows of images out under their titles.

    Args:
        rows: (R, K, H, W, 3) uint8.
        height: of an image in the picture, in pixels.
        titles: K of them.

    Returns:
        an RGB picture on white.
    """
    count, columns, image_height, image_width = rows.shape[:4]
    width = round(height * image_width / image_height)
    gap, header = max(6, height // 24), max(22, height // 7)
    sheet = Image.new('RGB', (columns * (width + gap) + gap, header + count * (height + gap)), 'white')
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=max(11, height // 12))
    for column, title in enumerate(titles):
        draw.text(
            (gap + column * (width + gap) + width / 2, header / 2),
            title,
            fill='black',
            font=font,
            anchor='mm',
        )
    enlarge = Image.Resampling.NEAREST if image_height * 2 <= height else Image.Resampling.BICUBIC
    for row in range(count):
        for column in range(columns):
            tile = Image.fromarray(rows[row, column]).resize((width, height), enlarge)
            sheet.paste(tile, (gap + column * (width + gap), header + row * (height + gap)))
    return sheet


def read_image(path: str, size: tuple[int, int]) -> Tensor:
    """An image file as (3, H, W) RGB uint8 of the model's size: resized so that it covers it, cropped at its centre."""
    from mmssl.data.transforms import LoadImage

    pixels = LoadImage()({'img_path': path})
    if pixels is None:
        raise ValueError(f'{path} cannot be decoded')
    rgb = Image.fromarray(np.ascontiguousarray(pixels['img'][..., ::-1]))
    image = ImageOps.fit(rgb, (size[1], size[0]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)
