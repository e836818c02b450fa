"""Digits and photographs from which the demo data is composed."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = tuple(f'digit_{digit}' for digit in range(10))


def digit_mask(digit: np.ndarray, height: int, angle: float = 0.0) -> np.ndarray:
    """Enlarge a digit to a smooth mask.

    Args:
        digit: (8, 8) in [0, 1].
        height: Height in pixels before the result is cropped to the ink.
        angle: Counter-clockwise rotation in degrees.

    Returns:
        (h, w) ink in [0, 1], cropped to its bounding box.
    """
    # padded, so that ink at the border of the 8x8 image fades out as well
    ink = Image.fromarray(np.pad(digit, 1).astype(np.float32))
    side = round(height * 10 / 8)
    ink = np.asarray(
        ink.resize((side, side), Image.Resampling.BICUBIC).rotate(angle, Image.Resampling.BICUBIC)
    )
    # a steep ramp turns the enlarged gray levels into a stroke with a soft edge
    softness = min(0.25, 2.5 / height)
    ink = np.clip((ink - 0.45) / (2 * softness) + 0.5, 0, 1)
    rows, columns = np.flatnonzero(ink.max(axis=1) > 0.5), np.flatnonzero(ink.max(axis=0) > 0.5)
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def photo_crop(
    rng: np.random.Generator, photos: dict[str, np.ndarray], width: int, height: int
) -> np.ndarray:
    """Crop a random photograph at random: (height, width, 3) float32 in [0, 255], enlarged at most twice."""
    photo = photos[sorted(photos)[rng.integers(len(photos))]]
    max_factor = min(photo.shape[0] / height, photo.shape[1] / width)
    factor = rng.uniform(min(0.5, max_factor), min(max_factor, 4.0))
    crop_height, crop_width = max(1, int(height * factor)), max(1, int(width * factor))
    top = rng.integers(photo.shape[0] - crop_height + 1)
    left = rng.integers(photo.shape[1] - crop_width + 1)
    crop = photo[top : top + crop_height, left : left + crop_width]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    return np.asarray(
        Image.fromarray(np.ascontiguousarray(crop)).resize((width, height), Image.Resampling.BICUBIC),
        dtype=np.float32,
    )


def paint(rng: np.random.Generator, canvas: np.ndarray, ink: np.ndarray, left: int, top: int) -> None:
    """Paint ink on a canvas in a random color that contrasts with the background.

    Args:
        rng: Generator that draws the color.
        canvas: (H, W, 3) float32 in [0, 255], changed in place.
        ink: (h, w) in [0, 1].
        left: Column of the ink's left edge.
        top: Row of the ink's upper edge.
    """
    area = canvas[top : top + ink.shape[0], left : left + ink.shape[1]]
    luma = np.array([0.299, 0.587, 0.114], dtype=np.float32)
    background = float((area @ luma)[ink > 0.5].mean())
    color = rng.uniform(0, 255, 3).astype(np.float32)
    # keep the hue and move the lightness well above or below the background's
    lighter = background < 110 or (background < 145 and rng.random() < 0.5)
    target = background + 130 if lighter else background - 130

    color = np.clip(color + (target - float(color @ luma)), 0, 255)
    area += ink[..., None] * (color - area)


def save_jpeg(path: Path, canvas: np.ndarray, quality: int = 95) -> None:
    """Write (H, W, 3) values in [0, 255]; chroma subsampling is off, as it would blur thin strokes."""
    Image.fromarray(np.clip(np.rint(canvas), 0, 255).astype(np.uint8)).save(
        path, quality=quality, subsampling=0
    )
