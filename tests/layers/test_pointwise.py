"""The 1x1 convolution of prediction is the plain one."""

import pytest
import torch
from torch import nn

from mmssl.layers.pointwise import PointwiseConv2d


def pair(**settings):
    torch.manual_seed(0)
    made = PointwiseConv2d(24, 40, **settings)
    plain = nn.Conv2d(24, 40, 1, **settings)
    plain.load_state_dict(made.state_dict())
    return made, plain


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
def test_it_is_the_plain_convolution(bias, layout):
    made, plain = pair(bias=bias)
    x = torch.randn(2, 24, 9, 7).contiguous(memory_format=layout)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            out = made(x)
            torch.testing.assert_close(out, plain(x), atol=1e-5, rtol=1e-5)
            assert out.is_contiguous(memory_format=layout)
            torch.testing.assert_close(made(x[:, :, ::2]), plain(x[:, :, ::2]), atol=1e-5, rtol=1e-5)
            assert made(x[:0]).shape == (0, 40, 9, 7)
        with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
            assert made(x).dtype == torch.bfloat16
        with torch.no_grad():
            assert made.double()(x.double()).dtype == torch.float64
    finally:
        torch.set_num_threads(threads)


def test_it_learns_as_the_plain_one():
    made, plain = pair()
    x = torch.randn(2, 24, 5, 5)
    for module in (made, plain):
        module(x).square().sum().backward()
    assert torch.equal(made.weight.grad, plain.weight.grad)


def test_only_plain_convolutions_of_one_pixel_are_changed():
    net = nn.Sequential(
        nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, stride=2), nn.Conv2d(4, 4, 1, groups=2)
    )
    PointwiseConv2d.of(net)
    assert [type(conv) for conv in net] == [PointwiseConv2d, nn.Conv2d, nn.Conv2d, nn.Conv2d]
