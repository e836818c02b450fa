"""``mmssl visualize``: the places and pixels of its pictures, whole commands, and what it refuses."""

import numpy as np
import pytest
import torch
from PIL import Image

import mmssl.registry  # noqa: F401  stands in for compiled operators of mmcv
from mmssl.cli import main

pytest.importorskip('mmdet')
from mmssl.detection.deform import DeformConv
from mmssl.visualization import detection
from mmssl.visualization.attention import COLOURS
from mmssl.visualization.colours import class_colour

CONFIG = """
_base_ = 'mmssl::smoke/rfcn.py'
model = dict(backbone=dict(type='mmssl.DeformResNet', deform_blocks=(0, 0, 0, 2)))
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A config of a small deformable R-FCN, a checkpoint whose weights are drawn, and an image."""
    from mmssl.commands.features import build_model

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


@pytest.mark.parametrize('modulated', [False, True])
def test_sampled_places_are_what_the_layer_reads(modulated):
    """On a map that holds its own coordinates, a tap with weight 1 gives the place that it reads, times its weight."""
    torch.manual_seed(0)
    layer = DeformConv(
        4, 2, 3, stride=2, padding=2, dilation=2, deform_groups=2, bias=False, modulated=modulated
    )
    torch.nn.init.normal_(layer.conv_offset.bias, std=0.3)
    rows, columns = torch.meshgrid(torch.arange(20.0), torch.arange(24.0), indexing='ij')
    x = torch.stack([rows, columns, rows, columns])[None]
    cells = torch.tensor([[3, 4], [5, 6]])
    moved = layer.conv_offset(x)[0].detach()
    places, weights = detection.sampling_places(layer, moved, cells)
    assert places.shape == (2, 2, 9, 2) and weights.shape == (2, 2, 9)
    for group in range(2):
        for tap in range(9):
            layer.weight.data.zero_()
            for axis in range(2):
                layer.weight.data[axis, 2 * group + axis, tap // 3, tap % 3] = 1
            read = layer(x)[0, :, cells[:, 0], cells[:, 1]].T
            torch.testing.assert_close(
                places[:, group, tap] * weights[:, group, tap, None], read, rtol=1e-4, atol=1e-4
            )
    assert modulated == bool((weights < 1).any())


def test_places_of_a_stack_without_offsets_are_its_receptive_field():
    layers = [DeformConv(4, 4, 3, padding=1, deform_groups=groups, modulated=False) for groups in (4, 1, 2)]
    moved = [torch.zeros(18 * layer.deform_groups, 9, 9) for layer in layers]
    places, groups = detection.stacked_places(layers, moved, torch.tensor([4, 5]))
    assert places.shape == (2 * 9**3, 2) and groups.bincount().tolist() == [729, 729]
    assert places.amin(0).tolist() == [1, 2] and places.amax(0).tolist() == [7, 8]
    ways = torch.zeros(9, 9).index_put(tuple(places[groups == 1].long().T), torch.ones(()), accumulate=True)
    expected = torch.tensor([1.0, 3.0, 6.0, 7.0, 6.0, 3.0, 1.0])
    assert torch.equal(ways[1:8, 2:9], expected[:, None] * expected)


def test_detections_are_drawn_in_the_colour_of_their_class():
    image = np.zeros((100, 200, 3), np.uint8)
    boxes = np.array([[20.0, 30.0, 80.0, 90.0], [120.0, 40.0, 180.0, 80.0]])
    picture = np.asarray(
        detection.draw_detections(
            image, boxes, np.array([1, 0]), np.array([0.9, 0.4]), ['a', 'b'], height=200
        )
    )
    assert picture.shape == (200, 400, 3)
    assert tuple(picture[120, 40]) == class_colour(1) and tuple(picture[120, 240]) == class_colour(
        0
    )  # left sides, scaled by 2
    assert tuple(picture[179, 100]) == class_colour(1) and not picture[120, 100].any()
    nothing = detection.draw_detections(
        image, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), ['a'], height=100
    )
    assert not np.asarray(nothing).any()


def test_a_score_map_lies_in_its_place_and_on_its_pixels():
    image = np.full((40, 40, 3), 100, np.uint8)
    maps = torch.zeros(2, 2, 5, 5)
    maps[1, 0] = 1  # second row, first column
    picture = np.asarray(detection.score_picture(image, maps, 8, tile=40))
    left, top = 40 + 40 + 8 + 8 + 8 - 1, 8 + 24  # the image as high as the grid of 83, gaps and header
    grid = picture[top : top + 83, picture.shape[1] - 8 - 83 : picture.shape[1] - 8]
    brightest = 0.6 * COLOURS[-1] + 0.4 * 100
    assert np.abs(grid[63, 20] - brightest).max() <= 1 and np.abs(grid[20, 20] - 0.4 * 100).max() <= 3
    assert np.abs(grid[63, 63] - 0.4 * 100).max() <= 3 and left > 0
    framed = np.asarray(detection.score_picture(image, maps, 8, box=(8, 8, 32, 32), tile=40))
    corner = framed[top : top + 83, framed.shape[1] - 8 - 83 : framed.shape[1] - 8]
    assert tuple(corner[8 + 43, 63]) != tuple(grid[8 + 43, 63])  # the upper right bin of the lower right map
    assert tuple(corner[8, 8]) == (0, 255, 120)


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
            'is not the checkpoint of this detector|no deformable',
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
    with pytest.raises(ValueError, match='has no position-sensitive score maps'):
        detection.position_sensitive_head(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match='has no deformable convolution'):
        detection.deformable_layers(torch.nn.Linear(1, 1))
