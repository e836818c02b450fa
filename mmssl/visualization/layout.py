"""Laying out images on a white canvas, with titles."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont


def image_grid(rows: np.ndarray, titles: Sequence[str], height: int = 224) -> Image.Image:
    """Arrange images of one size in a grid, with a title above each column.

    Args:
        rows: (R, K, H, W, 3) uint8.
        titles: K titles.
        height: Height of every image in the grid, in pixels.

    Returns:
        An RGB image.
    """
    num_rows, columns, image_height, image_width = rows.shape[:4]
    width = round(height * image_width / image_height)
    gap, header = max(6, height // 24), max(22, height // 7)
    canvas = Image.new('RGB', (columns * (width + gap) + gap, header + num_rows * (height + gap)), 'white')
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=max(11, height // 12))
    for column, title in enumerate(titles):
        center = gap + column * (width + gap) + width / 2
        draw.text((center, header / 2), title, fill='black', font=font, anchor='mm')
    resample = Image.Resampling.NEAREST if image_height * 2 <= height else Image.Resampling.BICUBIC
    for row in range(num_rows):
        for column in range(columns):
            tile = Image.fromarray(rows[row, column]).resize((width, height), resample)
            canvas.paste(tile, (gap + column * (width + gap), header + row * (height + gap)))
    return canvas


def tile_images(
    images: Sequence[Image.Image], titles: Sequence[str] = (), columns: int = 3, gap: int = 8
) -> Image.Image:
    """Arrange images of any size in rows, each below its title.

    Args:
        images: The images.
        titles: A title per image, or none.
        columns: Images per row.
        gap: Space between images in pixels.
    """
    header = 24 if titles else 0
    rows = [range(start, min(start + columns, len(images))) for start in range(0, len(images), columns)]
    width = max(sum(images[index].width + gap for index in row) for row in rows) + gap
    heights = [max(images[index].height for index in row) + header + gap for row in rows]
    canvas = Image.new('RGB', (width, sum(heights) + gap), 'white')
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=14)
    y = gap
    for row, row_height in zip(rows, heights, strict=True):
        x = gap
        for index in row:
            image = images[index]
            if titles:
                center = (x + image.width / 2, y + header / 2 - 2)
                draw.text(center, titles[index], fill='black', font=font, anchor='mm')
            canvas.paste(image, (x, y + header))
            x += image.width + gap
        y += row_height
    return canvas


def scaled_to_height(image: np.ndarray, height: int) -> Image.Image:
    """Resize (H, W, 3) uint8 to a height, keeping its aspect ratio."""
    width = max(1, round(image.shape[1] * height / image.shape[0]))
    return Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)


def text_color(background: Sequence[float]) -> str:
    """Return 'black' or 'white', whichever is readable on an RGB color."""
    red, green, blue = background
    return 'black' if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else 'white'
