"""Views against torchvision, the distribution of their draws, and the presets against the papers."""

import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as tv
from mmengine.dataset import Compose, default_collate
from PIL import Image, ImageFilter, ImageOps

from mmssl.data import images, reader
from mmssl.data.folder import ImageFolder
from mmssl.data.images import BadImageError
from mmssl.data.view_specs import PRESETS, ViewSpec
from mmssl.data.views import LoadViews

skimage_data = pytest.importorskip('skimage.data')


@pytest.fixture(scope='module')
def photo(tmp_path_factory):
    """A real photograph as a JPEG, 300x200."""
    path = tmp_path_factory.mktemp('photo') / 'coffee.jpg'
    Image.fromarray(skimage_data.coffee()).resize((300, 200)).save(path, quality=95)
    return str(path)


def differences(pixels, image):
    return np.abs(pixels.astype(int) - np.asarray(image)[..., ::-1])


@pytest.mark.parametrize('preset', ['moco-v1', 'moco-v2', 'byol', 'dino'])
def test_a_whole_view_equals_torchvision(photo, preset, monkeypatch):
    drawn = []
    original = ViewSpec.draw

    def record(self, *arguments):
        drawn.append((self, original(self, *arguments)))
        return drawn[-1][1]

    monkeypatch.setattr(ViewSpec, 'draw', record)
    random.seed(4)
    transform = LoadViews(preset, scale=64, reducing_gap=None)
    source = Image.open(photo)
    for _ in range(6):
        drawn.clear()
        for view, (spec, draw) in zip(transform(dict(img_path=photo))['img'], drawn, strict=True):
            mode = Image.BICUBIC if spec.interpolation == 'bicubic' else Image.BILINEAR
            image = source.resize((spec.width, spec.height), mode, box=draw.box)
            image = tv.hflip(image) if draw.flip else image
            steps = [
                lambda image, name=name, value=value: getattr(tv, f'adjust_{name}')(image, value)
                for name, value in draw.jitter
            ]
            if draw.gray:
                steps.insert(
                    0 if preset == 'moco-v1' else len(steps), lambda image: tv.rgb_to_grayscale(image, 3)
                )
            for step in steps:
                image = step(image)
            if draw.sigma:
                image = image.filter(ImageFilter.GaussianBlur(draw.sigma))
            if draw.solarize:
                image = ImageOps.solarize(image)
            error = differences(view, image)
            # a level near the threshold of solarization may fall on its other side
            assert error.mean() < 2 and np.percentile(error, 90) <= 4, (spec.parameters, draw)


def test_everything_is_drawn_anew_for_each_view():
    spec = ViewSpec(
        jitter=(0.4, 0.3, 0.2, 0.1), jitter_prob=0.8, gray_prob=0.2, blur_prob=0.5, solarize_prob=0.1
    )
    count = 4000
    rng = random.Random(0)
    draws = [spec.draw(100, 80, rng) for _ in range(count)]
    for condition, expected in (
        (lambda draw: draw.flip, 0.5),
        (lambda draw: draw.jitter, 0.8),
        (lambda draw: draw.gray, 0.2),
        (lambda draw: draw.sigma, 0.5),
        (lambda draw: draw.solarize, 0.1),
    ):
        fraction = sum(bool(condition(draw)) for draw in draws) / count
        assert abs(fraction - expected) < 4 * (expected * (1 - expected) / count) ** 0.5
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
    assert len({draw.box for draw in draws}) > count / 2
    assert min(value for name, value in ViewSpec(jitter=(1.5, 0, 0, 0)).draw(9, 9, rng).jitter) >= 0


def test_presets_are_the_recipes():
    """Rows: num, scale, crop, interpolation, jitter, jitter_prob, gray_prob, blur_prob, solarize_prob."""
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
    assert set(expected) == {name for name in PRESETS if not name.endswith('-bands')}
    for name, specs in expected.items():
        parameters = [spec.parameters for spec in LoadViews(name).specs]
        assert [
            tuple(
                spec[key]
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
            for spec in parameters
        ] == specs, name
        assert all(
            (spec['flip_prob'], spec['blur_sigma'], spec['solarize_threshold'], spec['aspect_ratio_range'])
            == (0.5, (0.1, 2.0), 128, (3 / 4, 4 / 3))
            and spec['gray_first'] == (name == 'moco-v1')
            for spec in parameters
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
        (spec.num, spec.width, spec.jitter, spec.blur_prob, spec.crop_ratio_range) for spec in small.specs
    ] == [(1, 64, [], 0.25, (0.5, 1.0)), (1, 64, [], 0.25, (0.5, 1.0)), (4, 32, [], 0.75, (0.05, 0.4))]
    shapes = [view.shape for view in small(dict(img_path=photo))['img']]
    assert shapes == [(64, 64, 3)] * 2 + [(32, 32, 3)] * 4
    assert (
        LoadViews('dino').specs[0].jitter
        and len(LoadViews('dino', num_local=0)(dict(img_path=photo))['img']) == 2
    )
    rectangular = LoadViews(views=[dict(num=3, scale=(40, 20), interpolation='lanczos')])(
        dict(img_path=photo)
    )
    assert (
        [view.shape for view in rectangular['img']] == [(20, 40, 3)] * 3
        and rectangular['img_shape'] == (20, 40)
        and rectangular['ori_shape'] == (200, 300)
    )


@pytest.mark.parametrize(
    'arguments, message',
    [
        (dict(), 'presets are single, moco-v1'),
        (dict(preset='byol', views=[dict()]), 'takes either preset'),
        (dict(preset='bjol'), "'byol'"),
        (dict(preset='byol', jiter=None), "did you mean 'jitter'"),
        (dict(preset='dino', local_scal=3), "did you mean 'local_scale'"),
        (dict(views=[dict(blur_prop=1)]), "did you mean 'blur_prob'"),
        (dict(preset='byol', num_local=2), 'num_local=2.*no such views'),
        (dict(preset='byol', num=3), 'num=3.*2 types of view'),
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
            reader, name, lambda *args, name=name: calls.update([name]) or getattr(images, name)(*args)
        )
    LoadViews('swav')(dict(img_path=photo))
    assert calls == dict(open_image=1, decode=1)


def test_a_scaled_decode_looks_the_same(tmp_path):
    path = str(tmp_path / 'large.jpg')
    Image.fromarray(skimage_data.astronaut()).resize((1024, 768)).save(path, quality=95)
    image = Image.open(path)
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
            assert differences(view, image.crop(box).resize(view.shape[1::-1], Image.BICUBIC)).mean() < 2.5


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
def test_any_image_mode(tmp_path, photo, mode, side):
    path = str(tmp_path / ('a.jpg' if mode == 'CMYK' else 'a.png'))
    Image.open(photo).resize((side, side)).convert(mode).save(path)
    results = LoadViews('dino', scale=64, local_scale=32)(dict(img_path=path))
    assert [view.shape for view in results['img']] == [(64, 64, 3)] * 2 + [(32, 32, 3)] * 8
    assert all(view.dtype == np.uint8 for view in results['img'])


def test_only_pythons_generator_is_used_and_decides(photo):
    transform = LoadViews('byol', scale=32)
    numpy_state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    results = []
    for seed in (1, 1, 2):
        random.seed(seed)
        results.append(transform(dict(img_path=photo))['img'])
    assert all((first == second).all() for first, second in zip(results[0], results[1], strict=True))
    assert (results[0][0] != results[2][0]).any() and (results[0][0] != results[0][1]).any()
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
