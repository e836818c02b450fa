"""Photometric augmentation of each channel by itself, for images of any number of channels."""

import math
import random

import numpy as np
from mmcv.transforms import BaseTransform

from mmssl.data.arguments import check_probability
from mmssl.registry import TRANSFORMS

# of presets of views and of configs; moderate, as recorded bands differ less than the colors of photographs
BANDS = dict(gain=0.4, offset=0.1, gamma=0.3, noise=0.02, dropout=0.1)


class BandChanges:
    r"""Random gain, offset, gamma, noise and dropout of each channel of an image from 0 to 255.

    With x in [0, 1] for the values of channel c, draws for each channel, and n for each pixel

    .. math::
        x &\leftarrow x^{\gamma_c}, & \ln \gamma_c &\sim U(-\text{gamma}, \text{gamma}) \\
        x &\leftarrow a_c x + b_c, & a_c &\sim U(1 - \text{gain}, 1 + \text{gain}),
            \; b_c \sim U(-\text{offset}, \text{offset}) \\
        x &\leftarrow x + \sigma n, & n &\sim N(0, 1), \; \sigma \sim U(0, \text{noise}) \\
        x &\leftarrow \text{mean}(x) & &\text{with probability dropout}

    and the result is clipped to [0, 1]. One channel, drawn at random, is never dropped.

    Args:
        gain: Largest change of the factor, in [0, 1].
        offset: Largest offset, as a fraction of the range of values.
        gamma: Largest logarithm of the exponent.
        noise: Largest standard deviation of the noise, as a fraction of the range of values.
        dropout: Probability that a channel becomes constant, in [0, 1].
    """

    def __init__(
        self,
        gain: float = 0.0,
        offset: float = 0.0,
        gamma: float = 0.0,
        noise: float = 0.0,
        dropout: float = 0.0,
    ):
        if not 0 <= gain <= 1:
            raise ValueError(f'gain={gain!r} must be in [0, 1], such as {BANDS["gain"]}')
        for name, value in (('offset', offset), ('gamma', gamma), ('noise', noise)):
            if not 0 <= value < math.inf:
                raise ValueError(f'{name}={value!r} must be 0 or more, such as {BANDS[name]}')
        self.gain = gain
        self.offset = offset
        self.gamma = gamma
        self.noise = noise
        self.dropout = check_probability('dropout', dropout)

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Change an image.

        Args:
            pixels: (H, W, C) uint8, or float32 from 0 to 255; not modified.
            rng: Generator of the draws.

        Returns:
            (H, W, C), of the type of ``pixels``.
        """
        count = pixels.shape[2]
        gamma = np.exp(rng.uniform(-self.gamma, self.gamma, count)).astype(np.float32)
        gain = rng.uniform(1 - self.gain, 1 + self.gain, count).astype(np.float32)
        offset = rng.uniform(-self.offset, self.offset, count).astype(np.float32)
        dropped = rng.random(count) < self.dropout
        dropped[rng.integers(count)] = False
        values = pixels.astype(np.float32) / 255
        if self.gamma:
            np.power(values, gamma, out=values)
        values *= gain
        values += offset
        if self.noise:
            sigma = np.float32(rng.uniform(0, self.noise))
            values += sigma * rng.standard_normal(values.shape, dtype=np.float32)
        if dropped.any():
            values[..., dropped] = values[..., dropped].mean(axis=(0, 1))
        values = np.clip(values, 0, 1) * np.float32(255)
        return np.rint(values).astype(np.uint8) if pixels.dtype == np.uint8 else values


def draw_generator(rng=random) -> np.random.Generator:
    """Return a generator of NumPy that is seeded by one draw of Python's ``random``."""
    return np.random.default_rng(rng.getrandbits(64))


@TRANSFORMS.register_module()
class BandJitter(BaseTransform):
    """Change each channel of an image by itself: the color jitter of images that are not 8-bit RGB.

    It follows the loader transform in pipelines of all toolboxes; the formula is that of
    :class:`BandChanges`. The values are from 0 to 255: float32 that a ``value_range`` has scaled, or uint8.
    All draws come from Python's global ``random``.

    Required keys: ``img``, (H, W, C), or a list of such images, each of which has its own draws. Modified
    keys: ``img``.

    Args:
        prob: Probability of the change.
        gain: As in :class:`BandChanges`, and so are the following.
        offset: As a fraction of the range of values.
        gamma: Largest logarithm of the exponent.
        noise: As a fraction of the range of values.
        dropout: Probability that a channel becomes constant.
    """

    def __init__(
        self,
        prob: float = 0.8,
        gain: float = BANDS['gain'],
        offset: float = BANDS['offset'],
        gamma: float = BANDS['gamma'],
        noise: float = BANDS['noise'],
        dropout: float = BANDS['dropout'],
    ):
        self.prob = check_probability('prob', prob)
        self.changes = BandChanges(gain, offset, gamma, noise, dropout)

    def transform(self, results: dict) -> dict:
        """Change ``results['img']``."""
        images = results['img']
        if isinstance(images, list):
            results['img'] = [self._change(image) for image in images]
        else:
            results['img'] = self._change(images)
        return results

    def _change(self, pixels: np.ndarray) -> np.ndarray:
        return self.changes(pixels, draw_generator()) if random.random() < self.prob else pixels

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, {vars(self.changes)})'
