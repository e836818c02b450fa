"""Steps around a graph in numpy and Pillow; scripts that are written beside a graph have their source."""

import numpy as np
from PIL import Image


def resize(image, size):
    """Resize as OpenCV does, bilinear without antialiasing, to (width, height)."""
    factors = (image.width / size[0], 0, 0, 0, image.height / size[1], 0)
    return image.transform(size, Image.Transform.AFFINE, factors, Image.Resampling.BILINEAR)


def paste_mask(mask, box, size):
    """Probabilities (S, S) of a mask inside a box, as those of the pixels of an image of (width, height)."""

    def weights(low, high, length):
        position = (np.arange(length) + 0.5 - low) / max(high - low, 1e-6) * len(mask) - 0.5
        return np.maximum(1 - np.abs(position[:, None] - np.arange(len(mask))), 0)

    return weights(box[1], box[3], size[1]) @ mask @ weights(box[0], box[2], size[0]).T
