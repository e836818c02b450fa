"""Transforms that load an image and crop it in one step, so that no pixel is decoded, copied or resized in vain.

All of them put BGR uint8 into ``results['img']``, (H, W, 3), as the hosts' transforms expect it, with
``img_shape`` and ``ori_shape``. The pipeline ends with ``mmpretrain.PackInputs``: uint8 goes to the device
and is normalised there by the host's data preprocessor.
"""

import math
import random

import numpy as np
from mmcv.transforms import BaseTransform

from mmssl.data.images import (
    MAX_PIXELS,
    EncodedImage,
    can_reduce,
    decode,
    open_image,
    orient,
    resize,
    stored_box,
    upright_box,
)
from mmssl.registry import TRANSFORMS

INTERPOLATIONS = ('bicubic', 'bilinear', 'lanczos')


def random_resized_box(
    width: int,
    height: int,
    crop_ratio_range: tuple[float, float],
    aspect_ratio_range: tuple[float, float],
    rng=random,
    clip: bool = False,
) -> tuple[int, int, int, int]:
    """Draw the box of a random resized crop, distributed as in torchvision's ``RandomResizedCrop.get_params``.

    Args:
        width: of the image, pixels.
        height: of the image, pixels.
        crop_ratio_range: least and largest share of the image's area.
        aspect_ratio_range: least and largest width / height, drawn uniformly in the logarithm.
        rng: where the draws come from; the module ``random`` or a ``random.Random``.
        clip: draw once, and cut a box that sticks out to the image (MAE's linear probing, util/crop.py of the
            released code), instead of up to ten attempts and a central box after them.

    Returns:
        left, top, right, bottom: pixels, right and bottom excluded.
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
    # no box fitted: the largest central one whose aspect ratio is allowed
    box_width, box_height = width, height
    if width / height < aspect_ratio_range[0]:
        box_height = max(1, round(width / aspect_ratio_range[0]))
    elif width / height > aspect_ratio_range[1]:
        box_width = max(1, round(height * aspect_ratio_range[1]))
    left, top = (width - box_width) // 2, (height - box_height) // 2
    return left, top, left + box_width, top + box_height


@TRANSFORMS.register_module()
class LoadImage(BaseTransform):
    """The host's LoadImageFromFile fails on grey, 16-bit and CMYK files or turns them into noise, and does not say which file was bad.

    Reads any usual kind of image, upright (EXIF), from disk or through an archive. Alpha is dropped, see
    :func:`mmssl.data.images.decode`.

    Required keys: ``img_path``. Added keys: ``img``, ``img_shape``, ``ori_shape``.

    Args:
        max_pixels: a larger image is refused; width times height.
    """

    def __init__(self, max_pixels: int = MAX_PIXELS):
        self.max_pixels = max_pixels

    def transform(self, results: dict) -> dict:
        """Load ``results['img_path']``; raises BadImageError naming the file."""
        image = open_image(results['img_path'], self.max_pixels)
        pixels = np.ascontiguousarray(orient(decode(image), image.orientation))
        height, width = pixels.shape[:2]
        return _finish(results, pixels, (height, width))


@TRANSFORMS.register_module()
class LoadRandomResizedCrop(BaseTransform):
    """The host's LoadImageFromFile and RandomResizedCrop decode and copy the whole image to keep a small part of it.

    Reads the size from the header, draws the box, decodes (a JPEG at 1/2, 1/4 or 1/8 by its scaled DCT where
    the box allows), crops, resizes with antialiasing. The draws come from Python's global ``random``, which
    the data loader seeds in each worker.

    Where the decode is scaled by 1/k, the box is moved to multiples of k first, by at most ``1 / (2 *
    reducing_gap)`` pixels of the output; ``crop_box`` is what was taken.

    Required keys: ``img_path``. Added keys: ``img``, ``img_shape``, ``ori_shape``, ``crop_box`` (left, top,
        right, bottom in the
    upright image).

    Args:
        scale: size of the output: one number, or (width, height) as in the hosts.
        crop_ratio_range: least and largest share of the image's area.
        aspect_ratio_range: least and largest width / height of the box.
        interpolation: 'bicubic', 'bilinear' or 'lanczos'.
        reducing_gap: a JPEG is decoded at 1/k where the box then still has this many times the output's
            pixels in both directions. 1 is fastest, 2 is hard to tell from a full decode, None switches it
            off.
        max_pixels: a larger image is refused; width times height.
        clip: one draw of the box, see :func:`random_resized_box`.
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
    ):
        self.clip = clip
        self.width, self.height = check_size(scale)
        self.crop_ratio_range = check_range('crop_ratio_range', crop_ratio_range, 1.0)
        self.aspect_ratio_range = check_range('aspect_ratio_range', aspect_ratio_range, math.inf)
        self.interpolation = check_interpolation(interpolation)
        self.reducing_gap = check_gap(reducing_gap)
        self.max_pixels = max_pixels

    def transform(self, results: dict) -> dict:
        """Load a random crop of ``results['img_path']``; raises BadImageError naming the file."""
        image = open_image(results['img_path'], self.max_pixels)
        box = random_resized_box(
            image.width, image.height, self.crop_ratio_range, self.aspect_ratio_range, clip=self.clip
        )
        size = (self.width, self.height)
        reduction = decode_reduction(image, (box[2] - box[0], box[3] - box[1]), size, self.reducing_gap)
        pixels, results['crop_box'] = crop_resized(
            image, decode(image, reduction), reduction, box, size, self.interpolation
        )
        return _finish(results, pixels, (image.height, image.width))

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(scale=({self.width}, {self.height}), crop_ratio_range={self.crop_ratio_range}, '
            f'aspect_ratio_range={self.aspect_ratio_range}, interpolation={self.interpolation!r}, reducing_gap={self.reducing_gap})'
        )


@TRANSFORMS.register_module()
class LoadCenterCrop(BaseTransform):
    """The host needs three transforms for the evaluation crop, and its bicubic resize by OpenCV does not antialias.

    The short edge is resized to ``scale / ratio`` and the centre is cut out, as torchvision's Resize and
    CenterCrop do.

    Required keys: ``img_path``. Added keys: ``img``, ``img_shape``, ``ori_shape``.

    Args:
        scale: side of the square output, pixels.
        ratio: scale over the resized short edge, in (0, 1]; 224 / 256 resizes the short edge to 256 and keeps
            224.
        interpolation: 'bicubic', 'bilinear' or 'lanczos'.
        reducing_gap: a JPEG is decoded at 1/k where its edges then still are this many times the resized
            ones; None decodes in full, so that figures equal torchvision's.
        max_pixels: a larger image is refused; width times height.
    """

    def __init__(
        self,
        scale: int = 224,
        ratio: float = 224 / 256,
        interpolation: str = 'bicubic',
        reducing_gap: float | None = None,
        max_pixels: int = MAX_PIXELS,
    ):
        if not isinstance(scale, int) or scale < 1:
            raise ValueError(f'scale={scale!r} must be a whole number of pixels above 0, such as 224')
        if not 0 < ratio <= 1:
            raise ValueError(
                f'ratio={ratio!r} must be in (0, 1]: the share of the resized short edge that is kept, such as 224 / 256'
            )
        self.scale = scale
        self.short_edge = round(scale / ratio)
        self.interpolation = check_interpolation(interpolation)
        self.reducing_gap = check_gap(reducing_gap)
        self.max_pixels = max_pixels

    def transform(self, results: dict) -> dict:
        """Load the central crop of ``results['img_path']``; raises BadImageError naming the file."""
        image = open_image(results['img_path'], self.max_pixels)
        short = min(image.width, image.height)
        # the long edge is cut, not rounded, as in torchvision's Resize
        width, height = (int(self.short_edge * edge / short) for edge in (image.width, image.height))
        reduction = decode_reduction(image, (image.width, image.height), (width, height), self.reducing_gap)
        pixels = decode(image, reduction)
        stored_size = (width, height) if image.is_transposed else (height, width)
        pixels = orient(resize(pixels, stored_size, self.interpolation), image.orientation)
        top, left = round((height - self.scale) / 2), round((width - self.scale) / 2)
        return _finish(
            results, pixels[top : top + self.scale, left : left + self.scale], (image.height, image.width)
        )

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(scale={self.scale}, short_edge={self.short_edge}, interpolation={self.interpolation!r}, '
            f'reducing_gap={self.reducing_gap})'
        )


def decode_reduction(
    image: EncodedImage, box_size: tuple[int, int], size: tuple[int, int], gap: float | None
) -> int:
    """Largest of 1, 2, 4, 8 by which the decode may shrink; both sizes are (width, height)."""
    if gap is None or not can_reduce(image):
        return 1
    excess = min(box_size[0] / size[0], box_size[1] / size[1]) / gap
    return next((k for k in (8, 4, 2) if excess >= k), 1)


def crop_resized(
    image: EncodedImage,
    pixels: np.ndarray,
    reduction: int,
    box: tuple[int, int, int, int],
    size: tuple[int, int],
    interpolation: str,
    interleaved: bool = False,
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """Cut a box of the upright image out of the decoded pixels and resize it.

    Args:
        image: where the pixels come from.
        pixels: decoded, (stored height / reduction, stored width / reduction, 3) uint8.
        reduction: 1, 2, 4 or 8.
        box: left, top, right, bottom in the upright image.
        size: (width, height) of the result.
        interpolation: 'bicubic', 'bilinear' or 'lanczos'.
        interleaved: as in :func:`mmssl.data.images.resize`.

    Returns:
        (height, width, 3) uint8, upright; and the box that was taken, which is the given one on the grid of
        the reduction.
    """
    left, top, right, bottom = _reduced_box(stored_box(box, image), reduction, pixels)
    stored_width, stored_height = image.header.size
    taken = upright_box(
        (
            left * reduction,
            top * reduction,
            min(right * reduction, stored_width),
            min(bottom * reduction, stored_height),
        ),
        image,
    )
    stored_size = size if image.is_transposed else size[::-1]
    return orient(
        resize(pixels[top:bottom, left:right], stored_size, interpolation, interleaved), image.orientation
    ), taken


def _reduced_box(
    box: tuple[int, int, int, int], reduction: int, pixels: np.ndarray
) -> tuple[int, int, int, int]:
    """The box in the pixels of the reduced image, snapped to its grid, at least one pixel large."""
    if reduction == 1:
        return box
    height, width = pixels.shape[:2]
    left, top = min(round(box[0] / reduction), width - 1), min(round(box[1] / reduction), height - 1)
    right = min(max(round(box[2] / reduction), left + 1), width)
    bottom = min(max(round(box[3] / reduction), top + 1), height)
    return left, top, right, bottom


def _finish(results: dict, pixels: np.ndarray, ori_shape: tuple[int, int]) -> dict:
    results['img'] = pixels
    results['img_shape'] = pixels.shape[:2]
    results['ori_shape'] = ori_shape
    return results


def check_size(scale: int | tuple[int, int]) -> tuple[int, int]:
    """(width, height) of an output, given as that or as one number."""
    size = (scale, scale) if isinstance(scale, int) else tuple(scale)
    if len(size) != 2 or not all(isinstance(edge, int) and edge > 0 for edge in size):
        raise ValueError(
            f'scale={scale!r} must be a whole number of pixels above 0 or (width, height), such as 224'
        )
    return size


def check_range(name: str, values: tuple[float, float], largest: float) -> tuple[float, float]:
    """``values``, if they are two numbers with 0 < first <= second <= largest."""
    if len(values) != 2 or not 0 < values[0] <= values[1] <= largest:
        upper = f' <= {largest:g}' if math.isfinite(largest) else ''
        raise ValueError(f'{name}={values!r} must be two numbers with 0 < first <= second{upper}')
    first, second = values
    return first, second


def check_interpolation(name: str) -> str:
    """``name``, if it is an interpolation of :func:`mmssl.data.images.resize`."""
    if name not in INTERPOLATIONS:
        raise ValueError(f'interpolation={name!r} is not one of {", ".join(INTERPOLATIONS)}')
    return name


def check_gap(gap: float | None) -> float | None:
    """``gap``, if it is a reducing gap."""
    if gap is not None and gap < 1:
        raise ValueError(
            f'reducing_gap={gap!r} would enlarge what the decode shrank; give 1 or more, or None for a full decode'
        )
    return gap
