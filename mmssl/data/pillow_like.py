"""Color operations and blur of Pillow and torchvision, computed by OpenCV on BGR arrays.

Results agree to one gray level for brightness, contrast, saturation and gray, and to the rounding of Pillow's
hues and blur passes for the others (tests/data/test_pillow_like.py).
"""

import functools
import math

import cv2
import numpy as np

# Pillow truncates its results where OpenCV rounds them; subtracting half a gray level makes them agree
_TRUNCATE = -0.498


def adjust_brightness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Multiply (H, W, 3) uint8 by ``factor`` and clip."""
    return cv2.convertScaleAbs(pixels, alpha=factor, beta=_TRUNCATE)


def adjust_contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Move (H, W, 3) uint8 BGR away from (``factor`` > 1) or towards its mean gray level."""
    blue, green, red, _ = cv2.mean(pixels)
    mean = int(0.114 * blue + 0.587 * green + 0.299 * red + 0.5)
    return cv2.addWeighted(pixels, factor, pixels, 0, (1 - factor) * mean + _TRUNCATE)


def adjust_saturation(pixels: np.ndarray, factor: float) -> np.ndarray:
    """Move each pixel of (H, W, 3) uint8 BGR away from (``factor`` > 1) or towards its own gray level."""
    matrix = np.empty((3, 4), np.float32)
    matrix[:] = (0.114 * (1 - factor), 0.587 * (1 - factor), 0.299 * (1 - factor), _TRUNCATE)
    matrix[(0, 1, 2), (0, 1, 2)] += factor
    return cv2.transform(pixels, matrix)


def adjust_hue(pixels: np.ndarray, shift: float) -> np.ndarray:
    """Rotate the hues of (H, W, 3) uint8 BGR.

    Args:
        pixels: (H, W, 3) uint8 BGR.
        shift: Fraction of a full circle, -0.5 to 0.5, rounded to multiples of 1/255 as in torchvision.

    Returns:
        (H, W, 3) uint8.
    """
    # in float: faster than OpenCV's conversion of bytes, and without Pillow's rounding of the hues
    hsv = cv2.cvtColor(pixels.astype(np.float32), cv2.COLOR_BGR2HSV)
    hsv[..., 0] += int(shift * 255) / 255 % 1 * 360
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR, dst=hsv))


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """Replace the channels of (H, W, 3) uint8 BGR by their luma (ITU-R 601)."""
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def gaussian_blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """Blur with Pillow's approximation of a Gaussian; pixels beyond the border repeat the edge.

    Args:
        pixels: (H, W, 3) uint8.
        sigma: Standard deviation in pixels, rounded to multiples of 1/128.

    Returns:
        (H, W, 3) uint8.
    """
    if sigma > 4:  # multiples of 1/256 are too coarse for such a wide kernel
        return cv2.GaussianBlur(pixels, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    kernel = blur_kernel(max(round(sigma * 128), 1))
    return cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


@functools.lru_cache(maxsize=1024)
def blur_kernel(steps: int) -> np.ndarray:
    """Return Pillow's Gaussian kernel: three extended box filters (Gwosdek et al., SSVM 2011) convolved.

    The weights are multiples of 1/256, which OpenCV applies in integer arithmetic, in half the time of its
    own Gaussian.

    Args:
        steps: Standard deviation in units of 1/128 pixel.
    """
    variance = (steps / 128) ** 2 / 3
    radius = int((math.sqrt(12 * variance + 1) - 1) / 2)
    end = (2 * radius + 1) * (radius * (radius + 1) - 3 * variance) / (6 * (variance - (radius + 1) ** 2))
    box = np.array([end, *[1.0] * (2 * radius + 1), end]) / (2 * radius + 1 + 2 * end)
    kernel = np.rint(256 * np.convolve(np.convolve(box, box), box))
    kernel[len(kernel) // 2] += 256 - kernel.sum()
    return (kernel[kernel > 0] / 256).astype(np.float32)


def solarize(pixels: np.ndarray, threshold: int = 128) -> np.ndarray:
    """Invert the uint8 values that are at or above ``threshold``."""
    if threshold == 128:
        return np.minimum(pixels, 255 - pixels)
    return np.where(pixels < threshold, pixels, 255 - pixels)


ADJUSTMENTS = {
    'brightness': adjust_brightness,
    'contrast': adjust_contrast,
    'saturation': adjust_saturation,
    'hue': adjust_hue,
}
