"""DenseASPP by its equation, and what GCN's kernels are compared with."""

import pytest
import torch
from torch.nn import functional as F

from mmssl.segmentation.dense_aspp import DenseASPPHead
from mmssl.segmentation.global_conv import GlobalConvBlock, GlobalConvHead
from mmssl.segmentation.large_kernels import StackedConvBlock, TrivialConvBlock

LOSS = dict(type='mmseg.CrossEntropyLoss')


def normed(x, norm):
    mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]
    return F.relu((x - mean) / (variance + norm.eps).sqrt())


def test_every_layer_reads_all_before_it():
    torch.manual_seed(0)
    head = DenseASPPHead(16, 3, dilations=(1, 3, 2), loss_decode=LOSS).eval()
    assert (head.channels, head.conv_seg.in_channels) == (16 + 3 * 2, 22)
    x = torch.randn(2, 16, 12, 12)
    maps = [x]
    for layer, rate in zip(head.layers, (1, 3, 2), strict=True):
        reduce, dilated = layer
        hidden = F.conv2d(normed(torch.cat(maps[::-1], 1), reduce.bn), reduce.conv.weight)
        assert hidden.shape[1] == 8
        maps.append(F.conv2d(normed(hidden, dilated.bn), dilated.conv.weight, padding=rate, dilation=rate))
    expected = F.conv2d(torch.cat(maps[::-1], 1), head.conv_seg.weight, head.conv_seg.bias)
    assert torch.allclose(head([x]), expected, atol=1e-5)


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(dilations=(0, 3)), '1 or more'),
        (dict(in_channels=[4, 4]), 'single feature map'),
        (dict(channels=64), 'follows from in_channels'),
    ],
)
def test_wrong_arguments(settings, words):
    with pytest.raises(ValueError, match=words):
        DenseASPPHead(**{'in_channels': 16, 'num_classes': 3, 'loss_decode': LOSS, **settings})


@pytest.mark.parametrize(('hidden', 'thousands'), [(2048, 75885), (1024, 28505), (210, 4307)])
def test_parameters_of_stacks_are_those_of_table_4(hidden, thousands):
    with torch.device('meta'):
        stack = StackedConvBlock(2048, 21, 7, hidden)
        block = GlobalConvBlock(2048, 21, 7)
    assert round(sum(each.numel() for each in stack.parameters()) / 1000) == thousands
    assert sum(each.numel() for each in block.parameters()) == 2 * 7 * (2048 * 21 + 21 * 21)


@pytest.mark.parametrize('kind', ['trivial', 'stack'])
def test_baselines_see_as_far_as_the_global_convolution(kind):
    block = {'trivial': TrivialConvBlock, 'stack': StackedConvBlock}[kind](2, 3, 7).double()
    for parameter in block.parameters():
        torch.nn.init.constant_(parameter, 0.1)
    image = torch.zeros(1, 2, 21, 21, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(block(image)[0, :, 10, 10].sum(), image)
    reached = gradient[0, 0].nonzero()
    assert (reached.min(0).values.tolist(), reached.max(0).values.tolist()) == ([7, 7], [13, 13])
    head = GlobalConvHead([2, 4], 3, 7, kind, strides=(4, 8), loss_decode=LOSS)
    head.init_weights()
    assert head([torch.randn(1, 2, 16, 16), torch.randn(1, 4, 8, 8)]).shape == (1, 3, 64, 64)
    assert sum(isinstance(part, type(block)) for part in head.modules()) == 2


def test_wrong_convolutions_of_gcn():
    for settings, words in (
        (dict(convolution='dense'), 'one of global, trivial, stack'),
        (dict(convolution='trivial', hidden_channels=8), "for convolution='stack'"),
        (dict(convolution='trivial', kernel_size=4), 'must be odd'),
        (dict(convolution='stack', kernel_size=1), 'at least 3'),
    ):
        with pytest.raises(ValueError, match=words):
            GlobalConvHead([2], 3, strides=(4,), loss_decode=LOSS, **settings)
