"""Views: every colour operation and whole views against torchvision and Pillow, what is drawn how often, presets against the recipes."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from mmengine.dataset import Compose, default_collate
from PIL import Image, ImageFilter, ImageOps

from mmssl.data import images, views
from mmssl.data.folder import ImageFolder
from mmssl.data.images import BadImageError
from mmssl.data.views import PRESETS, LoadViews, ViewKind

skimage_data = pytest.importorskip('skimage.data')


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    """A real photograph as a JPEG, 300x200."""
    path = tmp_path_factory.mktemp('photo') / 'coffee.jpg'
    Image.fromarray(skimage_data.coffee()).resize((300, 200)).save(path, quality=95)
    return str(path)


@pytest.fixture(scope='module')
def colours(photo):
    """The photograph, (200, 300, 3) BGR."""
    return np.ascontiguousarray(np.asarray(Image.open(photo))[..., ::-1])


def pillow(pixels):
    return Image.fromarray(np.ascontiguousarray(pixels[..., ::-1]))


def differences(pixels, picture):
    return np.abs(pixels.astype(int) - np.asarray(picture)[..., ::-1])


@pytest.mark.parametrize('factor', [0.0, 0.2, 0.61, 1.0, 1.39, 1.8])
@pytest.mark.parametrize('name', ['brightness', 'contrast', 'saturation'])
def test_strengths_equal_pillow_to_one_level(colours, name, factor):
    found = differences(
        getattr(views, f'adjust_{name}')(colours, factor),
        getattr(tv, f'adjust_{name}')(pillow(colours), factor),
    )
    assert found.max() <= 1


@pytest.mark.parametrize('shift', [-0.5, -0.1, -0.003, 0.0, 0.05, 0.1, 0.4])
def test_hue_equals_pillow_to_its_rounding(colours, shift):
    # Pillow rounds hues to bytes, which is worth up to six levels in a saturated pixel
    found = differences(views.adjust_hue(colours, shift), tv.adjust_hue(pillow(colours), shift))
    assert found.mean() < 0.7 and np.percentile(found, 95) <= 2 and found.max() <= 7


def test_hue_turns_pure_colours():
    pure = np.array([[[0, 0, 255], [0, 255, 0], [255, 0, 0], [90, 90, 90]]], np.uint8)
    assert views.adjust_hue(pure, 1 / 3 + 1e-6).tolist() == [
        [[0, 255, 0], [255, 0, 0], [0, 0, 255], [90, 90, 90]]
    ]
    assert views.adjust_hue(pure, -1 / 3 - 1e-6).tolist() == [
        [[255, 0, 0], [0, 0, 255], [0, 255, 0], [90, 90, 90]]
    ]


@pytest.mark.parametrize('sigma', [0.1, 0.3, 0.5, 0.77, 1.0, 1.42, 2.0])
def test_blur_equals_pillow(colours, sigma):
    found = differences(
        views.gaussian_blur(colours, sigma), pillow(colours).filter(ImageFilter.GaussianBlur(sigma))
    )
    # at the border Pillow continues the edge anew for each of its three passes
    assert found.mean() < 0.6 and np.percentile(found, 99) <= 2 and found[8:-8, 8:-8].max() <= 4


def test_blur_keeps_the_brightness_and_has_its_sigma():
    flat = np.full((20, 20, 3), 201, np.uint8)
    for sigma in np.arange(0.1, 5, 0.05):
        assert (views.gaussian_blur(flat, sigma) == 201).all()
        kernel = views._blur_kernel(round(sigma * 128)).astype(float)
        offsets = np.arange(len(kernel)) - len(kernel) // 2
        assert kernel.sum() == 1 and (kernel == kernel[::-1]).all()
        assert sigma > 2 or abs((kernel * offsets**2).sum() ** 0.5 - sigma) < 0.05


def test_gray_and_solarize_equal_pillow(colours):
    assert differences(views.to_gray(colours), pillow(colours).convert('L').convert('RGB')).max() <= 1
    for threshold in (128, 90, 0, 256):
        assert (
            differences(
                views.solarize(colours, threshold), ImageOps.solarize(pillow(colours), threshold)
            ).max()
            == 0
        )


@pytest.mark.parametrize('preset', ['moco-v1', 'moco-v2', 'byol', 'dino'])
def test_a_whole_view_equals_torchvision(photo, preset, monkeypatch):
    drawn = []
    original = ViewKind.draw

    def record(self, *arguments):
        drawn.append((self, original(self, *arguments)))
        return drawn[-1][1]

    monkeypatch.setattr(ViewKind, 'draw', record)
    random.seed(4)
    transform = LoadViews(preset, scale=64, reducing_gap=None)
    source = Image.open(photo)
    for _ in range(6):
        drawn.clear()
        for view, (kind, draw) in zip(transform(dict(img_path=photo))['img'], drawn, strict=True):
            mode = Image.BICUBIC if kind.interpolation == 'bicubic' else Image.BILINEAR
            picture = source.resize((kind.width, kind.height), mode, box=draw.box)
            picture = tv.hflip(picture) if draw.flip else picture
            steps = [
                lambda picture, name=name, value=value: getattr(tv, f'adjust_{name}')(picture, value)
                for name, value in draw.jitter
            ]
            if draw.gray:
                steps.insert(
                    0 if preset == 'moco-v1' else len(steps), lambda picture: tv.rgb_to_grayscale(picture, 3)
                )
            for step in steps:
                picture = step(picture)
            if draw.sigma:
                picture = picture.filter(ImageFilter.GaussianBlur(draw.sigma))
            if draw.solarize:
                picture = ImageOps.solarize(picture)
            found = differences(view, picture)
            # a level near the threshold of solarisation may fall on its other side
            assert found.mean() < 2 and np.percentile(found, 90) <= 4, (kind.parameters, draw)


def test_everything_is_drawn_anew_for_each_view():
    kind = ViewKind(
        jitter=(0.4, 0.3, 0.2, 0.1), jitter_prob=0.8, gray_prob=0.2, blur_prob=0.5, solarize_prob=0.1
    )
    number = 4000
    rng = random.Random(0)
    draws = [kind.draw(100, 80, rng) for _ in range(number)]
    for share, expected in (
        (lambda draw: draw.flip, 0.5),
        (lambda draw: draw.jitter, 0.8),
        (lambda draw: draw.gray, 0.2),
        (lambda draw: draw.sigma, 0.5),
        (lambda draw: draw.solarize, 0.1),
    ):
        found = sum(bool(share(draw)) for draw in draws) / number
        assert abs(found - expected) < 4 * (expected * (1 - expected) / number) ** 0.5
    jitters = [draw.jitter for draw in draws if draw.jitter]
    orders = Counter(tuple(name for name, _ in jitter) for jitter in jitters)
    assert set(orders) == set(itertools.permutations(('brightness', 'contrast', 'saturation', 'hue')))
    assert max(orders.values()) < 2 * min(orders.values())
    for name, low, high in (
        ('brightness', 0.6, 1.4),
        ('contrast', 0.7, 1.3),
        ('saturation', 0.8, 1.2),
        ('hue', -0.1, 0.1),
    ):
        values = np.array([dict(jitter)[name] for jitter in jitters])
        assert (
            values.min() >= low
            and values.max() <= high
            and abs((values.mean() - low) / (high - low) - 0.5) < 0.03
        )
        assert abs(values.std() / (high - low) - 12**-0.5) < 0.02
    sigmas = np.array([draw.sigma for draw in draws if draw.sigma])
    assert sigmas.min() >= 0.1 and sigmas.max() <= 2 and abs(sigmas.mean() - 1.05) < 0.06
    assert len({draw.box for draw in draws}) > number / 2
    assert min(value for name, value in ViewKind(jitter=(1.5, 0, 0, 0)).draw(9, 9, rng).jitter) >= 0


def test_presets_are_the_recipes():
    """(number, size, crop, interpolation, jitter, its probability, grey, blur, solarisation) as the papers and their code give them."""
    moco = (0.2, 1.0), 'bilinear'
    strong, weak = (0.8, 0.8, 0.8, 0.2), (0.4, 0.4, 0.2, 0.1)
    expected = {
        'single': [(1, 224, (0.2, 1.0), 'bicubic', None, 1.0, 0.0, 0.0, 0.0)],
        'moco-v1': [(2, 224, *moco, (0.4, 0.4, 0.4, 0.4), 1.0, 0.2, 0.0, 0.0)],
        'moco-v2': [(2, 224, *moco, (0.4, 0.4, 0.4, 0.1), 0.8, 0.2, 0.5, 0.0)],
        'moco-v3': [
            (1, 224, (0.08, 1.0), 'bilinear', weak, 0.8, 0.2, blur, sun)
            for blur, sun in ((1.0, 0.0), (0.1, 0.2))
        ],
        'simclr': [(2, 224, (0.08, 1.0), 'bilinear', strong, 0.8, 0.2, 0.5, 0.0)],
        'byol': [
            (1, 224, (0.08, 1.0), 'bicubic', weak, 0.8, 0.2, blur, sun)
            for blur, sun in ((1.0, 0.0), (0.1, 0.2))
        ],
        'swav': [
            (2, 224, (0.14, 1.0), 'bilinear', strong, 0.8, 0.2, 0.5, 0.0),
            (6, 96, (0.05, 0.14), 'bilinear', strong, 0.8, 0.2, 0.5, 0.0),
        ],
        'dino': [
            (1, 224, (0.4, 1.0), 'bicubic', weak, 0.8, 0.2, 1.0, 0.0),
            (1, 224, (0.4, 1.0), 'bicubic', weak, 0.8, 0.2, 0.1, 0.2),
            (8, 96, (0.05, 0.4), 'bicubic', weak, 0.8, 0.2, 0.5, 0.0),
        ],
    }
    assert set(expected) == set(PRESETS)
    for name, kinds in expected.items():
        found = [kind.parameters for kind in LoadViews(name).kinds]
        assert [
            tuple(
                kind[key]
                for key in (
                    'num',
                    'scale',
                    'crop_ratio_range',
                    'interpolation',
                    'jitter',
                    'jitter_prob',
                    'gray_prob',
                    'blur_prob',
                    'solarize_prob',
                )
            )
            for kind in found
        ] == kinds, name
        assert all(
            (kind['flip_prob'], kind['blur_sigma'], kind['solarize_threshold'], kind['aspect_ratio_range'])
            == (0.5, (0.1, 2.0), 128, (3 / 4, 4 / 3))
            and kind['gray_first'] == (name == 'moco-v1')
            for kind in found
        )


def test_overrides_reach_the_views_they_name(photo):
    small = LoadViews(
        'dino',
        scale=64,
        local_scale=32,
        num_local=4,
        jitter=None,
        blur_prob=0.25,
        local_blur_prob=0.75,
        crop_ratio_range=(0.5, 1.0),
    )
    assert [
        (kind.num, kind.width, kind.jitter, kind.blur_prob, kind.crop_ratio_range) for kind in small.kinds
    ] == [(1, 64, [], 0.25, (0.5, 1.0)), (1, 64, [], 0.25, (0.5, 1.0)), (4, 32, [], 0.75, (0.05, 0.4))]
    shapes = [view.shape for view in small(dict(img_path=photo))['img']]
    assert shapes == [(64, 64, 3)] * 2 + [(32, 32, 3)] * 4
    assert (
        LoadViews('dino').kinds[0].jitter
        and len(LoadViews('dino', num_local=0)(dict(img_path=photo))['img']) == 2
    )
    wide = LoadViews(views=[dict(num=3, scale=(40, 20), interpolation='lanczos')])(dict(img_path=photo))
    assert (
        [view.shape for view in wide['img']] == [(20, 40, 3)] * 3
        and wide['img_shape'] == (20, 40)
        and wide['ori_shape'] == (200, 300)
    )


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(), 'presets are single, moco-v1'),
        (dict(preset='byol', views=[dict()]), 'one of them'),
        (dict(preset='bjol'), "'byol'"),
        (dict(preset='byol', jiter=None), "did you mean 'jitter'"),
        (dict(preset='dino', local_scal=3), "did you mean 'local_scale'"),
        (dict(views=[dict(blur_prop=1)]), "did you mean 'blur_prob'"),
        (dict(preset='byol', num_local=2), 'num_local=2.*no such views'),
        (dict(preset='byol', num=3), 'num=3.*2 kinds'),
        (dict(views=[]), 'no view'),
        (dict(preset='byol', scale=0), 'scale=0'),
        (dict(preset='byol', flip_prob=2), 'flip_prob=2'),
        (dict(preset='byol', jitter=(0.4, 0.4)), 'four strengths'),
        (dict(preset='byol', jitter=(0.4, 0.4, 0.4, 0.6)), 'hue'),
        (dict(preset='byol', blur_sigma=(0, 2)), 'blur_sigma'),
        (dict(preset='byol', solarize_threshold=300), 'solarize_threshold=300'),
        (dict(preset='byol', reducing_gap=0.5), 'reducing_gap=0.5'),
        (dict(preset='byol', interpolation='bicubik'), 'bicubik'),
        (dict(preset='swav', num=-1), 'num=-1'),
        (dict(views=[dict(local=1, num=0)]), 'no view'),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        LoadViews(**arguments)


def test_the_file_is_read_and_decoded_once(photo, monkeypatch):
    calls = Counter()
    for name in ('open_image', 'decode'):
        monkeypatch.setattr(
            views, name, lambda *args, name=name: calls.update([name]) or getattr(images, name)(*args)
        )
    LoadViews('swav')(dict(img_path=photo))
    assert calls == dict(open_image=1, decode=1)


def test_a_scaled_decode_looks_the_same(tmp_path):
    path = str(tmp_path / 'large.jpg')
    Image.fromarray(skimage_data.astronaut()).resize((1024, 768)).save(path, quality=95)
    picture = Image.open(path)
    transform = LoadViews(
        views=[
            dict(num=2, scale=64, crop_ratio_range=(0.5, 1.0), flip_prob=0),
            dict(num=2, scale=32, flip_prob=0),
        ]
    )
    random.seed(0)
    for _ in range(5):
        results = transform(dict(img_path=path))
        assert all(edge % 4 == 0 for box in results['crop_boxes'] for edge in box)
        for view, box in zip(results['img'], results['crop_boxes'], strict=True):
            assert differences(view, picture.crop(box).resize(view.shape[1::-1], Image.BICUBIC)).mean() < 2.5


@pytest.mark.parametrize('orientation', [1, 2, 3, 4, 5, 6, 7, 8])
def test_views_stand_upright(tmp_path, photo, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = str(tmp_path / 'turned.jpg')
    Image.open(photo).save(path, quality=95, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(path))
    random.seed(orientation)
    transform = LoadViews(
        views=[dict(num=2, scale=(48, 32), flip_prob=0), dict(scale=24, flip_prob=1)], reducing_gap=None
    )
    results = transform(dict(img_path=path))
    for number, (view, box) in enumerate(zip(results['img'], results['crop_boxes'], strict=True)):
        expected = upright.crop(box).resize(view.shape[1::-1], Image.BICUBIC)
        assert differences(view, ImageOps.mirror(expected) if number == 2 else expected).mean() < 0.3


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'CMYK', 'P', '1'])
@pytest.mark.parametrize('side', [1, 64])
def test_any_kind_of_image(tmp_path, photo, mode, side):
    path = str(tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png'))
    Image.open(photo).resize((side, side)).convert(mode).save(path)
    results = LoadViews('dino', scale=64, local_scale=32)(dict(img_path=path))
    assert [view.shape for view in results['img']] == [(64, 64, 3)] * 2 + [(32, 32, 3)] * 8
    assert all(view.dtype == np.uint8 for view in results['img'])


def test_only_pythons_generator_is_used_and_decides(photo):
    transform = LoadViews('byol', scale=32)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    found = []
    for seed in (1, 1, 2):
        random.seed(seed)
        found.append(transform(dict(img_path=photo))['img'])
    assert all((one == other).all() for one, other in zip(found[0], found[1], strict=True))
    assert (found[0][0] != found[2][0]).any() and (found[0][0] != found[0][1]).any()
    assert (np.random.get_state()[1] == numpy_state).all() and torch.equal(torch.get_rng_state(), torch_state)


def test_pipeline_reaches_the_model(photo):
    pytest.importorskip('mmpretrain')
    import mmpretrain.datasets  # noqa: F401
    from mmpretrain.models import SelfSupDataPreprocessor

    arguments = dict(preset='swav', scale=32, local_scale=16, num_local=3)
    pipeline = Compose([dict(type='mmssl.LoadViews', **arguments), dict(type='mmpretrain.PackInputs')])
    random.seed(3)
    packed = [pipeline(dict(img_path=photo, gt_label=number)) for number in range(2)]
    random.seed(3)
    plain = [LoadViews(**arguments)(dict(img_path=photo))['img'] for _ in range(2)]
    assert all(
        view.dtype == torch.uint8 and view.is_contiguous() for sample in packed for view in sample['inputs']
    )
    batch = SelfSupDataPreprocessor(mean=[1, 2, 3], std=[4, 5, 6], to_rgb=True)(default_collate(packed))
    assert [tuple(view.shape) for view in batch['inputs']] == [(2, 3, 32, 32)] * 2 + [(2, 3, 16, 16)] * 3
    assert [sample.gt_label.item() for sample in batch['data_samples']] == [0, 1]
    for number, view in enumerate(batch['inputs']):
        for row in range(2):
            expected = (plain[row][number][..., ::-1].astype(np.float32) - (1, 2, 3)) / (4, 5, 6)
            assert np.allclose(view[row].numpy().transpose(1, 2, 0), expected, atol=1e-5)


def test_bad_files_are_named_and_skipped(tmp_path, photo):
    pipeline = [dict(type='mmssl.LoadViews', preset='byol', scale=16)]
    (tmp_path / 'empty.jpg').write_bytes(b'')
    with open(photo, 'rb') as file:
        whole = file.read()
    (tmp_path / 'cut.jpg').write_bytes(whole[: len(whole) // 2])
    for name in ('empty.jpg', 'cut.jpg'):
        with pytest.raises(BadImageError, match=name):
            LoadViews('byol')(dict(img_path=str(tmp_path / name)))
    (tmp_path / 'whole.jpg').write_bytes(whole)
    dataset = ImageFolder(data_root=str(tmp_path), pipeline=pipeline)
    assert len(dataset) == 3
    for index in range(3):
        assert [view.shape for view in dataset[index]['img']] == [(16, 16, 3)] * 2
