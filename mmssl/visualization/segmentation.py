"""Semantic segmentations over images, with a legend of the classes."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmssl.data.colors import class_color
from mmssl.visualization.layout import image_grid

OPACITY = 0.55
# (C, 3), 0 to 255
Palette = Sequence[Sequence[int]] | np.ndarray


def overlay_classes(
    image: np.ndarray, classes: np.ndarray, palette: Palette, opacity: float = OPACITY
) -> np.ndarray:
    """Blend the colors of classes with a gray version of an image; pixels without a class stay gray.

    Args:
        image: (H, W, 3) uint8, RGB.
        classes: (H, W) integers.
        palette: (C, 3) colors, 0 to 255.
        opacity: Weight of the colors.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: Classes and image differ in size.
    """
    if classes.shape != image.shape[:2]:
        raise ValueError(
            f'the classes have shape {classes.shape} and the image {image.shape[:2]}; resize the classes to '
            'the size of the image'
        )
    colors = np.asarray(palette, dtype=np.float64)
    gray = image.mean(axis=2, keepdims=True).repeat(3, axis=2)
    known = (classes >= 0) & (classes < len(colors))
    blended = (1 - opacity) * gray + opacity * colors[np.where(known, classes, 0)]
    return np.where(known[..., None], blended, gray).round().astype(np.uint8)


def draw_legend(names: Sequence[str], palette: Palette, width: int, size: int = 14) -> Image.Image:
    """Draw a strip with a color swatch and the name of each class, in as many lines as needed.

    Args:
        names: Names of the classes.
        palette: A color per class.
        width: Width of the strip in pixels.
        size: Height of swatches and letters in pixels.
    """
    font, gap = ImageFont.load_default(size=size), size // 2
    positions, x, y = [], gap, gap
    for name in names:
        entry_width = 2 * size + round(font.getlength(name)) + gap
        if x > gap and x + entry_width > width:
            x, y = gap, y + size + gap
        positions.append((x, y))
        x += entry_width
    strip = Image.new('RGB', (width, y + size + gap if names else 1), 'white')
    draw = ImageDraw.Draw(strip)
    for (x, y), name, color in zip(positions, names, palette, strict=True):
        draw.rectangle((x, y, x + size - 1, y + size - 1), fill=tuple(int(value) for value in color))
        draw.text((x + size + gap // 2, y + size / 2), name, fill='black', font=font, anchor='lm')
    return strip


def segmentation_figure(
    image: np.ndarray,
    maps: dict[str, np.ndarray],
    names: Sequence[str],
    palette: Sequence[Sequence[int]] | None = None,
) -> Image.Image:
    """Draw an image beside label maps laid over it, and a legend of the classes in the maps.

    Args:
        image: (H, W, 3) uint8, RGB.
        maps: Title -> (H, W) classes, as ``{'prediction': ..., 'label': ...}``.
        names: Names of the C classes.
        palette: (C, 3) colors; :func:`mmssl.data.colors.class_color` if None or of another length.
    """
    if palette is None or len(palette) != len(names):
        palette = [class_color(index) for index in range(len(names))]
    colors = np.asarray(palette)
    row = np.stack([image, *(overlay_classes(image, classes, colors) for classes in maps.values())])
    grid = image_grid(row[None], ['image', *maps], height=image.shape[0])
    present = [
        index for index in range(len(names)) if any((classes == index).any() for classes in maps.values())
    ]
    legend = draw_legend(
        [names[index] for index in present], colors[present], grid.width, size=max(12, image.shape[0] // 20)
    )
    figure = Image.new('RGB', (grid.width, grid.height + legend.height), 'white')
    figure.paste(grid, (0, 0))
    figure.paste(legend, (0, grid.height))
    return figure
