"""Receptive fields: the formula of stacked convolutions, the gradient of a single one, the command."""

import pytest
import torch
from PIL import Image
from torch import nn

from mmssl.cli import main
from mmssl.visualization.receptive_field import receptive_field


def expected(layers):
    """Side of the receptive field: 1 + sum of (k - 1) d times the strides before."""
    side, stride = 1, 1
    for kernel, step, dilation in layers:
        side += (kernel - 1) * dilation * stride
        stride *= step
    return side


@pytest.mark.parametrize(
    'layers', [[(3, 1, 1)] * 3, [(7, 2, 1), (3, 2, 1), (3, 1, 1)], [(3, 1, 1), (3, 1, 2), (3, 1, 5)]]
)
def test_reach_is_the_formula_of_the_layers(layers):
    torch.manual_seed(0)
    width, parts = 2, []
    for kernel, step, dilation in layers:
        conv = nn.Conv2d(width, 4, kernel, step, dilation * (kernel // 2), dilation)
        parts += [conv, nn.BatchNorm2d(4), nn.ReLU6()]
        width = 4
    field = receptive_field(nn.Sequential(*parts), 64, channels=2, draws=2)
    assert field.reach == (expected(layers),) * 2
    assert field.gradient.max() == 1 and 0 < field.effective <= expected(layers)


def test_pooling_reaches_its_whole_window():
    field = receptive_field(nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 2, 3, padding=1)), 32)
    assert field.reach == (expected([(3, 2, 1), (3, 1, 1)]),) * 2


def test_the_effective_side_counts_what_is_above_the_share():
    conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[0.01, 0.5, 0.01], [0.5, 1.0, 0.5], [0.0, 0.5, 0.01]]))
    field = receptive_field(conv, 16, channels=1, draws=1)
    assert field.effective == 5**0.5 and field.reach == (3, 3)
    with pytest.raises(ValueError, match='level 1 does not exist: the backbone returns 1 maps'):
        receptive_field(conv, 16, channels=1, level=1)


def test_the_command_writes_a_picture(tmp_path, capsys):
    out = tmp_path / 'field.png'
    options = ['--size', '64', '--level', '0', '--draws', '2']
    assert not main(['visualize', 'receptive-field', 'smoke/rfcn', 'random', '--out', str(out), *options])
    assert 'pixels can change the central output' in capsys.readouterr().out and Image.open(out).width == 448
