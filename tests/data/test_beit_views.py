"""BEiT's two images of one crop against Pillow, draw by draw."""

import random

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from mmengine.dataset import Compose, default_collate
from PIL import Image

from mmssl.data.beit import LoadBEiTViews
from mmssl.data.crops import random_resized_box
from mmssl.data.images import BadImageError

skimage_data = pytest.importorskip('skimage.data')


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp('photo') / 'coffee.png'
    Image.fromarray(skimage_data.coffee()).resize((300, 200)).save(path)
    return str(path)


def load(photo, seed=0, **kwargs):
    random.seed(seed)
    return LoadBEiTViews(**kwargs)({'img_path': photo})


@pytest.mark.parametrize('seed', range(4))
def test_colors_change_before_the_crop_and_both_images_are_the_same_crop(photo, seed):
    results = load(photo, seed, scale=96, second_scale=48)
    random.seed(seed)
    box = random_resized_box(300, 200, (0.08, 1.0), (3 / 4, 4 / 3))
    flip = random.random() < 0.5
    changes = [(name, random.uniform(0.6, 1.4)) for name in ('brightness', 'contrast', 'saturation')]
    random.shuffle(changes)
    image = Image.open(photo).convert('RGB')
    for name, factor in changes:
        image = getattr(tv, f'adjust_{name}')(image, factor)
    assert results['crop_box'] == box and results['flip'] == flip and results['ori_shape'] == (200, 300)
    for view, size, resample in zip(
        results['img'], (96, 48), (Image.Resampling.BICUBIC, Image.Resampling.LANCZOS), strict=True
    ):
        expected = image.crop(box).resize((size, size), resample)
        expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else expected
        difference = np.abs(view[..., ::-1].astype(int) - np.asarray(expected))
        assert view.shape == (size, size, 3) and difference.max() <= 4 and difference.mean() < 1


def test_draws_are_those_of_the_recipe(photo):
    transform = LoadBEiTViews(scale=8, second_scale=None)
    random.seed(0)
    drawn = [transform({'img_path': photo}) for _ in range(300)]
    fractions = [(b[2] - b[0]) * (b[3] - b[1]) / 60000 for b in (results['crop_box'] for results in drawn)]
    assert (
        0.07 < min(fractions) < 0.13
        and max(fractions) > 0.75
        and abs(np.mean([results['flip'] for results in drawn]) - 0.5) < 0.1
    )
    assert all(len(results['img']) == 1 for results in drawn)


def test_a_batch_of_packed_views(photo):
    pipeline = Compose(
        [
            LoadBEiTViews(scale=(48, 32), second_scale=(24, 16), jitter=0, flip_prob=0),
            {'type': 'mmpretrain.PackInputs'},
        ]
    )
    batch = default_collate([pipeline({'img_path': photo}) for _ in range(3)])
    assert [tuple(view.shape) for view in batch['inputs']] == [(3, 3, 32, 48), (3, 3, 16, 24)]
    assert batch['inputs'][0].dtype == torch.uint8 and 'mask' not in batch['data_samples'][0]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (dict(scale=0), 'scale=0'),
        (dict(second_scale=-1), 'scale=-1'),
        (dict(jitter=2), 'jitter=2 must be a strength'),
        (dict(flip_prob=-1), 'flip_prob=-1'),
        (dict(interpolation='cubic'), "interpolation='cubic'"),
        (dict(reducing_gap=0.5), 'reducing_gap'),
    ],
)
def test_wrong_arguments_are_rejected(change, message):
    with pytest.raises(ValueError, match=message):
        LoadBEiTViews(**change)


def test_a_bad_file_is_named(tmp_path):
    (tmp_path / 'bad.jpg').write_bytes(b'no image')
    with pytest.raises(BadImageError, match=r'bad\.jpg'):
        load(str(tmp_path / 'bad.jpg'))
    assert 'LoadBEiTViews(224x224 bicubic, 112x112 lanczos' in repr(LoadBEiTViews())
