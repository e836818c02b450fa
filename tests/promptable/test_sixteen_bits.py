"""Prompted segmentation of 16-bit images with a known range, and of stacks of which a page is chosen."""

import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from mmssl.apis import PromptInferencer
from mmssl.apis.sam import load_sam
from mmssl.cli import main
from mmssl.data.pictures import PictureSettings
from mmssl.demo_page.session import Session
from mmssl.errors import BadImageError

CONFIG = """
default_scope = 'mmpretrain'
model = dict(
    type='mmssl.SAM',
    image_encoder=dict(
        type='mmssl.SAMImageEncoder', img_size=64, embed_dim=32, depth=1, num_heads=2, out_chans=32,
        global_attn_indexes=(0, )),
    mask_decoder=dict(transformer=dict(num_heads=4, mlp_dim=64), iou_head_hidden_dim=32))
"""
LOOSE = ('--points-per-side', 2, '--pred-iou-thresh', 0, '--stability-score-thresh', 0, '--box-nms-thresh', 1)
RANGE = ('--value-range', '0,4080')
SETTINGS = PictureSettings(value_range=(0, 4080))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A photograph of 8 bits, 16 times its values in 16 bits, a stack of two pages, and five bands."""
    folder = tmp_path_factory.mktemp('sixteen')
    (folder / 'sam.py').write_text(CONFIG)
    torch.manual_seed(1)
    model = load_sam(str(folder / 'sam.py'), 'random')
    with torch.no_grad():
        model.mask_decoder.iou_prediction_head.layers[-1].bias.add_(1.0)
    torch.save(model.state_dict(), folder / 'sam.pth')
    pixels = np.random.default_rng(0).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    photo = np.asarray(Image.fromarray(pixels).resize((60, 40), Image.Resampling.BICUBIC))
    values = photo.astype(np.uint16) * 16
    Image.fromarray(photo).save(folder / 'photo.png')
    tifffile.imwrite(folder / 'wide.tif', values, photometric='rgb')
    tifffile.imwrite(folder / 'stack.tif', np.stack([4080 - values, values]), photometric='rgb')
    five = np.concatenate([np.zeros_like(values[..., :2]), values[..., ::-1]], axis=2)
    tifffile.imwrite(folder / 'five.tif', five, planarconfig='contig')
    return folder


def model_arguments(folder):
    return ['--model', str(folder / 'sam.py'), '--checkpoint', str(folder / 'sam.pth')]


def segment(folder, name, out, *more):
    arguments = ['segment', folder / name, '--box', '5,5,50,30', '--out', out, *more]
    return main([*map(str, arguments), *model_arguments(folder)])


@pytest.fixture(scope='module')
def expected(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp('eight')
    assert segment(folder, 'photo.png', out) == 0
    return np.asarray(Image.open(out / 'masks/photo/000.png'))


CASES = {
    'wide.tif': RANGE,
    'stack.tif': (*RANGE, '--page', 1),
    'five.tif': (*RANGE, '--bands', '4,3,2'),
}


@pytest.mark.parametrize('name', CASES)
def test_segment_gives_the_masks_of_eight_bits(folder, expected, tmp_path, name):
    assert segment(folder, name, tmp_path, *CASES[name]) == 0
    assert expected.any()
    assert np.array_equal(np.asarray(Image.open(next(tmp_path.glob('masks/*/000.png')))), expected)


REFUSED = {
    'wide.tif': 'values of 16 bits have no known range; give its range, as --value-range LOW,HIGH',
    'stack.tif': 'a TIFF of 2 pages; choose one, as --page 0',
    'five.tif': 'give its range, as --value-range LOW,HIGH',
}


@pytest.mark.parametrize('name', REFUSED)
def test_segment_names_the_missing_option(folder, tmp_path, capsys, name):
    assert segment(folder, name, tmp_path / 'out')
    message = capsys.readouterr().err
    assert REFUSED[name] in message and name in message
    assert not (tmp_path / 'out/masks').exists()


def test_five_bands_with_a_range_need_a_choice(folder, tmp_path, capsys):
    assert segment(folder, 'five.tif', tmp_path, *RANGE)
    assert 'has 5 channels; choose those to show, as --bands 2,1,0' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('option', 'message'),
    [
        (('--value-range', '5'), '--value-range 5: give LOW,HIGH'),
        (('--value-range', '9,3'), '--value-range 9,3: give LOW,HIGH'),
        (('--bands', '1,2'), '--bands 1,2: give three channels'),
        (('--page', '-1'), '--page -1 must be 0 or more'),
        (('--bands', '7'), '--bands 7: the images have 3 channels'),
    ],
)
def test_wrong_options(folder, tmp_path, capsys, option, message):
    assert segment(folder, 'wide.tif', tmp_path, *option)
    assert message in capsys.readouterr().err


def test_annotate(folder, tmp_path):
    for name in ('photo.png', 'wide.tif'):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes((folder / name).read_bytes())
    results = []
    for name in ('photo.png', 'wide.tif'):
        out = tmp_path / 'out' / name
        arguments = ['annotate', tmp_path / name, '--out', out, *RANGE, *LOOSE]
        assert main([*map(str, arguments), *model_arguments(folder)]) == 0
        (file,) = (path for path in out.glob('*.json') if path.stem in ('photo', 'wide'))
        results.append(json.loads(file.read_text())['annotations'])
    assert results[0]
    for first, second in zip(*results, strict=True):
        assert first['segmentation'] == second['segmentation']


def test_annotate_goes_on_only_with_the_same_range(folder, tmp_path, capsys):
    (tmp_path / 'in').mkdir()
    (tmp_path / 'in/wide.tif').write_bytes((folder / 'wide.tif').read_bytes())
    arguments = [
        *map(str, ('annotate', tmp_path / 'in', '--out', tmp_path / 'out', *LOOSE)),
        *model_arguments(folder),
    ]
    assert main([*arguments, *RANGE]) == 0
    assert main([*arguments, '--value-range', '0,1000'])
    assert 'value_range' in capsys.readouterr().err


def test_the_session_of_the_page(folder):
    model = load_sam(str(folder / 'sam.py'), str(folder / 'sam.pth'))
    with pytest.raises(BadImageError, match='--value-range'):
        Session(model).open(folder / 'wide.tif')
    with pytest.raises(BadImageError, match='--page'):
        Session(model, pictures=SETTINGS).open(folder / 'stack.tif')
    session = Session(model, pictures=SETTINGS._replace(page=1))
    session.open(folder / 'stack.tif')
    assert np.array_equal(session.image, np.asarray(Image.open(folder / 'photo.png')))


def test_the_inferencer(folder, expected):
    infer = PromptInferencer(str(folder / 'sam.py'), str(folder / 'sam.pth'), pictures=SETTINGS)
    (result,) = infer(str(folder / 'wide.tif'), prompts=dict(boxes=[(5, 5, 50, 30)]))
    assert np.array_equal(result['masks'][0], expected > 0)
