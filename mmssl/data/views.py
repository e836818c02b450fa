"""Several random views of one image: crop, flip, colours, blur, solarisation, in one transform that reads and decodes the image once.

The hosts' MultiView runs a pipeline for each view, through Pillow and back, on a full decode. Here the draws
of all views are made first, the file is decoded once, as small as the crops allow, and each view is worked on
as uint8.
"""

import functools
import math
import random
from typing import NamedTuple

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmssl.data.images import MAX_PIXELS, decode, open_image, planar
from mmssl.data.transforms import (
    check_gap,
    check_interpolation,
    check_range,
    check_size,
    crop_resized,
    decode_reduction,
    random_resized_box,
)
from mmssl.hints import nearest
from mmssl.registry import TRANSFORMS

_PLAIN = dict(
    num=1,
    scale=224,
    crop_ratio_range=(0.2, 1.0),
    aspect_ratio_range=(3 / 4, 4 / 3),
    interpolation='bicubic',
    flip_prob=0.5,
    jitter=None,
    jitter_prob=1.0,
    gray_prob=0.0,
    gray_first=False,
    blur_prob=0.0,
    blur_sigma=(0.1, 2.0),
    solarize_prob=0.0,
    solarize_threshold=128,
    local=False,
)
_MOCO_V2 = dict(
    crop_ratio_range=(0.2, 1.0),
    interpolation='bilinear',
    jitter=(0.4, 0.4, 0.4, 0.1),
    jitter_prob=0.8,
    gray_prob=0.2,
    blur_prob=0.5,
)
_BYOL = dict(crop_ratio_range=(0.08, 1.0), jitter=(0.4, 0.4, 0.2, 0.1), jitter_prob=0.8, gray_prob=0.2)
_SWAV = dict(
    interpolation='bilinear', jitter=(0.8, 0.8, 0.8, 0.2), jitter_prob=0.8, gray_prob=0.2, blur_prob=0.5
)
_DINO = dict(_BYOL, crop_ratio_range=(0.4, 1.0))

# name: the kinds of view, as the released code of each method makes them (BYOL: as its paper, appendix B)
PRESETS: dict[str, list[dict]] = {
    'single': [dict(num=1)],
    'moco-v1': [
        dict(num=2, interpolation='bilinear', jitter=(0.4, 0.4, 0.4, 0.4), gray_prob=0.2, gray_first=True)
    ],
    'moco-v2': [dict(_MOCO_V2, num=2)],
    'moco-v3': [
        dict(_BYOL, interpolation='bilinear', blur_prob=1.0),
        dict(_BYOL, interpolation='bilinear', blur_prob=0.1, solarize_prob=0.2),
    ],
    'simclr': [dict(_SWAV, num=2, crop_ratio_range=(0.08, 1.0))],
    'byol': [dict(_BYOL, blur_prob=1.0), dict(_BYOL, blur_prob=0.1, solarize_prob=0.2)],
    'swav': [
        dict(_SWAV, num=2, crop_ratio_range=(0.14, 1.0)),
        dict(_SWAV, num=6, scale=96, crop_ratio_range=(0.05, 0.14), local=True),
    ],
    'dino': [
        dict(_DINO, blur_prob=1.0),
        dict(_DINO, blur_prob=0.1, solarize_prob=0.2),
        dict(_DINO, num=8, scale=96, crop_ratio_range=(0.05, 0.4), blur_prob=0.5, local=True),
    ],
}
# what an override without 'local_' changes in the larger views only
_GEOMETRY = ('num', 'scale', 'crop_ratio_range', 'aspect_ratio_range')


class ViewDraw(NamedTuple):
    """Everything random about one view.

    ``jitter`` is a list of (name, value) in the order of application; ``sigma`` is 0 where there is no blur.
    """

    box: tuple[int, int, int, int]
    flip: bool
    jitter: list[tuple[str, float]]
    gray: bool
    sigma: float
    solarize: bool


class ViewKind:
    """One kind of view: its parameters, checked, and how it is drawn and made.

    Args:
        num: how many views of this kind.
        scale: size of the view: one number, or (width, height).
        crop_ratio_range: least and largest share of the image's area.
        aspect_ratio_range: least and largest width / height of the box.
        interpolation: 'bicubic', 'bilinear' or 'lanczos'.
        flip_prob: probability of a horizontal flip.
        jitter: strengths of brightness, contrast, saturation and hue, as in torchvision's ColorJitter; None
            for none.
        jitter_prob: probability of the jitter.
        gray_prob: probability of grey.
        gray_first: grey before the jitter (MoCo v1) instead of after it.
        blur_prob: probability of a Gaussian blur.
        blur_sigma: least and largest standard deviation of the blur, pixels.
        solarize_prob: probability of solarisation: values from ``solarize_threshold`` on are inverted.
        solarize_threshold: in [0, 256].
        local: a small view, whose overrides begin with ``local_``.
    """

    flip_prob: float
    jitter_prob: float
    gray_prob: float
    blur_prob: float
    solarize_prob: float

    def __init__(self, **parameters):
        for key in parameters:
            if key not in _PLAIN:
                raise ValueError(f'a view has no {key!r}{nearest(key, _PLAIN)}; it takes {", ".join(_PLAIN)}')
        given = {**_PLAIN, **parameters}
        self.num, self.local, self.gray_first = given['num'], given['local'], given['gray_first']
        if not isinstance(self.num, int) or self.num < 0:
            raise ValueError(f'num={self.num!r} must be a number of views, 0 or more')
        self.width, self.height = check_size(given['scale'])
        self.crop_ratio_range = check_range('crop_ratio_range', given['crop_ratio_range'], 1.0)
        self.aspect_ratio_range = check_range('aspect_ratio_range', given['aspect_ratio_range'], math.inf)
        self.blur_sigma = check_range('blur_sigma', given['blur_sigma'], math.inf)
        self.interpolation = check_interpolation(given['interpolation'])
        self.jitter = _jitter(given['jitter'])
        for key in ('flip_prob', 'jitter_prob', 'gray_prob', 'blur_prob', 'solarize_prob'):
            if not 0 <= given[key] <= 1:
                raise ValueError(f'{key}={given[key]!r} must be a probability in [0, 1]')
            setattr(self, key, given[key])
        self.solarize_threshold = given['solarize_threshold']
        if not 0 <= self.solarize_threshold <= 256:
            raise ValueError(f'solarize_threshold={self.solarize_threshold!r} must be in [0, 256]')
        self.parameters = given

    def draw(self, width: int, height: int, rng=random) -> ViewDraw:
        """Draw one view of an image of this size."""
        box = random_resized_box(width, height, self.crop_ratio_range, self.aspect_ratio_range, rng)
        flip = rng.random() < self.flip_prob
        jitter = []
        if self.jitter and rng.random() < self.jitter_prob:
            jitter = [
                (
                    name,
                    rng.uniform(-strength, strength)
                    if name == 'hue'
                    else rng.uniform(max(0.0, 1 - strength), 1 + strength),
                )
                for name, strength in self.jitter
            ]
            rng.shuffle(jitter)
        gray = rng.random() < self.gray_prob
        sigma = rng.uniform(*self.blur_sigma) if rng.random() < self.blur_prob else 0.0
        return ViewDraw(box, flip, jitter, gray, sigma, rng.random() < self.solarize_prob)

    def finish(self, pixels: np.ndarray, draw: ViewDraw) -> np.ndarray:
        """Flip and recolour a crop that has its final size.

        Args:
            pixels: (H, W, 3) uint8, BGR; left as it is.
            draw: from :meth:`draw`.

        Returns:
            (H, W, 3) uint8, the channels one after the other in memory.
        """
        pixels = cv2.flip(pixels, 1) if draw.flip else np.ascontiguousarray(pixels)
        if draw.gray and self.gray_first:
            pixels = to_gray(pixels)
        for name, value in draw.jitter:
            pixels = _ADJUST[name](pixels, value)
        if draw.gray and not self.gray_first:
            pixels = to_gray(pixels)
        if draw.sigma:
            pixels = gaussian_blur(pixels, draw.sigma)
        if draw.solarize:
            pixels = solarize(pixels, self.solarize_threshold)
        return planar(pixels)


@TRANSFORMS.register_module()
class LoadViews(BaseTransform):
    """The host's MultiView augments a full decode once for each view, through Pillow and back.

    ``results['img']`` becomes the list of the views, (H, W, 3) uint8 BGR each, kind after kind;
    ``PackInputs`` and ``default_collate`` make a list of batches of it. Every draw comes from Python's global
    ``random``, which the data loader seeds for each sample.

    ``dict(type='mmssl.LoadViews', preset='dino', scale=64, local_scale=32, num_local=4)``

    Required keys: ``img_path``. Added keys: ``img``, ``img_shape`` (of the first view), ``ori_shape``,
        ``crop_boxes`` (one for each view,
    as ``crop_box`` of :class:`mmssl.data.transforms.LoadRandomResizedCrop`).

    Args:
        preset: name in ``mmssl.data.views.PRESETS``.
        views: the kinds of view one by one, a dict of :class:`ViewKind`'s arguments each, instead of a
            preset.
        num_local: number of small views, of a preset that has them.
        reducing_gap: a JPEG is decoded at 1/k where all boxes then still have this many times the view's
            pixels; None switches it off.
        max_pixels: a larger image is refused; width times height.
        overrides: arguments of :class:`ViewKind`. Size and crop (``scale``, ``crop_ratio_range``,
            ``aspect_ratio_range``, ``num``) are those of the larger views, everything else is for all views;
            with ``local_`` before the name, for the small views alone.
    """

    def __init__(
        self,
        preset: str | None = None,
        views: list[dict] | None = None,
        num_local: int | None = None,
        reducing_gap: float | None = 1.0,
        max_pixels: int = MAX_PIXELS,
        **overrides,
    ):
        if (preset is None) == (views is None):
            raise ValueError(
                f'LoadViews takes preset=NAME or views=[dict(...), ...], one of them; presets are {", ".join(PRESETS)}'
            )
        if preset is not None and preset not in PRESETS:
            raise ValueError(
                f'LoadViews has no preset {preset!r}{nearest(preset, PRESETS)}; presets are {", ".join(PRESETS)}'
            )
        given = views if preset is None else PRESETS[preset]
        assert given is not None
        kinds = [dict(kind) for kind in given]
        if num_local is not None:
            overrides['local_num'] = num_local
        _override(kinds, overrides, f'preset {preset!r}' if preset else 'views')
        self.kinds = [ViewKind(**kind) for kind in kinds]
        if not sum(kind.num for kind in self.kinds):
            raise ValueError('LoadViews makes no view; give one kind a num above 0')
        self.preset = preset
        self.reducing_gap = check_gap(reducing_gap)
        self.max_pixels = max_pixels

    def transform(self, results: dict) -> dict:
        """Load the views of ``results['img_path']``; raises BadImageError naming the file."""
        image = open_image(results['img_path'], self.max_pixels)
        drawn = [(kind, kind.draw(image.width, image.height)) for kind in self.kinds for _ in range(kind.num)]
        reduction = min(
            decode_reduction(
                image,
                (draw.box[2] - draw.box[0], draw.box[3] - draw.box[1]),
                (kind.width, kind.height),
                self.reducing_gap,
            )
            for kind, draw in drawn
        )
        pixels = decode(image, reduction)
        crops = [
            crop_resized(
                image,
                pixels,
                reduction,
                draw.box,
                (kind.width, kind.height),
                kind.interpolation,
                interleaved=True,
            )
            for kind, draw in drawn
        ]
        results['img'] = [
            kind.finish(crop, draw) for (crop, _), (kind, draw) in zip(crops, drawn, strict=True)
        ]
        results['img_shape'] = results['img'][0].shape[:2]
        results['ori_shape'] = (image.height, image.width)
        results['crop_boxes'] = [box for _, box in crops]
        return results

    def __repr__(self) -> str:
        kinds = ', '.join(f'{kind.num}x{kind.width}x{kind.height}' for kind in self.kinds)
        return (
            f'{type(self).__name__}(preset={self.preset!r}, views={kinds}, reducing_gap={self.reducing_gap})'
        )


def _override(kinds: list[dict], overrides: dict, what: str) -> None:
    """Change the kinds in place."""
    known = [
        *_PLAIN,
        *(f'local_{key}' for key in _PLAIN),
        'preset',
        'views',
        'num_local',
        'reducing_gap',
        'max_pixels',
    ]
    for key in sorted(overrides, key=lambda key: key.startswith('local_')):
        small = key.startswith('local_')
        name = key.removeprefix('local_')
        if name not in _PLAIN or name == 'local':
            raise ValueError(f'LoadViews has no argument {key!r}{nearest(key, known)}')
        chosen = [kind for kind in kinds if kind.get('local')] if small else kinds
        if not small and name in _GEOMETRY:
            chosen = [kind for kind in kinds if not kind.get('local')]
        if not chosen:
            raise ValueError(
                f'{"num_local" if key == "local_num" else key}={overrides[key]!r}: {what} has no such views'
            )
        if name == 'num' and len(chosen) > 1:
            raise ValueError(
                f'num={overrides[key]!r}: {what} has views of {len(chosen)} kinds; list them with views=[dict(num=...), ...]'
            )
        for kind in chosen:
            kind[name] = overrides[key]


def _jitter(strengths) -> list[tuple[str, float]]:
    if strengths is None:
        return []
    if len(strengths) != 4 or min(strengths) < 0 or strengths[3] > 0.5:
        raise ValueError(
            f'jitter={strengths!r} must be four strengths, of brightness, contrast, saturation (0 or more each) and hue '
            '(0 to 0.5), such as (0.4, 0.4, 0.4, 0.1)'
        )
    return [(name, strength) for name, strength in zip(_ADJUST, strengths, strict=True) if strength]


# Pillow cuts its results off where OpenCV rounds them: half a grey level less makes the two alike
_CUT = -0.498


def adjust_brightness(pixels: np.ndarray, factor: float) -> np.ndarray:
    """(H, W, 3) uint8 times ``factor``, clipped."""
    return cv2.convertScaleAbs(pixels, alpha=factor, beta=_CUT)


def adjust_contrast(pixels: np.ndarray, factor: float) -> np.ndarray:
    """(H, W, 3) uint8 away from (``factor`` above 1) or towards its mean grey."""
    blue, green, red, _ = cv2.mean(pixels)
    mean = int(0.114 * blue + 0.587 * green + 0.299 * red + 0.5)
    return cv2.addWeighted(pixels, factor, pixels, 0, (1 - factor) * mean + _CUT)


def adjust_saturation(pixels: np.ndarray, factor: float) -> np.ndarray:
    """(H, W, 3) uint8 BGR, each pixel away from (``factor`` above 1) or towards its own grey."""
    matrix = np.empty((3, 4), np.float32)
    matrix[:] = (0.114 * (1 - factor), 0.587 * (1 - factor), 0.299 * (1 - factor), _CUT)
    matrix[(0, 1, 2), (0, 1, 2)] += factor
    return cv2.transform(pixels, matrix)


def adjust_hue(pixels: np.ndarray, shift: float) -> np.ndarray:
    """(H, W, 3) uint8 BGR, hues turned by ``shift`` of a full circle, -0.5 to 0.5, in torchvision's steps of 1/255."""
    # in float: quicker than OpenCV's conversion of bytes, and without Pillow's rounding of hues to such steps
    hsv = cv2.cvtColor(pixels.astype(np.float32), cv2.COLOR_BGR2HSV)
    hsv[..., 0] += int(shift * 255) / 255 % 1 * 360
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR, dst=hsv))


def to_gray(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 BGR to its luma (ITU-R 601), three times."""
    return cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)


def gaussian_blur(pixels: np.ndarray, sigma: float) -> np.ndarray:
    """(H, W, 3) uint8 blurred as Pillow does it; beyond the border the edge goes on. ``sigma`` is taken in steps of 1/128 pixel."""
    if sigma > 4:  # multiples of 1/256 are too coarse for so wide a kernel
        return cv2.GaussianBlur(pixels, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
    kernel = _blur_kernel(max(round(sigma * 128), 1))
    return cv2.sepFilter2D(pixels, -1, kernel, kernel, borderType=cv2.BORDER_REPLICATE)


@functools.lru_cache(maxsize=1024)
def _blur_kernel(steps: int) -> np.ndarray:
    """Pillow's Gaussian: three box filters in a row, each with soft ends (Gwosdek et al., SSVM 2011), in multiples of 1/256.

    Such multiples OpenCV filters in whole numbers, in half the time of its own Gaussian.
    """
    variance = (steps / 128) ** 2 / 3
    radius = int((math.sqrt(12 * variance + 1) - 1) / 2)
    end = (2 * radius + 1) * (radius * (radius + 1) - 3 * variance) / (6 * (variance - (radius + 1) ** 2))
    box = np.array([end, *[1.0] * (2 * radius + 1), end]) / (2 * radius + 1 + 2 * end)
    kernel = np.rint(256 * np.convolve(np.convolve(box, box), box))
    kernel[len(kernel) // 2] += 256 - kernel.sum()
    return (kernel[kernel > 0] / 256).astype(np.float32)


def solarize(pixels: np.ndarray, threshold: int = 128) -> np.ndarray:
    """uint8 with the values from ``threshold`` on inverted."""
    if threshold == 128:
        return np.minimum(pixels, 255 - pixels)
    return np.where(pixels < threshold, pixels, 255 - pixels)


_ADJUST = {
    'brightness': adjust_brightness,
    'contrast': adjust_contrast,
    'saturation': adjust_saturation,
    'hue': adjust_hue,
}
