"""``mmssl visualize``: whole commands and what it rejects."""

import numpy as np
import pytest
import torch
from PIL import Image

import mmssl.registry  # noqa: F401  stands in for compiled operators of mmcv
from mmssl.cli import main

pytest.importorskip('mmdet')

CONFIG = """
_base_ = 'mmssl::smoke/rfcn.py'
model = dict(backbone=dict(type='mmssl.DeformResNet', deform_blocks=(0, 0, 0, 2)))
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A config of a small deformable R-FCN, a checkpoint whose weights are drawn, and an image."""
    from mmssl.apis.loading import build_model

    folder = tmp_path_factory.mktemp('visualize')
    (folder / 'rfcn.py').write_text(CONFIG)
    model, _ = build_model(str(folder / 'rfcn.py'), 'random')
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'conv_offset' in name or 'rfcn' in name:
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator))
    torch.save(
        dict(
            state_dict=model.state_dict(),
            meta=dict(dataset_meta=dict(classes=[f'digit_{n}' for n in range(10)])),
        ),
        folder / 'rfcn.pth',
    )
    pixels = np.random.default_rng(0).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((320, 240)).save(folder / 'image.png')
    return folder


def visualize(folder, what, *more, out='out.png'):
    arguments = [
        what,
        folder / 'rfcn.py',
        folder / 'rfcn.pth',
        folder / 'image.png',
        '--out',
        folder / out,
        *more,
    ]
    return main(['visualize', *map(str, arguments)])


def test_whole_commands(folder, capsys):
    assert visualize(folder, 'detections', '--score-thr', 0.0) == 0, capsys.readouterr().err
    assert '1 images, ' in capsys.readouterr().out
    assert Image.open(folder / 'out.png').size == (640 + 16, 480 + 16)
    assert (
        visualize(folder, 'scores', '--class', 'digit_3', '--box', 100, 40, 200, 160, out='scores.png') == 0
    ), capsys.readouterr().err
    assert '3 x 3 score maps of digit_3, the given box' in capsys.readouterr().out
    assert visualize(folder, 'scores', out='best.png') == 0
    assert (
        visualize(
            folder, 'sampling', '--point', 160, 120, '--point', 20, 20, '--levels', 3, out='sampling.png'
        )
        == 0
    )
    assert '2 points, backbone.layer4.1.conv2' in capsys.readouterr().out
    assert visualize(folder, 'sampling', '--layer', 'backbone.layer4.0.conv2', out='default.png') == 0
    assert {path.name for path in folder.glob('*.png')} == {
        'image.png',
        'out.png',
        'scores.png',
        'best.png',
        'sampling.png',
        'default.png',
    }
    assert min(np.asarray(Image.open(folder / 'sampling.png')).std(axis=(0, 1))) > 10


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            ['scores', '--class', 'digit_33'],
            r"--class 'digit_33' is none of digit_0, .*did you mean 'digit_3'",
        ),
        (['scores', '--box', 9, 9, 9, 20], 'has no area'),
        (['sampling', '--point', 400, 20], '--point 400 20 is outside of the image'),
        (
            ['sampling', '--layer', 'backbone.layer4.1.conv1'],
            "is no deformable convolution; did you mean 'backbone.layer4.1.conv2'",
        ),
        (['sampling', '--levels', 0], '--levels 0 must be at least 1'),
        (['detections', '--cfg-options', 'default_scope=mmseg'], 'is of no detector'),
        (
            ['sampling', '--cfg-options', 'model.backbone.deform_blocks=(0,0,0,0)'],
            'is not the checkpoint of this model|no deformable',
        ),
    ],
)
def test_what_it_refuses(folder, arguments, message, capsys):
    import re

    assert visualize(folder, *arguments, out='refused.png') == 1
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (folder / 'refused.png').exists()


def test_other_refusals(folder, capsys, tmp_path):
    image, config, weights = folder / 'image.png', folder / 'rfcn.py', folder / 'rfcn.pth'
    for arguments, message in (
        (
            ['scores', config, weights, image, image, '--out', tmp_path / 'x.png'],
            'visualize scores takes one image, not 2',
        ),
        (
            ['detections', config, weights, folder / 'imag.png', '--out', tmp_path / 'x.png'],
            'imag.png does not exist',
        ),
        (['detections', config, weights, image, '--out', tmp_path / 'x.txt'], 'a name that ends in .png'),
        (
            ['detections', config, weights, config, '--out', tmp_path / 'x.png'],
            'rfcn.py: no known image format',
        ),
    ):
        assert main(['visualize', *map(str, arguments)]) == 1
        assert message in capsys.readouterr().err
    torch.save(dict(state_dict=dict(a=torch.zeros(1))), tmp_path / 'other.pth')
    assert (
        main(
            [
                'visualize',
                'detections',
                str(config),
                str(tmp_path / 'other.pth'),
                str(image),
                '--out',
                str(tmp_path / 'x.png'),
            ]
        )
        == 1
    )
