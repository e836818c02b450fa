"""Heat maps over images."""

import numpy as np

# dark violet, magenta, orange, pale yellow: lightness increases evenly
HEAT_COLORS = np.array(
    [[0, 0, 4], [66, 10, 104], [147, 38, 103], [221, 81, 58], [252, 165, 10], [252, 255, 164]],
    dtype=np.float64,
)


def overlay_heat(image: np.ndarray, heat: np.ndarray, opacity: float) -> np.ndarray:
    """Blend the colors of a heat map with a gray version of an image.

    Args:
        image: (..., H, W, 3) with values of 0 to 255.
        heat: (..., H, W) in [0, 1].
        opacity: Weight of the heat map's colors.

    Returns:
        (..., H, W, 3) float64.
    """
    positions = np.linspace(0, 1, len(HEAT_COLORS))
    colors = np.stack([np.interp(heat, positions, HEAT_COLORS[:, channel]) for channel in range(3)], axis=-1)
    gray = image.astype(np.float64).mean(axis=-1, keepdims=True)
    return opacity * colors + (1 - opacity) * gray
