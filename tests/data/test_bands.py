"""Changes of each channel, and what refuses changes of colors for images that are not 8-bit RGB."""

import random

import numpy as np
import pytest
import tifffile
from PIL import Image

from mmssl.data.bands import BANDS, BandChanges, BandJitter
from mmssl.data.photometric import refuse_color_changes
from mmssl.data.view_specs import PRESETS, ViewSpec
from mmssl.data.views import LoadViews
from mmssl.engine.dataloader import build_dataloader


@pytest.fixture
def five_bands(tmp_path):
    """A TIFF (20, 24, 5) of uint16 from 0 to 4000."""
    path = tmp_path / 'five.tif'
    rows = np.arange(20 * 24 * 5, dtype=np.uint32).reshape(20, 24, 5)
    tifffile.imwrite(path, (rows * 4000 // rows.max()).astype(np.uint16), planarconfig='contig')
    return str(path)


def image(dtype=np.float32):
    return (np.random.default_rng(0).random((9, 7, 5)) * 255).astype(dtype)


@pytest.mark.parametrize('dtype', [np.float32, np.uint8])
def test_changes_are_the_formula(dtype):
    pixels = image(dtype)
    out = BandChanges(**BANDS)(pixels, np.random.default_rng(3))
    rng = np.random.default_rng(3)  # the same draws in the order of the docstring
    gamma, gain = np.exp(rng.uniform(-0.3, 0.3, 5)), rng.uniform(0.6, 1.4, 5)
    offset, dropped = rng.uniform(-0.1, 0.1, 5), rng.random(5) < 0.1
    dropped[rng.integers(5)] = False
    sigma = rng.uniform(0, 0.02)
    noise = rng.standard_normal((9, 7, 5), dtype=np.float32)
    expected = (pixels / 255.0) ** gamma * gain + offset + sigma * noise
    expected[..., dropped] = expected[..., dropped].mean((0, 1))
    expected = expected.clip(0, 1) * 255
    assert out.dtype == dtype
    assert np.abs(out - expected).max() < (0.51 if dtype == np.uint8 else 1e-3)


def test_dropped_channels_are_constant_and_one_is_never_dropped():
    constant = []
    for seed in range(40):
        out = BandChanges(dropout=1.0)(image(), np.random.default_rng(seed))
        constant.append(out.std((0, 1)) < 1e-3)
        assert np.allclose(out.mean((0, 1)), image().mean((0, 1)), atol=1e-2)
    assert (np.sum(constant, 1) == 4).all()
    assert np.all(constant, 0).sum() == 0  # each channel is the one that stays, some time


def test_no_change_without_strengths():
    assert np.array_equal(BandChanges()(image(np.uint8), np.random.default_rng(0)), image(np.uint8))


@pytest.mark.parametrize(
    'settings', [dict(gain=2), dict(offset=-1), dict(gamma=-1), dict(noise=-1), dict(dropout=1.5)]
)
def test_wrong_strengths(settings):
    name, value = next(iter(settings.items()))
    with pytest.raises(ValueError, match=f'{name}={value}'):
        BandJitter(**settings)


def test_jitter_is_drawn_from_python_and_changes_each_view():
    jitter = BandJitter(prob=1.0)

    def run(seed):
        random.seed(seed)
        return jitter(dict(img=[image(), image()]))['img']

    first, second = run(1)
    assert not np.array_equal(first, second)
    assert np.array_equal(first, run(1)[0])
    assert not np.array_equal(first, run(2)[0])


@pytest.mark.parametrize('name', [name for name in PRESETS if name.endswith('-bands')])
def test_presets_of_bands_keep_the_geometry(name, five_bands):
    expected = LoadViews(preset=name.removesuffix('-bands')).specs
    views = LoadViews(preset=name, channels=5, value_range=(0, 4000))
    for spec, original in zip(views.specs, expected, strict=True):
        assert spec.bands and not spec.jitter and not spec.gray_prob and not spec.solarize_prob
        assert (spec.num, spec.size, spec.crop_ratio_range) == (
            original.num,
            original.size,
            original.crop_ratio_range,
        )
    random.seed(0)
    loaded = views(dict(img_path=five_bands))['img']
    assert {(view.dtype.name, view.shape[2]) for view in loaded} == {('float32', 5)}
    assert not np.array_equal(loaded[0], loaded[1])


def test_views_without_bands_draw_as_before():
    def draws(**settings):
        rng = random.Random(0)
        return [ViewSpec(**settings).draw(50, 40, rng) for _ in range(5)]

    assert draws(**PRESETS['byol'][1]) == draws(**PRESETS['byol'][1], bands=None)


@pytest.mark.parametrize(
    'reading', [dict(value_range=(0, 4095)), dict(channels=5), dict(channels=(0, 1)), dict(pages='channels')]
)
def test_changes_of_colors_are_refused_before_an_image_is_read(reading):
    with pytest.raises(ValueError, match='jitter, gray: color changes are for .* take preset=moco-v2-bands'):
        LoadViews(preset='moco-v2', **reading)


def test_three_channels_of_eight_bits_may_change_colors(tmp_path):
    Image.fromarray(np.full((32, 32, 3), (200, 90, 10), np.uint8)).save(tmp_path / 'a.png')
    np.random.seed(0)
    views = LoadViews(preset='moco-v2', channels=3)(dict(img_path=str(tmp_path / 'a.png')))['img']
    assert [view.shape for view in views] == [(224, 224, 3)] * 2
    assert not np.array_equal(views[0][0, 0], views[1][0, 0]), 'colors of both views were changed'


def test_changes_of_channels_need_scaled_values():
    with pytest.raises(ValueError, match="value_range='raw'.*give the range to the loader"):
        LoadViews(preset='moco-v2-bands', value_range='raw')


FIVE = dict(type='mmssl.LoadImage', channels=5, value_range=(0, 4095))
REFUSED = {
    'mmseg': dict(type='PhotoMetricDistortion'),
    'mmdet': dict(type='mmdet.YOLOXHSVRandomAug'),
    'mmcv': dict(type='RandomGrayscale', prob=0.2),
    'torchvision': dict(type='torchvision/ColorJitter', brightness=0.4),
    'nested': dict(type='RandomApply', transforms=[dict(type='ColorJitter', hue=0.1)]),
    'policies by name': dict(type='RandAugment', policies='timm_increasing'),
    'policies by default': dict(type='mmdet.RandAugment'),
    'listed policies': dict(type='RandAugment', policies=[dict(type='Rotate'), dict(type='Solarize')]),
    'albumentations': dict(type='Albu', transforms=[dict(type='HueSaturationValue')]),
}


@pytest.mark.parametrize('step', REFUSED.values(), ids=REFUSED)
def test_transforms_of_colors_are_refused_before_the_data_set_is_built(step):
    dataset = dict(type='RepeatDataset', dataset=dict(type='NoSuchDataset', pipeline=[FIVE, step]))
    with pytest.raises(ValueError, match=r"changes the colors of 8-bit RGB.*dict\(type='mmssl.BandJitter'\)"):
        build_dataloader(dict(dataset=dataset, batch_size=1))


@pytest.mark.parametrize(
    ('loading', 'step'),
    [
        (dict(type='mmssl.LoadImage'), REFUSED['mmseg']),
        (dict(type='mmssl.LoadImage', channels=3), REFUSED['mmseg']),
        (FIVE, dict(type='RandAugment', policies=[dict(type='Rotate')])),
        (FIVE, dict(type='mmssl.BandJitter')),
        (FIVE, dict(type='RandomFlip', prob=0.5)),
    ],
)
def test_other_transforms_pass(loading, step):
    assert refuse_color_changes(dict(dataset=dict(pipeline=[loading, step]))) is None
