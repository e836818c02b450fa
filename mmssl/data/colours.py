"""Colours of classes in pictures."""

import colorsys

GOLDEN_SECTION = 0.6180339887


def class_colour(index: int) -> tuple[int, int, int]:
    """(R, G, B) of a class, 0 to 255: hues a golden section apart, so that neighbours differ."""
    saturation = (0.85, 0.55, 0.7)[index % 3]
    brightness = (0.95, 0.8, 0.6)[index // 3 % 3]
    red, green, blue = colorsys.hsv_to_rgb(index * GOLDEN_SECTION % 1, saturation, brightness)
    return round(255 * red), round(255 * green), round(255 * blue)
