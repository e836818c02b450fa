"""torch.jit.trace of the operators: right for other sizes and numbers of regions, or refused."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from mmssl.ops import dcnv3, deform_conv2d, deform_ps_roi_pool, ps_roi_align, ps_roi_pool
from mmssl.ops.dispatch import torchvision_supports

ROIS = torch.tensor([[0, 0, 0, 60.0, 60], [0, 10, 10, 100, 90]])
OTHER_ROIS = torch.tensor([[0, 20, 0, 60.0, 110], [1, 30, 10, 100, 90], [0, 0, 0, 127, 127]])
WEIGHT = torch.linspace(-1, 1, 144).view(4, 4, 3, 3)


def maps(count, channels, height, width):
    return torch.randn(count, channels, height, width)


def assert_follows(function, example, arguments):
    traced = torch.jit.trace(function, example, check_trace=False)
    torch.testing.assert_close(traced(*arguments), function(*arguments), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('vote', [False, True])
@pytest.mark.parametrize(
    'pool',
    [
        lambda x, rois, vote: ps_roi_pool(x, rois, 3, 1 / 16, 2, vote=vote),
        lambda x, rois, vote: ps_roi_pool(x, rois, 3, 1 / 16, 2, 'torchvision', vote),
        lambda x, rois, vote: ps_roi_align(x, rois, 3, 1 / 16, 2, vote=vote),
        lambda x, rois, vote: deform_ps_roi_pool(x, rois, None, 3, 1 / 16, 2, 3, vote=vote),
        lambda x, rois, vote: deform_ps_roi_pool(
            x, rois, rois[:, 1:3].sin()[..., None, None].expand(-1, -1, 3, 3), 3, 1 / 16, 2, 3, vote=vote
        ),
    ],
    ids=['ps_roi_pool', 'ps_roi_pool-torchvision', 'ps_roi_align', 'deform_ps_roi_pool', 'with-offsets'],
)
def test_pooling_takes_another_number_of_regions(pool, vote):
    torch.manual_seed(0)
    assert_follows(
        lambda x, rois: pool(x, rois, vote), (maps(1, 18, 8, 8), ROIS), (maps(2, 18, 10, 12), OTHER_ROIS)
    )


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_an_adaptive_number_of_samples_is_traced_by_torchvision_or_refused():
    def align(backend):
        return lambda x, rois: ps_roi_align(x, rois, 3, 1 / 16, 2, 0, backend=backend)

    torch.manual_seed(0)
    example, arguments = (maps(1, 18, 8, 8), ROIS), (maps(2, 18, 10, 12), OTHER_ROIS)
    if torchvision_supports('cpu'):
        assert_follows(align('auto'), example, arguments)
    with pytest.raises(RuntimeError, match='sampling_ratio=0 cannot be traced: the number of samples'):
        torch.jit.trace(align('torch'), example, check_trace=False)


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('backend', ['auto', 'torch'])
def test_deformable_convolutions_take_another_size(backend):
    torch.manual_seed(0)

    def draw(count, *size):
        return maps(count, 4, *size), 2 * maps(count, 18, *size), maps(count, 9, *size)

    def convolve(x, offset, mask):
        return deform_conv2d(x, offset, WEIGHT, padding=1, mask=mask, backend=backend)

    assert_follows(convolve, draw(1, 8, 8), draw(2, 10, 12))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_dcnv3_takes_another_size():
    torch.manual_seed(0)

    def draw(count, *size):
        return torch.randn(count, *size, 4), torch.randn(count, *size, 36), torch.rand(count, *size, 18)

    def convolve(x, offset, mask):
        return dcnv3(x, offset, mask, kernel_size=3, padding=1, groups=2)

    assert_follows(convolve, draw(1, 6, 6), draw(2, 8, 9))


@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
@pytest.mark.parametrize('name', ['DeformConv2dPack', 'ModulatedDeformConv2dPack'])
def test_layers_of_mmcv_take_another_size(name):
    layer = getattr(pytest.importorskip('mmcv.ops'), name)(4, 4, 3, padding=1).eval().requires_grad_(False)
    nn.init.normal_(layer.conv_offset.weight, std=0.5)
    assert_follows(layer, (maps(1, 4, 8, 8),), (maps(2, 4, 10, 12),))


TRACE_FIRST = """
import torch
from mmssl.ops.dispatch import torchvision_supports

torch.jit.trace(lambda x: x + torchvision_supports('cpu'), torch.ones(1), check_trace=False)
import torchvision.extension

assert torchvision_supports('cpu') == torchvision.extension._has_ops()
"""


def test_torchvision_can_be_imported_while_tracing():
    """It cannot be imported under a trace, and the failure would last for the whole process."""
    pytest.importorskip('torchvision')
    subprocess.run([sys.executable, '-W', 'ignore', '-c', TRACE_FIRST], check=True, timeout=120)
