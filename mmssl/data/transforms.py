"""Transforms that load an image, or a crop of it, from its file.

All of them put BGR uint8 into ``results['img']``, (H, W, 3), as the transforms of the toolboxes expect it,
with ``img_shape`` and ``ori_shape``. A pipeline ends with ``mmpretrain.PackInputs``: uint8 goes to the device
and is normalized there by the data preprocessor.

With a ``value_range`` they put float32 from 0 to 255 instead, (H, W, C); see
:class:`mmssl.data.reader.ImageReader` for it and for ``channels``, ``pages`` and ``channel_axis``.
"""

import math
from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform

from mmssl.data.arguments import check_interpolation, check_range, check_reducing_gap, check_size
from mmssl.data.crops import crop_resized, decode_reduction, random_resized_box
from mmssl.data.images import MAX_PIXELS, orient, resize
from mmssl.data.reader import ImageReader, decode_pixels, in_range
from mmssl.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """Load an image of any common format and mode, upright (EXIF), from disk or from an archive.

    Alpha is dropped, see :func:`mmssl.data.images.decode`.

    Required keys: ``img_path``. Added keys: ``img``, ``img_shape``, ``ori_shape``.

    Args:
        max_pixels: Largest image to accept, width times height.
        **reading: value_range, channels, pages, channel_axis: see :class:`mmssl.data.reader.ImageReader`.
    """

    # mmcv's LoadImageFromFile fails on gray, 16-bit and CMYK files or turns them into noise, and its errors
    # do not name the file

    def __init__(self, max_pixels: int = MAX_PIXELS, **reading: Any):
        self.reader = ImageReader(max_pixels, **reading)

    def transform(self, results: dict) -> dict:
        """Load ``results['img_path']``.

        Raises:
            BadImageError: The file is not a readable image; the message names it.
        """
        image = self.reader.open(results['img_path'], results.get('page'))
        pixels = in_range(decode_pixels(image), image)
        pixels = np.ascontiguousarray(orient(pixels, image.orientation))
        return _with_image(results, pixels, pixels.shape[:2])


@TRANSFORMS.register_module()
class LoadRandomResizedCrop(BaseTransform):
    """Load a random resized crop of an image without decoding more of the file than the crop needs.

    The box is drawn from the size in the file's header; a JPEG is then decoded at 1/2, 1/4 or 1/8 of its size
    (scaled DCT) if the box allows it, cropped and resized with antialiasing. All draws come from Python's
    global ``random``, which the data loader seeds in each worker.

    If the decode is scaled by 1/k, the box is first snapped to multiples of k, which moves it by at most
    ``1 / (2 * reducing_gap)`` pixels of the output; ``crop_box`` is the snapped box.

    Required keys: ``img_path``. Added keys: ``img``, ``img_shape``, ``ori_shape``, ``crop_box`` (left, top,
    right, bottom in the upright image).

    Args:
        scale: Size of the output: one number, or (width, height) as in the toolboxes.
        crop_ratio_range: Smallest and largest fraction of the image's area.
        aspect_ratio_range: Smallest and largest width / height of the box.
        interpolation: 'bicubic', 'bilinear' or 'lanczos'.
        reducing_gap: A JPEG is decoded at 1/k if the box then still has this many times the output's pixels
            in both directions. 1 is fastest, 2 is hard to tell from a full decode, None always decodes at
            full size.
        max_pixels: Largest image to accept, width times height.
        clip: Draw the box once and clip it, see :func:`mmssl.data.crops.random_resized_box`.
        **reading: value_range, channels, pages, channel_axis: see :class:`mmssl.data.reader.ImageReader`.
    """

    def __init__(
        self,
        scale: int | tuple[int, int] = 224,
        crop_ratio_range: tuple[float, float] = (0.08, 1.0),
        aspect_ratio_range: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = 'bicubic',
        reducing_gap: float | None = 1.0,
        max_pixels: int = MAX_PIXELS,
        clip: bool = False,
        **reading: Any,
    ):
        self.clip = clip
        self.width, self.height = check_size(scale)
        self.crop_ratio_range = check_range('crop_ratio_range', crop_ratio_range, 1.0)
        self.aspect_ratio_range = check_range('aspect_ratio_range', aspect_ratio_range, math.inf)
        self.interpolation = check_interpolation(interpolation)
        self.reducing_gap = check_reducing_gap(reducing_gap)
        self.reader = ImageReader(max_pixels, **reading)

    def transform(self, results: dict) -> dict:
        """Load a random crop of ``results['img_path']``.

        Raises:
            BadImageError: The file is not a readable image; the message names it.
        """
        image = self.reader.open(results['img_path'], results.get('page'))
        box = random_resized_box(
            image.width, image.height, self.crop_ratio_range, self.aspect_ratio_range, clip=self.clip
        )
        size = (self.width, self.height)
        reduction = decode_reduction(image, box, size, self.reducing_gap)
        pixels, results['crop_box'] = crop_resized(
            image, decode_pixels(image, reduction), reduction, box, size, self.interpolation
        )
        return _with_image(results, pixels, (image.height, image.width))

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(scale=({self.width}, {self.height}), '
            f'crop_ratio_range={self.crop_ratio_range}, aspect_ratio_range={self.aspect_ratio_range}, '
            f'interpolation={self.interpolation!r}, reducing_gap={self.reducing_gap})'
        )


@TRANSFORMS.register_module()
class LoadCenterCrop(BaseTransform):
    """Load the central crop for evaluation, as torchvision's Resize and CenterCrop cut it.

    The short edge is resized to ``scale / ratio``, with antialiasing, and the center is cut out.

    Required keys: ``img_path``. Added keys: ``img``, ``img_shape``, ``ori_shape``.

    Args:
        scale: Side of the square output in pixels.
        ratio: ``scale`` divided by the resized short edge, in (0, 1]; 224 / 256 resizes the short edge to 256
            and crops to 224.
        interpolation: 'bicubic', 'bilinear' or 'lanczos'.
        reducing_gap: A JPEG is decoded at 1/k if its edges then still are this many times the resized ones;
            None decodes at full size, so that figures equal torchvision's.
        max_pixels: Largest image to accept, width times height.
        **reading: value_range, channels, pages, channel_axis: see :class:`mmssl.data.reader.ImageReader`.
    """

    # mmpretrain needs three transforms for it, and its bicubic resize (OpenCV) does not antialias

    def __init__(
        self,
        scale: int = 224,
        ratio: float = 224 / 256,
        interpolation: str = 'bicubic',
        reducing_gap: float | None = None,
        max_pixels: int = MAX_PIXELS,
        **reading: Any,
    ):
        if not isinstance(scale, int) or scale < 1:
            raise ValueError(f'scale={scale!r} must be a whole number of pixels above 0, such as 224')
        if not 0 < ratio <= 1:
            raise ValueError(
                f'ratio={ratio!r} must be in (0, 1]: the fraction of the resized short edge that is kept, '
                'such as 224 / 256'
            )
        self.scale = scale
        self.short_edge = round(scale / ratio)
        self.interpolation = check_interpolation(interpolation)
        self.reducing_gap = check_reducing_gap(reducing_gap)
        self.reader = ImageReader(max_pixels, **reading)

    def transform(self, results: dict) -> dict:
        """Load the central crop of ``results['img_path']``.

        Raises:
            BadImageError: The file is not a readable image; the message names it.
        """
        image = self.reader.open(results['img_path'], results.get('page'))
        short = min(image.width, image.height)
        # the long edge is truncated, not rounded, as in torchvision's Resize
        width, height = (int(self.short_edge * edge / short) for edge in (image.width, image.height))
        whole = (0, 0, image.width, image.height)
        reduction = decode_reduction(image, whole, (width, height), self.reducing_gap)
        pixels = decode_pixels(image, reduction)
        stored_size = (width, height) if image.is_transposed else (height, width)
        pixels = in_range(resize(pixels, stored_size, self.interpolation), image)
        pixels = orient(pixels, image.orientation)
        top, left = round((height - self.scale) / 2), round((width - self.scale) / 2)
        crop = pixels[top : top + self.scale, left : left + self.scale]
        return _with_image(results, crop, (image.height, image.width))

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(scale={self.scale}, short_edge={self.short_edge}, '
            f'interpolation={self.interpolation!r}, reducing_gap={self.reducing_gap})'
        )


def _with_image(results: dict, pixels: np.ndarray, ori_shape: tuple[int, ...]) -> dict:
    results['img'] = pixels
    results['img_shape'] = pixels.shape[:2]
    results['ori_shape'] = ori_shape
    return results
