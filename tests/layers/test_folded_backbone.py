"""A folded backbone equals its backbone, follows its weights, and is not used in training or saved."""

import copy

import pytest
import torch

from mmssl.layers.folded_backbone import FoldedBackbone

ResNet = pytest.importorskip('mmpretrain.models').ResNet


@pytest.fixture
def net():
    torch.manual_seed(0)
    model = ResNet(50, stem_channels=8, base_channels=8, out_indices=(2, 3)).double()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                torch.nn.init.uniform_(tensor, -1, 1)
            for tensor in (module.running_var, module.weight):
                torch.nn.init.uniform_(tensor, 0.5, 2)
    model.eval()
    return model


IMAGES = torch.randn(2, 3, 64, 96, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_it_predicts_the_same_and_follows_the_weights(net):
    folded = FoldedBackbone(net)
    with torch.no_grad():
        torch.testing.assert_close(folded(IMAGES), net(IMAGES), atol=1e-10, rtol=1e-10)
        first = folded.copy
        assert folded(IMAGES) and folded.copy is first
        net.layer1[0].bn2.running_var.mul_(3)
        torch.testing.assert_close(folded(IMAGES), net(IMAGES), atol=1e-10, rtol=1e-10)
        assert folded.copy is not first
    with torch.inference_mode():
        torch.testing.assert_close(folded(IMAGES), net(IMAGES), atol=1e-10, rtol=1e-10)


def test_no_batch_norm_is_left(net):
    folded = FoldedBackbone(net)
    with torch.no_grad():
        folded(IMAGES)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.copy.modules())


def test_training_sees_the_plain_backbone(net):
    folded = FoldedBackbone(net)
    folded(IMAGES)[0].sum().backward()
    assert folded.copy is None and net.conv1.weight.grad is not None
    net.train()
    before = net.bn1.running_mean.clone()
    with torch.no_grad():
        folded(IMAGES)
    assert folded.copy is None and not torch.equal(net.bn1.running_mean, before)


def test_a_copy_has_its_own(net):
    folded = FoldedBackbone(net)
    with torch.no_grad():
        folded(IMAGES)
    other = copy.deepcopy(folded)
    assert other.backbone is not net and other.copy is None


def test_it_follows_weights_that_change_unseen_and_hooks(net):
    folded = FoldedBackbone(net)
    with torch.inference_mode():
        for write in (
            lambda: net.conv1.weight.data.neg_(),
            lambda: net.layer1[0].bn2.weight.data.copy_(net.layer1[0].bn2.weight.flip(0)),
            lambda: net.layer2[0].bn1.running_mean.data.add_(1),
            lambda: net.layer2.register_forward_hook(lambda *call: call[-1] * 2),
        ):
            before = folded(IMAGES)
            write()
            torch.testing.assert_close(folded(IMAGES), net(IMAGES), atol=1e-10, rtol=1e-10)
            assert not torch.allclose(before[-1], net(IMAGES)[-1])


SETTINGS = {
    'eps': lambda net: setattr(net.bn1, 'eps', 1.0),
    'activation': lambda net: setattr(net.layer2[0], 'relu', torch.nn.GELU()),
    'dilation': lambda net: (
        setattr(net.layer4[0].conv2, 'dilation', (2, 2)),
        setattr(net.layer4[0].conv2, 'padding', (2, 2)),
    ),
    'levels': lambda net: setattr(net, 'out_indices', (1, 3)),
}


@torch.no_grad()
@pytest.mark.parametrize('change', SETTINGS.values(), ids=SETTINGS)
def test_it_follows_settings_that_are_no_weights(net, change):
    folded = FoldedBackbone(net)
    before = folded(IMAGES)
    change(net)
    expected = net(IMAGES)
    assert expected[0].shape != before[0].shape or not torch.allclose(expected[1], before[1])
    torch.testing.assert_close(folded(IMAGES), expected, atol=1e-10, rtol=1e-10)
