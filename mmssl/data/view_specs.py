"""Augmentations of views: parameters of a type of view, its random draws, and the presets of the methods."""

import math
import random
from typing import NamedTuple

import cv2
import numpy as np

from mmssl.data.arguments import check_interpolation, check_probability, check_range, check_size
from mmssl.data.bands import BANDS, BandChanges
from mmssl.data.crops import random_resized_box
from mmssl.data.images import planar
from mmssl.data.pillow_like import ADJUSTMENTS, gaussian_blur, solarize, to_gray
from mmssl.hints import nearest

DEFAULTS = dict(
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
    bands=None,
    bands_prob=1.0,
    local=False,
)
# what turns each color change off
_OFF = {'jitter': 'jitter=None', 'gray': 'gray_prob=0', 'solarize': 'solarize_prob=0'}
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

# name -> types of view, as in the released code of each method (BYOL: as in its paper, appendix B)
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


def _of_bands(view: dict) -> dict:
    """Return a type of view with changes of each channel by itself in place of changes of colors."""
    colors = ('jitter', 'jitter_prob', 'gray_prob', 'gray_first', 'solarize_prob')
    unchanged = {key: value for key, value in view.items() if key not in colors}
    return dict(unchanged, bands=BANDS, bands_prob=view.get('jitter_prob', 1.0))


# for images that are not 8-bit RGB, of any number of channels
PRESETS.update(
    {
        f'{name}-bands': [_of_bands(view) for view in views]
        for name, views in PRESETS.items()
        if name != 'single'
    }
)


class ViewDraw(NamedTuple):
    """Everything random about one view.

    Attributes:
        box: Left, top, right, bottom of the crop.
        flip: Whether the view is flipped horizontally.
        jitter: (name, value) of the color adjustments in the order of application.
        gray: Whether the view is gray.
        sigma: Standard deviation of the blur; 0 for no blur.
        solarize: Whether the view is solarized.
        bands: Seed of the changes of each channel; None for no change.
    """

    box: tuple[int, int, int, int]
    flip: bool
    jitter: list[tuple[str, float]]
    gray: bool
    sigma: float
    solarize: bool
    bands: int | None = None


class ViewSpec:
    """Checked parameters of one type of view; draws such views and applies their augmentations.

    Args:
        num: Number of views of this type.
        scale: Size of the view: one number, or (width, height).
        crop_ratio_range: Smallest and largest fraction of the image's area.
        aspect_ratio_range: Smallest and largest width / height of the crop.
        interpolation: 'bicubic', 'bilinear' or 'lanczos'.
        flip_prob: Probability of a horizontal flip.
        jitter: Strengths of brightness, contrast, saturation and hue, as in torchvision's ColorJitter, or
            None.
        jitter_prob: Probability of the jitter.
        gray_prob: Probability of conversion to gray.
        gray_first: Convert to gray before the jitter (MoCo v1) instead of after it.
        blur_prob: Probability of a Gaussian blur.
        blur_sigma: Smallest and largest standard deviation of the blur in pixels.
        solarize_prob: Probability of solarization: values from ``solarize_threshold`` on are inverted.
        solarize_threshold: Threshold in [0, 256].
        bands: Arguments of :class:`mmssl.data.bands.BandChanges`, changes of each channel by itself, or None.
        bands_prob: Probability of these changes.
        local: Whether this is a small view, to which overrides with the prefix ``local_`` apply.
    """

    flip_prob: float
    jitter_prob: float
    gray_prob: float
    blur_prob: float
    solarize_prob: float
    bands_prob: float

    def __init__(self, **parameters):
        for key in parameters:
            if key not in DEFAULTS:
                raise ValueError(
                    f'a view has no {key!r}{nearest(key, DEFAULTS)}; it takes {", ".join(DEFAULTS)}'
                )
        parameters = {**DEFAULTS, **parameters}
        self.parameters = parameters
        self.num = parameters['num']
        self.local = parameters['local']
        self.gray_first = parameters['gray_first']
        if not isinstance(self.num, int) or self.num < 0:
            raise ValueError(f'num={self.num!r} must be a number of views, 0 or more')
        self.width, self.height = check_size(parameters['scale'])
        self.crop_ratio_range = check_range('crop_ratio_range', parameters['crop_ratio_range'], 1.0)
        self.aspect_ratio_range = check_range(
            'aspect_ratio_range', parameters['aspect_ratio_range'], math.inf
        )
        self.blur_sigma = check_range('blur_sigma', parameters['blur_sigma'], math.inf)
        self.interpolation = check_interpolation(parameters['interpolation'])
        self.jitter = _check_jitter(parameters['jitter'])
        self.bands = BandChanges(**parameters['bands']) if parameters['bands'] else None
        for key in ('flip_prob', 'jitter_prob', 'gray_prob', 'blur_prob', 'solarize_prob', 'bands_prob'):
            setattr(self, key, check_probability(key, parameters[key]))
        self.solarize_threshold = parameters['solarize_threshold']
        if not 0 <= self.solarize_threshold <= 256:
            raise ValueError(f'solarize_threshold={self.solarize_threshold!r} must be in [0, 256]')

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of a view."""
        return self.width, self.height

    def draw(self, width: int, height: int, rng=random) -> ViewDraw:
        """Draw the augmentations of one view.

        Args:
            width: Width of the image in pixels.
            height: Height of the image in pixels.
            rng: The module ``random`` or a ``random.Random``.
        """
        box = random_resized_box(width, height, self.crop_ratio_range, self.aspect_ratio_range, rng)
        flip = rng.random() < self.flip_prob
        jitter = self._draw_jitter(rng) if self.jitter and rng.random() < self.jitter_prob else []
        gray = rng.random() < self.gray_prob
        sigma = rng.uniform(*self.blur_sigma) if rng.random() < self.blur_prob else 0.0
        solarized = rng.random() < self.solarize_prob
        bands = rng.getrandbits(64) if self.bands and rng.random() < self.bands_prob else None
        return ViewDraw(box, flip, jitter, gray, sigma, solarized, bands)

    def _draw_jitter(self, rng) -> list[tuple[str, float]]:
        jitter = []
        for name, strength in self.jitter:
            low, high = (-strength, strength) if name == 'hue' else (max(0.0, 1 - strength), 1 + strength)
            jitter.append((name, rng.uniform(low, high)))
        rng.shuffle(jitter)
        return jitter

    def refuse_color_changes(self, images: str, preset: str | None = None) -> None:
        """Check that the views can be made of images that are not 8-bit RGB.

        Args:
            images: What the images are, for the message.
            preset: Preset of the views.

        Raises:
            ValueError: A view changes colors.
        """
        changes = [name for name, active in self._color_changes() if active]
        if changes:
            off = ', '.join(_OFF[name] for name in changes)
            other = (
                f'preset={preset}-bands' if f'{preset}-bands' in PRESETS else 'bands=mmssl.data.bands.BANDS'
            )
            raise ValueError(
                f'{", ".join(changes)}: color changes are for images of 8-bit RGB, not for {images}; take '
                f'{other}, which changes each channel by itself, or {off}'
            )

    def _color_changes(self) -> list[tuple[str, bool]]:
        return [
            ('jitter', bool(self.jitter and self.jitter_prob)),
            ('gray', self.gray_prob > 0),
            ('solarize', self.solarize_prob > 0),
        ]

    def augment(self, pixels: np.ndarray, draw: ViewDraw) -> np.ndarray:
        """Apply flip, colors, blur and solarization to a crop of the final size.

        Args:
            pixels: (H, W, 3) uint8 BGR, or (H, W, C) of uint8 or float32 for views without color changes; not
                modified.
            draw: The augmentations, from :meth:`draw`.

        Returns:
            (H, W, C), of the type of ``pixels``, with planar memory layout.

        Raises:
            ValueError: The views change colors, and the image is not 8-bit RGB.
        """
        if pixels.dtype != np.uint8 or pixels.shape[2] != 3:
            self.refuse_color_changes(f'{pixels.shape[2]} channels of {pixels.dtype}')
            return self._augment_values(pixels, draw)
        pixels = cv2.flip(pixels, 1) if draw.flip else np.ascontiguousarray(pixels)
        if draw.gray and self.gray_first:
            pixels = to_gray(pixels)
        for name, value in draw.jitter:
            pixels = ADJUSTMENTS[name](pixels, value)
        if draw.gray and not self.gray_first:
            pixels = to_gray(pixels)
        pixels = self._change_bands(pixels, draw)
        if draw.sigma:
            pixels = gaussian_blur(pixels, draw.sigma)
        if draw.solarize:
            pixels = solarize(pixels, self.solarize_threshold)
        return planar(pixels)

    def _augment_values(self, pixels: np.ndarray, draw: ViewDraw) -> np.ndarray:
        pixels = np.ascontiguousarray(pixels[:, ::-1] if draw.flip else pixels)
        pixels = self._change_bands(pixels, draw)
        if draw.sigma:  # OpenCV filters at most four channels at once
            blurred = [
                gaussian_blur(np.ascontiguousarray(band), draw.sigma) for band in pixels.transpose(2, 0, 1)
            ]
            return np.stack(blurred).transpose(1, 2, 0)
        return planar(pixels)

    def _change_bands(self, pixels: np.ndarray, draw: ViewDraw) -> np.ndarray:
        if self.bands is None or draw.bands is None:
            return pixels
        return self.bands(pixels, np.random.default_rng(draw.bands))


def _check_jitter(strengths) -> list[tuple[str, float]]:
    """Return (name, strength) of the adjustments whose strength is above 0."""
    if strengths is None:
        return []
    if len(strengths) != 4 or min(strengths) < 0 or strengths[3] > 0.5:
        raise ValueError(
            f'jitter={strengths!r} must be four strengths: brightness, contrast, saturation (0 or more), '
            'hue (0 to 0.5), such as (0.4, 0.4, 0.4, 0.1)'
        )
    return [(name, strength) for name, strength in zip(ADJUSTMENTS, strengths, strict=True) if strength]
