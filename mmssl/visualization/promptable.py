"""Masks, points and boxes over images."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mmssl.data.colors import class_color

OPACITY = 0.5
POSITIVE = (40, 200, 60)
NEGATIVE = (230, 40, 40)
BOX_COLOR = (255, 220, 0)
Numbers = np.ndarray | Sequence
Colors = Sequence[Sequence[int]]


def overlay_masks(
    image: np.ndarray, masks: np.ndarray, colors: Colors | None = None, opacity: float = OPACITY
) -> np.ndarray:
    """Draw masks with their outlines over an image, large ones below small ones.

    Args:
        image: (H, W, 3) uint8, RGB.
        masks: (N, H, W) bool.
        colors: N colors, 0 to 255; :func:`mmssl.data.colors.class_color` if None.
        opacity: Weight of the color inside a mask.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: Masks and image differ in size.
    """
    masks = np.asarray(masks, dtype=bool)
    if masks.ndim != 3 or masks.shape[1:] != image.shape[:2]:
        raise ValueError(
            f'masks of shape {masks.shape} over an image of {image.shape[0]}x{image.shape[1]}; '
            'give (N, H, W) at its size'
        )
    return _overlay(image, masks.sum((1, 2)), masks.__getitem__, colors, opacity)


def overlay_rles(
    image: np.ndarray, rles: Sequence[Mapping], colors: Colors | None = None, opacity: float = OPACITY
) -> np.ndarray:
    """Draw COCO's run-length encoded masks as :func:`overlay_masks` does, decoding one at a time.

    Args:
        image: (H, W, 3) uint8, RGB.
        rles: N dicts with 'size' (H, W) and 'counts'.
        colors: N colors, 0 to 255; :func:`mmssl.data.colors.class_color` if None.
        opacity: Weight of the color inside a mask.

    Returns:
        (H, W, 3) uint8.

    Raises:
        ValueError: Masks and image differ in size.
    """
    from pycocotools import mask as coco

    rles = [dict(rle) for rle in rles]
    for rle in rles:
        if tuple(rle['size']) != image.shape[:2]:
            raise ValueError(
                f'run lengths of {rle["size"][0]}x{rle["size"][1]} over an image of '
                f'{image.shape[0]}x{image.shape[1]}'
            )
    areas = np.array([coco.area(rle) for rle in rles])
    return _overlay(image, areas, lambda index: coco.decode(rles[index]).astype(bool), colors, opacity)


def _overlay(
    image: np.ndarray,
    areas: np.ndarray,
    mask_of: Callable[[int], np.ndarray],
    colors: Colors | None,
    opacity: float,
) -> np.ndarray:
    """Draw masks in the order of decreasing area; ``mask_of`` returns the (H, W) mask of an index."""
    if colors is None:
        colors = [class_color(index) for index in range(len(areas))]
    out = image.astype(np.float32)
    for index in np.argsort(-areas, kind='stable'):
        mask = mask_of(index)
        color = np.asarray(colors[index], dtype=np.float32)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            continue
        box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        mask, pixels = mask[box], out[box]
        pixels[mask] = (1 - opacity) * pixels[mask] + opacity * color
        padded = np.pad(mask, 1)
        inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
        pixels[mask & ~inside] = color
    return out.round().astype(np.uint8)


def draw_texts(
    image: np.ndarray, positions: Sequence[tuple[float, float]], texts: Sequence[int | str]
) -> np.ndarray:
    """Write numbers or short names in white on black over an image.

    Args:
        image: (H, W, 3) uint8, RGB.
        positions: (x, y) of the center of each text, in pixels.
        texts: A text per position.

    Returns:
        (H, W, 3) uint8.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(size=max(11, round(max(image.shape[:2]) / 70)))
    style = dict(fill='white', stroke_fill='black', stroke_width=max(1, round(max(image.shape[:2]) / 600)))
    for position, text in zip(positions, texts, strict=True):
        draw.text(position, str(text), font=font, anchor='mm', **style)
    return np.asarray(canvas)


def draw_prompts(
    image: np.ndarray,
    points: Numbers | None = None,
    labels: Numbers | None = None,
    boxes: Numbers | None = None,
) -> np.ndarray:
    """Draw boxes, and points: green for the object, red for the background.

    Args:
        image: (H, W, 3) uint8, RGB.
        points: (N, 2) x and y in pixels.
        labels: (N,) 1 for the object, 0 for the background; points with other labels are not drawn.
        boxes: (M, 4) left, top, right, bottom.

    Returns:
        (H, W, 3) uint8.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    width = max(1, round(max(image.shape[:2]) / 300))
    for box in [] if boxes is None else np.asarray(boxes, dtype=float).reshape(-1, 4):
        draw.rectangle(tuple(box), outline=BOX_COLOR, width=width)
    if points is not None:
        radius = max(2.0, max(image.shape[:2]) / 110)
        labels = np.ones(len(points)) if labels is None else labels
        for (x, y), label in zip(np.asarray(points, dtype=float), labels, strict=True):
            if label in (0, 1):
                circle = (x - radius, y - radius, x + radius, y + radius)
                fill = POSITIVE if label else NEGATIVE
                draw.ellipse(circle, fill=fill, outline='white', width=width)
    return np.asarray(canvas)
