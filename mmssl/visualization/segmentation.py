"""Pictures of segmentations: classes laid over the image, with a legend."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmssl.data.colors import class_color
from mmssl.visualization.reconstruction import picture

OPACITY = 0.55
# (C, 3), 0 to 255
Palette = Sequence[Sequence[int]] | np.ndarray


def overlay(image: np.ndarray, classes: np.ndarray, palette: Palette, opacity: float = OPACITY) -> np.ndarray:
    """Colours of the classes over an image; pixels that are no class stay grey.

    Args:
        image: (H, W, 3) uint8, RGB.
        classes: (H, W) integers.
        palette: (C, 3) colours of 0 to 255.
        opacity: share of the colour.

    Returns:
        (H, W, 3) uint8.
    """
    if classes.shape != image.shape[:2]:
        raise ValueError(
            f'the classes have shape {classes.shape} and the image {image.shape[:2]}; give them at the size of the image'
        )
    colours = np.asarray(palette, dtype=np.float64)
    grey = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    known = (classes >= 0) & (classes < len(colours))
    mixed = (1 - opacity) * grey + opacity * colours[np.where(known, classes, 0)]
    return np.where(known[..., None], mixed, grey).round().astype(np.uint8)


def legend(names: Sequence[str], palette: Palette, width: int, size: int = 14) -> Image.Image:
    """Swatches with the names of the classes, in as many lines as the width asks for.

    Args:
        names: of the classes.
        palette: a colour each.
        width: of the strip, in pixels.
        size: of a swatch and of the letters, in pixels.
    """
    font, gap = ImageFont.load_default(size=size), size // 2
    places, x, y = [], gap, gap
    for name in names:
        needed = 2 * size + round(font.getlength(name)) + gap
        if x > gap and x + needed > width:
            x, y = gap, y + size + gap
        places.append((x, y))
        x += needed
    strip = Image.new('RGB', (width, y + size + gap if names else 1), 'white')
    draw = ImageDraw.Draw(strip)
    for (x, y), name, colour in zip(places, names, palette, strict=True):
        draw.rectangle((x, y, x + size - 1, y + size - 1), fill=tuple(int(value) for value in colour))
        draw.text((x + size + gap // 2, y + size / 2), name, fill='black', font=font, anchor='lm')
    return strip


def segmentation_picture(
    image: np.ndarray,
    maps: dict[str, np.ndarray],
    names: Sequence[str],
    palette: Sequence[Sequence[int]] | None = None,
) -> Image.Image:
    """An image beside the maps laid over it, with the legend of the classes that are there.

    Args:
        image: (H, W, 3) uint8, RGB.
        maps: title to (H, W) classes, as ``{'prediction': ..., 'label': ...}``.
        names: of the C classes.
        palette: (C, 3); colours of ours when None, or when there are not C of them.
    """
    fitting = palette is not None and len(palette) == len(names)
    colours = np.asarray(palette if fitting else [class_color(index) for index in range(len(names))])
    row = np.stack([image, *(overlay(image, classes, colours) for classes in maps.values())])
    body = picture(row[None], height=image.shape[0], titles=['image', *maps])
    present = [
        index for index in range(len(names)) if any((classes == index).any() for classes in maps.values())
    ]
    strip = legend(
        [names[index] for index in present], colours[present], body.width, size=max(12, image.shape[0] // 20)
    )
    whole = Image.new('RGB', (body.width, body.height + strip.height), 'white')
    whole.paste(body, (0, 0))
    whole.paste(strip, (0, body.height))
    return whole


def read_rgb(path: str | Path) -> np.ndarray:
    """(H, W, 3) uint8 of an image file."""
    with Image.open(path) as image:
        return np.asarray(image.convert('RGB'))
