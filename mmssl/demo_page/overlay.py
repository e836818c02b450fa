"""What the browser shows: the image as a JPEG, and masks as a transparent PNG over it."""

import io
from collections.abc import Iterable, Sequence

import numpy as np

# longest side of what is sent to the browser, in pixels
MAX_SHOWN = 1280
OPACITY = 128
OUTLINE_OPACITY = 255
# two entries of a palette per color, and one for nothing
MAX_COLORS = 127
JPEG_QUALITY = 90


def shown_size(size: tuple[int, int], longest: int = MAX_SHOWN) -> tuple[int, int]:
    """Return the (H, W) in which an image of (H, W) is sent; never larger than the image."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def jpeg_of(image: np.ndarray) -> bytes:
    """Encode an image (H, W, 3) uint8, RGB, at the size in which it is shown."""
    from PIL import Image

    height, width = shown_size(image.shape[:2])
    picture = Image.fromarray(image)
    if (height, width) != image.shape[:2]:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = io.BytesIO()
    picture.save(file, 'jpeg', quality=JPEG_QUALITY)
    return file.getvalue()


def overlay_png(
    size: tuple[int, int], masks: Iterable[np.ndarray], colors: Sequence[Sequence[int]], filled: bool = True
) -> bytes:
    """Draw masks with their outlines on a transparent image, large ones below small ones.

    Args:
        size: (H, W) of the image.
        masks: N masks (H, W) bool.
        colors: N colors (R, G, B), 0 to 255; repeated after 127 different ones.
        filled: Fill the masks; outlines only if False.

    Returns:
        A PNG of the size in which the image is shown.
    """
    from PIL import Image

    height, width = shown_size(size)
    rows = np.minimum((np.arange(height) + 0.5) * size[0] / height, size[0] - 1).astype(int)
    columns = np.minimum((np.arange(width) + 0.5) * size[1] / width, size[1] - 1).astype(int)
    shown = [mask[rows[:, None], columns] for mask in masks]
    palette = list(dict.fromkeys(tuple(color) for color in colors))[:MAX_COLORS]
    canvas = np.zeros((height, width), dtype=np.uint8)
    for index in sorted(range(len(shown)), key=lambda index: -int(shown[index].sum())):
        color = tuple(colors[index])
        slot = palette.index(color) if color in palette else index % len(palette)
        if filled:
            canvas[shown[index]] = 2 * slot + 1
        canvas[outline_of(shown[index])] = 2 * slot + 2
    picture = Image.fromarray(canvas, 'P')
    picture.putpalette([0, 0, 0, *(value for color in palette for value in (*color, *color))])
    file = io.BytesIO()
    alphas = bytes([0, *(alpha for _ in palette for alpha in (OPACITY, OUTLINE_OPACITY))])
    picture.save(file, 'png', transparency=alphas, compress_level=6)
    return file.getvalue()


def outline_of(mask: np.ndarray) -> np.ndarray:
    """Return the pixels of a mask (H, W) that are at most two steps from its outside."""
    inside = mask
    for _ in range(2):
        padded = np.pad(inside, 1)
        inside = (
            padded[1:-1, 1:-1] & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        )
    return mask & ~inside
