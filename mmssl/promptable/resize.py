"""Resizing of images, points and boxes to the size that a model encodes."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


class ResizeLongestSide:
    """Resize images, points and boxes so that the longest side of the image has a given length.

    Names are those of the official class.

    Args:
        target_length: Longest side in pixels.
    """

    def __init__(self, target_length: int):
        self.target_length = target_length

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> tuple[int, int]:
        """(height, width) after resizing, rounded, each at least 1."""
        scale = long_side_length * 1.0 / max(oldh, oldw)
        return max(1, int(oldh * scale + 0.5)), max(1, int(oldw * scale + 0.5))

    def _resized(self, size: Sequence[int]) -> tuple[int, int]:
        return self.get_preprocess_shape(size[0], size[1], self.target_length)

    def apply_image(self, image: np.ndarray) -> np.ndarray:
        """Resize (H, W, C) or (H, W) uint8, bilinear with antialiasing as in Pillow.

        Images of one channel become (h, w), as in the official class.
        """
        if image.ndim == 3 and image.shape[2] == 1:
            image = image[..., 0]
        height, width = self._resized(image.shape[:2])
        if (height, width) == image.shape[:2]:
            return np.array(image)
        if image.ndim == 3 and image.shape[2] > 4:
            return np.stack([self.apply_image(image[..., index]) for index in range(image.shape[2])], axis=-1)
        pillow = Image.fromarray(np.ascontiguousarray(image))
        return np.array(pillow.resize((width, height), Image.Resampling.BILINEAR))

    def apply_image_torch(self, image: Tensor) -> Tensor:
        """Resize (B, C, H, W) float, bilinear with antialiasing; close to :meth:`apply_image` but not equal.

        The official method takes the size from the wrong axes, so that it fits no image.
        """
        size = self._resized(image.shape[-2:])
        return F.interpolate(image, size, mode='bilinear', align_corners=False, antialias=True)

    def _factors(self, original_size: Sequence[int]) -> tuple[float, float]:
        height, width = self._resized(original_size)
        return width / original_size[1], height / original_size[0]

    def apply_coords(self, coords: np.ndarray, original_size: Sequence[int]) -> np.ndarray:
        """Resize (..., 2) x and y in pixels of an image of (height, width); float64."""
        coords = np.array(coords, dtype=np.float64)
        for axis, factor in enumerate(self._factors(original_size)):
            coords[..., axis] *= factor
        return coords

    def apply_boxes(self, boxes: np.ndarray, original_size: Sequence[int]) -> np.ndarray:
        """Resize (..., 4) left, top, right, bottom to (N, 4)."""
        return self.apply_coords(np.asarray(boxes).reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Tensor, original_size: Sequence[int]) -> Tensor:
        """As :meth:`apply_coords` for tensors; float32."""
        coords = coords.to(torch.float32, copy=True)
        for axis, factor in enumerate(self._factors(original_size)):
            coords[..., axis] = coords[..., axis] * factor
        return coords

    def apply_boxes_torch(self, boxes: Tensor, original_size: Sequence[int]) -> Tensor:
        """As :meth:`apply_boxes` for tensors; float32."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)
