"""Random crops: drawing the box, choosing the scale of the decode, cutting the box out of the pixels."""

import math
import random

import numpy as np

from mmssl.data.images import can_reduce, orient, resize, stored_box, upright_box
from mmssl.data.reader import OpenedImage, in_range

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are exclusive


def random_resized_box(
    width: int,
    height: int,
    crop_ratio_range: tuple[float, float],
    aspect_ratio_range: tuple[float, float],
    rng=random,
    clip: bool = False,
) -> Box:
    """Draw the box of a random resized crop, as torchvision's ``RandomResizedCrop.get_params`` does.

    Args:
        width: Width of the image in pixels.
        height: Height of the image in pixels.
        crop_ratio_range: Smallest and largest fraction of the image's area.
        aspect_ratio_range: Smallest and largest width / height, drawn uniformly in the logarithm.
        rng: The module ``random`` or a ``random.Random``.
        clip: Draw once and clip the box to the image (MAE's linear probing, util/crop.py of the released
            code), instead of up to ten attempts and a central box after them.

    Returns:
        Left, top, right, bottom of the box.
    """
    area = width * height
    log_low, log_high = math.log(aspect_ratio_range[0]), math.log(aspect_ratio_range[1])
    for _ in range(10):
        target = area * rng.uniform(*crop_ratio_range)
        aspect = math.exp(rng.uniform(log_low, log_high))
        box_width, box_height = round(math.sqrt(target * aspect)), round(math.sqrt(target / aspect))
        if clip:
            box_width, box_height = min(max(box_width, 1), width), min(max(box_height, 1), height)
        if 0 < box_width <= width and 0 < box_height <= height:
            top = rng.randint(0, height - box_height)
            left = rng.randint(0, width - box_width)
            return left, top, left + box_width, top + box_height
    # no box fitted: take the largest central one with an allowed aspect ratio
    box_width, box_height = width, height
    if width / height < aspect_ratio_range[0]:
        box_height = max(1, round(width / aspect_ratio_range[0]))
    elif width / height > aspect_ratio_range[1]:
        box_width = max(1, round(height * aspect_ratio_range[1]))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


def decode_reduction(image: OpenedImage, box: Box, size: tuple[int, int], gap: float | None) -> int:
    """Return the largest k of 1, 2, 4, 8 such that decoding at 1/k leaves enough pixels in the box.

    Args:
        image: The image to decode.
        box: Left, top, right, bottom in the upright image.
        size: (width, height) of the output.
        gap: Required pixels of the box per pixel of the output, in both directions; None for k = 1.
    """
    if gap is None or not can_reduce(image):
        return 1
    excess = min((box[2] - box[0]) / size[0], (box[3] - box[1]) / size[1]) / gap
    return next((k for k in (8, 4, 2) if excess >= k), 1)


def crop_resized(
    image: OpenedImage,
    pixels: np.ndarray,
    reduction: int,
    box: Box,
    size: tuple[int, int],
    interpolation: str,
    interleaved: bool = False,
) -> tuple[np.ndarray, Box]:
    """Cut a box of the upright image out of the decoded pixels and resize it.

    Args:
        image: The image that was decoded.
        pixels: (stored height / reduction, stored width / reduction, C).
        reduction: 1, 2, 4 or 8.
        box: Left, top, right, bottom in the upright image.
        size: (width, height) of the result.
        interpolation: 'bicubic', 'bilinear' or 'lanczos'.
        interleaved: As in :func:`mmssl.data.images.resize`.

    Returns:
        (height, width, C), upright, uint8, or float32 from 0 to 255 where the image has a range of values;
        and the box that was cut, which is ``box`` snapped to the grid of the reduction.
    """
    left, top, right, bottom = _reduced_box(stored_box(box, image), reduction, pixels)
    stored_width, stored_height = image.header.size
    snapped = upright_box(
        (
            left * reduction,
            top * reduction,
            min(right * reduction, stored_width),
            min(bottom * reduction, stored_height),
        ),
        image,
    )
    stored_size = size if image.is_transposed else size[::-1]
    crop = resize(pixels[top:bottom, left:right], stored_size, interpolation, interleaved)
    return orient(in_range(crop, image), image.orientation), snapped


def _reduced_box(box: Box, reduction: int, pixels: np.ndarray) -> Box:
    """Return the box in pixels of the reduced image, snapped to its grid and at least one pixel large."""
    if reduction == 1:
        return box
    height, width = pixels.shape[:2]
    left = min(round(box[0] / reduction), width - 1)
    top = min(round(box[1] / reduction), height - 1)
    right = min(max(round(box[2] / reduction), left + 1), width)
    bottom = min(max(round(box[3] / reduction), top + 1), height)
    return left, top, right, bottom
