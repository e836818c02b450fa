"""Colours that tell classes apart."""

import colorsys


def class_colour(index: int) -> tuple[int, int, int]:
    """(R, G, B) of a class, 0 to 255: hues a golden section apart, so that neighbours differ, in three brightnesses."""
    red, green, blue = colorsys.hsv_to_rgb(
        index * 0.6180339887 % 1, (0.85, 0.55, 0.7)[index % 3], (0.95, 0.8, 0.6)[index // 3 % 3]
    )
    return round(255 * red), round(255 * green), round(255 * blue)
