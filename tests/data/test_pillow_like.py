"""Color operations and blur against torchvision and Pillow."""

import numpy as np
import pytest
import torchvision.transforms.functional as tv
from PIL import Image, ImageFilter, ImageOps

from mmssl.data import pillow_like

skimage_data = pytest.importorskip('skimage.data')


@pytest.fixture(scope='module')
def colors(tmp_path_factory):
    """A real photograph after JPEG compression, (200, 300, 3) BGR."""
    path = tmp_path_factory.mktemp('photo') / 'coffee.jpg'
    Image.fromarray(skimage_data.coffee()).resize((300, 200)).save(path, quality=95)
    return np.ascontiguousarray(np.asarray(Image.open(path))[..., ::-1])


def pillow(pixels):
    return Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))


def differences(pixels, image):
    return np.abs(pixels.astype(int) - np.asarray(image)[..., ::-1])


@pytest.mark.parametrize('factor', [0.0, 0.2, 0.61, 1.0, 1.39, 1.8])
@pytest.mark.parametrize('name', ['brightness', 'contrast', 'saturation'])
def test_adjustments_equal_pillow_to_a_gray_level(colors, name, factor):
    difference = differences(
        getattr(pillow_like, f'adjust_{name}')(colors, factor),
        getattr(tv, f'adjust_{name}')(pillow(colors), factor),
    )
    assert difference.max() <= 1


@pytest.mark.parametrize('shift', [-0.5, -0.1, -0.003, 0.0, 0.05, 0.1, 0.4])
def test_hue_equals_pillow_to_its_rounding(colors, shift):
    # Pillow rounds hues to bytes, which is worth up to six levels in a saturated pixel
    difference = differences(pillow_like.adjust_hue(colors, shift), tv.adjust_hue(pillow(colors), shift))
    assert difference.mean() < 0.7 and np.percentile(difference, 95) <= 2 and difference.max() <= 7


def test_hue_turns_pure_colors():
    pure = np.array([[[0, 0, 255], [0, 255, 0], [255, 0, 0], [90, 90, 90]]], np.uint8)
    assert pillow_like.adjust_hue(pure, 1 / 3 + 1e-6).tolist() == [
        [[0, 255, 0], [255, 0, 0], [0, 0, 255], [90, 90, 90]]
    ]
    assert pillow_like.adjust_hue(pure, -1 / 3 - 1e-6).tolist() == [
        [[255, 0, 0], [0, 0, 255], [0, 255, 0], [90, 90, 90]]
    ]


@pytest.mark.parametrize('sigma', [0.1, 0.3, 0.5, 0.77, 1.0, 1.42, 2.0])
def test_blur_equals_pillow(colors, sigma):
    difference = differences(
        pillow_like.gaussian_blur(colors, sigma), pillow(colors).filter(ImageFilter.GaussianBlur(sigma))
    )
    # at the border Pillow continues the edge anew for each of its three passes
    assert (
        difference.mean() < 0.6 and np.percentile(difference, 99) <= 2 and difference[8:-8, 8:-8].max() <= 4
    )


def test_blur_keeps_the_brightness_and_has_its_sigma():
    flat = np.full((20, 20, 3), 201, np.uint8)
    for sigma in np.arange(0.1, 5, 0.05):
        assert (pillow_like.gaussian_blur(flat, sigma) == 201).all()
        kernel = pillow_like.blur_kernel(round(sigma * 128)).astype(float)
        offsets = np.arange(len(kernel)) - len(kernel) // 2
        assert kernel.sum() == 1 and (kernel == kernel[::-1]).all()
        assert sigma > 2 or abs((kernel * offsets**2).sum() ** 0.5 - sigma) < 0.05


def test_gray_and_solarize_equal_pillow(colors):
    assert differences(pillow_like.to_gray(colors), pillow(colors).convert('L').convert('RGB')).max() <= 1
    for threshold in (128, 90, 0, 256):
        assert (
            differences(
                pillow_like.solarize(colors, threshold), ImageOps.solarize(pillow(colors), threshold)
            ).max()
            == 0
        )
