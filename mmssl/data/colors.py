"""Colors of classes."""

import colorsys

GOLDEN_SECTION = 0.6180339887


def class_color(index: int) -> tuple[int, int, int]:
    """Return the (R, G, B) color, 0 to 255, of a class; the hues of successive classes differ clearly."""
    saturation = (0.85, 0.55, 0.7)[index % 3]
    brightness = (0.95, 0.8, 0.6)[index // 3 % 3]
    red, green, blue = colorsys.hsv_to_rgb(index * GOLDEN_SECTION % 1, saturation, brightness)
    return round(255 * red), round(255 * green), round(255 * blue)
