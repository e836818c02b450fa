"""mmcv's operators read maps of any memory format."""

import importlib

import pytest
import torch
import torchvision
from torch import Tensor

import mmssl.registry  # noqa: F401  applies the patches

ROIS = torch.tensor([[0, 5.0, 5, 60, 70], [1, 10.0, 0, 79, 40]])


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def ours(name: str, x: Tensor) -> Tensor:
    from mmcv import ops

    last = torch.channels_last
    if name == 'roi_align':
        return ops.roi_align(x, ROIS, (7, 7), 0.25, 2, 'avg', True)
    offset, mask = random(2, 18, 20, 20).to(memory_format=last), random(2, 9, 20, 20).to(memory_format=last)
    weight = random(4, 6, 3, 3).to(memory_format=last)
    if name == 'deform_conv':
        return ops.deform_conv2d(x, offset, weight, 1, 1)
    return ops.modulated_deform_conv2d(x, offset, mask, weight, None, 1, 1, 1, 1, 1)


def expected(name: str, x: Tensor) -> Tensor:
    if name == 'roi_align':
        return torchvision.ops.roi_align(x, ROIS, (7, 7), 0.25, 2, True)
    mask = random(2, 9, 20, 20) if name == 'modulated_deform_conv' else None
    return torchvision.ops.deform_conv2d(x, random(2, 18, 20, 20), random(4, 6, 3, 3), padding=1, mask=mask)


@pytest.mark.parametrize('name', ['roi_align', 'deform_conv', 'modulated_deform_conv'])
def test_maps_in_channels_last_format_give_the_features_and_gradients_of_torchvision(name):
    found_maps, maps = (
        random(2, 6, 20, 20).to(memory_format=torch.channels_last).requires_grad_() for _ in range(2)
    )
    found, right = ours(name, found_maps), expected(name, maps)
    torch.testing.assert_close(found, right, atol=1e-4, rtol=1e-4)
    pull = random(*right.shape)
    found.backward(pull.to(memory_format=torch.channels_last))
    right.backward(pull)
    torch.testing.assert_close(found_maps.grad, maps.grad, atol=1e-4, rtol=1e-4)


def test_psamask_takes_channels_last_maps():
    from mmcv.ops import PSAMask

    plain, last = random(2, 9, 5, 4).requires_grad_(), random(2, 9, 5, 4)
    last = last.to(memory_format=torch.channels_last).requires_grad_()
    pull = random(2, 20, 5, 4)
    results = [PSAMask('collect', (3, 3))(maps) for maps in (plain, last)]
    assert torch.equal(*results)
    results[0].backward(pull)
    results[1].backward(pull.to(memory_format=torch.channels_last))
    assert torch.equal(plain.grad, last.grad)


@pytest.mark.parametrize('name', ['carafe', 'carafe_naive'])
def test_carafe_is_trained_on_the_cpu(name, monkeypatch):
    from mmssl.hosts import mmcv_ext

    carafe = importlib.import_module('mmcv.ops.carafe')
    monkeypatch.setattr(carafe, 'ext_module', mmcv_ext)
    features = random(1, 4, 3, 2).double().requires_grad_()
    masks = random(1, 18, 6, 4).double().requires_grad_()
    function = getattr(carafe, name)
    assert torch.autograd.gradcheck(lambda *args: function(*args, 3, 2, 2), (features, masks))
