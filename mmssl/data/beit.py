"""The two pictures of one crop that BEiT (arXiv:2106.08254) trains on: one for the transformer, one for the tokenizer."""

import math
import random

import cv2
from mmcv.transforms import BaseTransform

from mmssl.data import transforms
from mmssl.data.images import MAX_PIXELS, decode, open_image, planar
from mmssl.data.views import adjust_brightness, adjust_contrast, adjust_saturation
from mmssl.registry import TRANSFORMS

_ADJUST = {'brightness': adjust_brightness, 'contrast': adjust_contrast, 'saturation': adjust_saturation}


@TRANSFORMS.register_module()
class LoadBEiTViews(BaseTransform):
    """The hosts need four transforms and three copies through Pillow for it: read, jitter, flip, crop and resize twice, decoded once.

    As in the released code the colours are changed before the crop is cut, so that contrast is that of the
    whole image, and both pictures are the same crop. ``results['img']`` becomes their list, (H, W, 3) uint8
    BGR each; the mask is drawn by the model. Every draw comes from Python's global ``random``, which the data
    loader seeds for each sample.

    Required keys: ``img_path``. Added keys: ``img``, ``img_shape``, ``ori_shape``, ``crop_box`` (left, top,
        right, bottom in the upright
    image).

    Args:
        scale: size of the transformer's picture: one number, or (width, height).
        second_scale: size of the tokenizer's: 8 pixels a token for DALL-E. None gives one picture only, for a
            tokenizer that looks at the same patches as the transformer (``mmssl.KMeansTokenizer``).
        crop_ratio_range: least and largest share of the image's area.
        aspect_ratio_range: least and largest width / height of the box.
        interpolation, second_interpolation: 'bicubic', 'bilinear' or 'lanczos'.
        jitter: strength of brightness, contrast and saturation, applied to every image in random order; 0 for
            none.
        flip_prob: probability of a horizontal flip.
        reducing_gap: a JPEG is decoded at 1/k where the box then still has this many times the output's
            pixels; None switches it off.
        max_pixels: a larger image is refused; width times height.
    """

    def __init__(
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
    ):
        self.sizes = [transforms.check_size(size) for size in (scale, second_scale) if size is not None]
        self.interpolations = [
            transforms.check_interpolation(name) for name in (interpolation, second_interpolation)
        ]
        self.crop_ratio_range = transforms.check_range('crop_ratio_range', crop_ratio_range, 1.0)
        self.aspect_ratio_range = transforms.check_range('aspect_ratio_range', aspect_ratio_range, math.inf)
        if not 0 <= jitter <= 1:
            raise ValueError(f'jitter={jitter!r} must be a strength in [0, 1], such as 0.4')
        if not 0 <= flip_prob <= 1:
            raise ValueError(f'flip_prob={flip_prob!r} must be a probability in [0, 1]')
        self.jitter, self.flip_prob = jitter, flip_prob
        self.reducing_gap = transforms.check_gap(reducing_gap)
        self.max_pixels = max_pixels

    def transform(self, results: dict) -> dict:
        """Load a random crop of ``results['img_path']``; raises BadImageError naming the file."""
        image = open_image(results['img_path'], self.max_pixels)
        box = transforms.random_resized_box(
            image.width, image.height, self.crop_ratio_range, self.aspect_ratio_range
        )
        flip = random.random() < self.flip_prob
        changes = (
            [(name, random.uniform(1 - self.jitter, 1 + self.jitter)) for name in _ADJUST]
            if self.jitter
            else []
        )
        random.shuffle(changes)
        box_size = box[2] - box[0], box[3] - box[1]
        reduction = min(
            transforms.decode_reduction(image, box_size, size, self.reducing_gap) for size in self.sizes
        )
        pixels = decode(image, reduction)
        for name, factor in changes:
            pixels = _ADJUST[name](pixels, factor)
        views = []
        for size, interpolation in zip(self.sizes, self.interpolations, strict=False):
            view, taken = transforms.crop_resized(
                image, pixels, reduction, box, size, interpolation, interleaved=True
            )
            views.append(planar(cv2.flip(view, 1) if flip else view))
        results['img'], results['crop_box'], results['flip'] = views, taken, flip
        results['img_shape'], results['ori_shape'] = views[0].shape[:2], (image.height, image.width)
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
