"""MobileNetV2 files into OpenMMLab's backbone: the same features, and the names back."""

import pytest
import torch

from mmssl.convert import from_official, to_official

torchvision = pytest.importorskip('torchvision')
MobileNetV2 = pytest.importorskip('mmpretrain.models').MobileNetV2


@pytest.fixture(scope='module')
def net():
    torch.manual_seed(0)
    return torchvision.models.mobilenet_v2(num_classes=7).eval()


def flat(official):
    """The same weights as in releases that number convolutions, norms and activations of a block flat."""
    renamed = {}
    for key, value in official.items():
        parts = key.split('.')
        if parts[0] == 'features' and parts[2] == 'conv':
            layers = 2 if parts[1] == '1' else 3
            number = int(parts[3])
            # the last convolution and its norm stand alone in torchvision: numbers layers - 1 and layers
            inner = (
                (3 * number + int(parts[4]))
                if number < layers - 1
                else 3 * (layers - 1) + number - (layers - 1)
            )
            parts = [*parts[:3], str(inner), parts[-1]]
        renamed['.'.join(parts)] = value
    return renamed


@pytest.mark.parametrize('spelling', [dict, flat])
def test_features_are_the_same_and_names_come_back(net, spelling):
    official = spelling(net.state_dict())
    assert len(set(official)) == len(net.state_dict())
    ours = from_official('mobilenetv2', official)
    backbone = MobileNetV2()
    backbone.eval()
    backbone.load_state_dict(
        {key.removeprefix('backbone.'): value for key, value in ours.items() if key.startswith('backbone.')}
    )
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(backbone(image)[-1], net.features(image))
    assert ours['head.fc.weight'].shape == (7, 1280)
    back = to_official('mobilenetv2', ours)
    # both spellings have one table here, and torchvision's comes first
    assert set(back) == set(net.state_dict())


def test_without_the_classifier(net):
    official = flat({key: value for key, value in net.state_dict().items() if key.startswith('features')})
    assert len(from_official('mobilenetv2', official)) == len(official)


def test_a_file_that_lacks_a_layer_is_refused(net):
    official = dict(net.state_dict())
    del official['features.7.conv.1.0.weight']
    with pytest.raises(ValueError, match=r'features\.7\.conv\.1\.0\.weight'):
        from_official('mobilenetv2', official)
