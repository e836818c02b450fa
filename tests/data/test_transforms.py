"""Crops: the distribution of the boxes, and the pixels against Pillow's crop and resize."""

import math
import random

import numpy as np
import pytest
import torch
import torchvision.transforms as tv
from mmengine.dataset import Compose
from PIL import Image, ImageOps

from mmssl.data.crops import random_resized_box
from mmssl.data.transforms import LoadCenterCrop, LoadRandomResizedCrop

skimage_data = pytest.importorskip('skimage.data')


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    """A real photograph as a JPEG, 600x400."""
    path = tmp_path_factory.mktemp('photo') / 'coffee.jpg'
    Image.fromarray(skimage_data.coffee()).save(path, quality=95)
    return path


def peak_signal_to_noise(first, second):
    return 10 * math.log10(255**2 / np.mean((first.astype(float) - second) ** 2))


@pytest.mark.parametrize(
    'width, height, scale', [(500, 375, (0.2, 1.0)), (64, 64, (0.08, 1.0)), (1000, 100, (0.3, 1.0))]
)
def test_boxes_are_distributed_as_in_torchvision(width, height, scale):
    rng = random.Random(0)
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    ratio = (3 / 4, 4 / 3)
    ours = np.array([random_resized_box(width, height, scale, ratio, rng) for _ in range(4000)], float)
    theirs = np.array(
        [
            (left, top, left + w, top + h)
            for top, left, h, w in (tv.RandomResizedCrop.get_params(image, scale, ratio) for _ in range(4000))
        ],
        float,
    )
    assert (ours[:, :2] >= 0).all() and (ours[:, 2] <= width).all() and (ours[:, 3] <= height).all()
    for column in range(4):
        # two-sample Kolmogorov-Smirnov distance; 0.1 % critical value for 4000 draws each is 0.0436
        grid = np.sort(np.concatenate([ours[:, column], theirs[:, column]]))
        distance = (
            np.abs(
                np.searchsorted(np.sort(ours[:, column]), grid, 'right')
                - np.searchsorted(np.sort(theirs[:, column]), grid, 'right')
            ).max()
            / 4000
        )
        assert distance < 0.0436, (column, distance)


def test_the_central_box_is_used_if_none_fits():
    assert random_resized_box(1000, 10, (0.9, 1.0), (3 / 4, 4 / 3)) == (493, 0, 506, 10)
    assert random_resized_box(10, 1000, (0.9, 1.0), (3 / 4, 4 / 3)) == (0, 493, 10, 506)
    assert random_resized_box(1, 1, (0.08, 0.1), (3 / 4, 4 / 3)) == (0, 0, 1, 1)


@pytest.mark.parametrize('orientation', [1, 3, 5, 6, 8])
@pytest.mark.parametrize('scale', [96, (128, 64)])
def test_full_decode_equals_pillow_crop_and_resize(tmp_path, photo, orientation, scale):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(photo).save(tmp_path / 'turned.jpg', quality=95, exif=exif)
    transform = LoadRandomResizedCrop(scale, reducing_gap=None)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / 'turned.jpg'))
    random.seed(orientation)
    for _ in range(5):
        results = transform(dict(img_path=str(tmp_path / 'turned.jpg')))
        size = (scale, scale) if isinstance(scale, int) else scale
        expected = np.asarray(upright.crop(results['crop_box']).resize(size, Image.BICUBIC))[..., ::-1]
        assert (
            results['ori_shape'] == upright.size[::-1]
            and results['img_shape'] == size[::-1] == results['img'].shape[:2]
        )
        difference = np.abs(results['img'].astype(int) - expected)
        # turned images are resized before they are turned: the passes round and clip in another order
        assert difference.mean() < 0.25 and difference.max() <= (2 if orientation == 1 else 8)


@pytest.mark.parametrize('orientation', [1, 2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize('gap, min_ratio', [(2.0, 43), (1.0, 33)])
def test_scaled_decode_looks_the_same(tmp_path, photo, orientation, gap, min_ratio):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.open(photo).save(tmp_path / 'turned.jpg', quality=95, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(tmp_path / 'turned.jpg'))
    random.seed(0)
    transform = LoadRandomResizedCrop(48, (0.5, 1.0), reducing_gap=gap)
    for _ in range(10):
        results = transform(dict(img_path=str(tmp_path / 'turned.jpg')))
        expected = np.asarray(upright.crop(results['crop_box']).resize((48, 48), Image.BICUBIC))[..., ::-1]
        assert peak_signal_to_noise(results['img'], expected) > min_ratio


def test_seed_decides_the_crop(photo):
    transform = LoadRandomResizedCrop(32)
    images = []
    for seed in (1, 1, 2):
        random.seed(seed)
        images.append(transform(dict(img_path=str(photo)))['img'])
    assert (images[0] == images[1]).all() and (images[0] != images[2]).any()


@pytest.mark.parametrize('width, height', [(600, 400), (400, 600), (64, 64), (37, 200), (1, 1)])
def test_center_crop_equals_torchvision(tmp_path, photo, width, height):
    Image.open(photo).resize((width, height), Image.BICUBIC).save(tmp_path / 'a.png')
    reference = tv.Compose([tv.Resize(128, interpolation=tv.InterpolationMode.BICUBIC), tv.CenterCrop(112)])
    expected = np.asarray(reference(Image.open(tmp_path / 'a.png').convert('RGB')))[..., ::-1]
    results = LoadCenterCrop(112, 112 / 128)(dict(img_path=str(tmp_path / 'a.png')))
    assert results['img'].shape == (112, 112, 3) and results['ori_shape'] == (height, width)
    difference = np.abs(results['img'].astype(int) - expected)
    # strong enlargement overshoots, and Pillow and torch clip between the passes in their own way
    assert difference.mean() < 0.1 and (difference.max() <= 2 or min(width, height) < 64)


def test_pipeline_ends_in_the_hosts_packing(photo):
    pytest.importorskip('mmpretrain')
    import mmpretrain.datasets  # noqa: F401

    pipeline = Compose(
        [
            dict(type='mmssl.LoadRandomResizedCrop', scale=32),
            dict(type='mmpretrain.RandomFlip', prob=1.0),
            dict(type='mmpretrain.PackInputs'),
        ]
    )
    random.seed(3)
    packed = pipeline(dict(img_path=str(photo), gt_label=4))
    random.seed(3)
    plain = LoadRandomResizedCrop(32)(dict(img_path=str(photo)))['img']
    assert packed['inputs'].dtype == torch.uint8 and packed['inputs'].is_contiguous()
    assert (packed['inputs'].numpy() == plain.transpose(2, 0, 1)[:, :, ::-1]).all()
    assert packed['data_samples'].gt_label.item() == 4 and packed['data_samples'].img_path == str(photo)


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(scale=0), 'scale=0'),
        (dict(scale=(1, 2, 3)), 'scale='),
        (dict(crop_ratio_range=(0.5, 0.2)), 'crop_ratio_range'),
        (dict(crop_ratio_range=(0.2, 1.5)), 'crop_ratio_range'),
        (dict(aspect_ratio_range=(0, 1)), 'aspect_ratio_range'),
        (dict(interpolation='bicubik'), 'bicubik'),
        (dict(reducing_gap=0.5), 'reducing_gap=0.5'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LoadRandomResizedCrop(**arguments)


def test_bad_center_crop_arguments_are_named():
    with pytest.raises(ValueError, match='ratio=1.5'):
        LoadCenterCrop(224, 1.5)
    with pytest.raises(ValueError, match='scale=-1'):
        LoadCenterCrop(-1)
