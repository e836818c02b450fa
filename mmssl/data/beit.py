"""The two images of one crop that BEiT (arXiv:2106.08254) trains on."""

import math
import random
from typing import Any

import cv2
from mmcv.transforms import BaseTransform

from mmssl.data.arguments import (
    check_interpolation,
    check_probability,
    check_range,
    check_reducing_gap,
    check_size,
)
from mmssl.data.crops import crop_resized, decode_reduction, random_resized_box
from mmssl.data.images import MAX_PIXELS, planar
from mmssl.data.pillow_like import ADJUSTMENTS
from mmssl.data.reader import ImageReader, decode_pixels
from mmssl.registry import TRANSFORMS

_JITTERED = ('brightness', 'contrast', 'saturation')


@TRANSFORMS.register_module()
class LoadBEiTViews(BaseTransform):
    """Load BEiT's two images: the same random crop, jittered and flipped alike, at two sizes.

    As in the released code the colors are changed before the crop is cut, so that contrast refers to the
    whole image. ``results['img']`` becomes a list of the images, (H, W, 3) uint8 BGR each; the mask is drawn
    by the model. All draws come from Python's global ``random``, which the data loader seeds for each sample.

    Required keys: ``img_path``. Added keys: ``img``, ``img_shape``, ``ori_shape``, ``flip``, ``crop_box``
    (left, top, right, bottom in the upright image).

    Args:
        scale: Size of the transformer's image: one number, or (width, height).
        second_scale: Size of the tokenizer's image: 8 pixels per token for DALL-E. None loads one image only,
            for a tokenizer that reads the transformer's patches (``mmssl.KMeansTokenizer``).
        crop_ratio_range: Smallest and largest fraction of the image's area.
        aspect_ratio_range: Smallest and largest width / height of the box.
        interpolation: 'bicubic', 'bilinear' or 'lanczos', for the transformer's image.
        second_interpolation: The same for the tokenizer's image.
        jitter: Strength of brightness, contrast and saturation, applied to every image in random order; 0 for
            none.
        flip_prob: Probability of a horizontal flip.
        reducing_gap: A JPEG is decoded at 1/k if the box then still has this many times the output's pixels;
            None always decodes at full size.
        max_pixels: Largest image to accept, width times height.
        **reading: value_range, channels, pages, channel_axis: see :class:`mmssl.data.reader.ImageReader`;
            they need ``jitter=0``.
    """

    def __init__(  # noqa: PLR0913
        self,
        scale: int | tuple[int, int] = 224,
        second_scale: int | tuple[int, int] | None = 112,
        crop_ratio_range: tuple[float, float] = (0.08, 1.0),
        aspect_ratio_range: tuple[float, float] = (3 / 4, 4 / 3),
        interpolation: str = 'bicubic',
        second_interpolation: str = 'lanczos',
        jitter: float = 0.4,
        flip_prob: float = 0.5,
        reducing_gap: float | None = 1.0,
        max_pixels: int = MAX_PIXELS,
        **reading: Any,
    ):
        self.sizes = [check_size(size) for size in (scale, second_scale) if size is not None]
        self.interpolations = [check_interpolation(name) for name in (interpolation, second_interpolation)]
        self.crop_ratio_range = check_range('crop_ratio_range', crop_ratio_range, 1.0)
        self.aspect_ratio_range = check_range('aspect_ratio_range', aspect_ratio_range, math.inf)
        if not 0 <= jitter <= 1:
            raise ValueError(f'jitter={jitter!r} must be a strength in [0, 1], such as 0.4')
        self.jitter = jitter
        self.flip_prob = check_probability('flip_prob', flip_prob)
        self.reducing_gap = check_reducing_gap(reducing_gap)
        self.reader = ImageReader(max_pixels, **reading)
        if self.reader.reads_values and jitter:
            raise ValueError(
                f'jitter={jitter!r} is for images of 8-bit RGB; set jitter=0 beside {", ".join(reading)}, '
                'and take mmssl.BandJitter, which changes each channel by itself'
            )

    def transform(self, results: dict) -> dict:
        """Load a random crop of ``results['img_path']``.

        Raises:
            BadImageError: The file is not a readable image; the message names it.
        """
        image = self.reader.open(results['img_path'], results.get('page'))
        box = random_resized_box(image.width, image.height, self.crop_ratio_range, self.aspect_ratio_range)
        flip = random.random() < self.flip_prob
        adjustments = []
        if self.jitter:
            adjustments = [(name, random.uniform(1 - self.jitter, 1 + self.jitter)) for name in _JITTERED]
        random.shuffle(adjustments)
        reduction = min(decode_reduction(image, box, size, self.reducing_gap) for size in self.sizes)
        pixels = decode_pixels(image, reduction)
        for name, factor in adjustments:
            pixels = ADJUSTMENTS[name](pixels, factor)
        views = []
        for size, interpolation in zip(self.sizes, self.interpolations, strict=False):
            view, results['crop_box'] = crop_resized(
                image, pixels, reduction, box, size, interpolation, interleaved=True
            )
            views.append(planar(cv2.flip(view, 1).reshape(view.shape) if flip else view))
        results['img'] = views
        results['flip'] = flip
        results['img_shape'] = views[0].shape[:2]
        results['ori_shape'] = (image.height, image.width)
        return results

    def __repr__(self) -> str:
        sizes = ', '.join(
            f'{width}x{height} {name}'
            for (width, height), name in zip(self.sizes, self.interpolations, strict=False)
        )
        return (
            f'{type(self).__name__}({sizes}, crop_ratio_range={self.crop_ratio_range}, jitter={self.jitter}, '
            f'flip_prob={self.flip_prob}, reducing_gap={self.reducing_gap})'
        )
