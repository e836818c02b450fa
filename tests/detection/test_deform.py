"""Deformable layers and backbones: released names, configs of the toolboxes, initial weights."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from mmssl.registry import MODELS

pytest.importorskip('mmdet')
from mmcv.cnn import ConvModule, build_conv_layer
from mmdet.models.backbones import ResNet
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from mmssl.detection.deform import DCNv3, DeformConv, DeformResNet

SMALL = dict(stem_channels=8, base_channels=8, norm_cfg=dict(type='BN'))


def stir(model, seed=0):
    """Every parameter away from zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.eval()  # of the host's returns nothing
    return model


@pytest.mark.parametrize(('theirs', 'modulated'), [('DCN', False), ('DCNv2', True)])
def test_is_the_hosts_layer_with_its_weights(theirs, modulated):
    torch.manual_seed(0)
    settings = dict(kernel_size=3, stride=2, padding=2, dilation=2, deform_groups=2, bias=False)
    host = stir(build_conv_layer(dict(type=theirs), 8, 6, **settings))
    ours = build_conv_layer(dict(type='mmssl.DeformConv', modulated=modulated), 8, 6, **settings)
    ours.load_state_dict(host.state_dict(), strict=True)
    x = torch.randn(2, 8, 9, 7)
    torch.testing.assert_close(ours(x), host(x), rtol=1e-5, atol=1e-5)
    assert type(ours) is DeformConv and ours.state_dict()._metadata['']['version'] == 2


def test_initialised_as_a_convolution_or_half_of_it():
    x = torch.randn(2, 4, 6, 5)
    for modulated, scale in ((False, 1), (True, 0.5)):
        layer = DeformConv(4, 3, (3, 1), padding=(1, 0), modulated=modulated)
        nn.init.ones_(layer.bias)
        expected = scale * F.conv2d(x, layer.weight, padding=(1, 0)) + 1
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_an_offset_of_1_reads_the_next_pixel():
    layer = DeformConv(1, 1, 1, bias=False, modulated=False)
    nn.init.ones_(layer.weight)
    layer.conv_offset.bias.data = torch.tensor([1.0, -1.0])  # y, x
    x = torch.arange(12.0).view(1, 1, 3, 4)
    assert layer(x)[0, 0].tolist() == [[0, 4, 5, 6], [0, 8, 9, 10], [0, 0, 0, 0]]
    offset, mask = layer.offsets(x)
    assert offset.shape == (1, 2, 3, 4) and mask is None


def test_in_a_conv_module_and_in_the_hosts_hook():
    module = ConvModule(
        8, 4, 3, padding=1, conv_cfg=dict(type='mmssl.DeformConv', deform_groups=2), norm_cfg=dict(type='BN')
    )
    assert module(torch.randn(2, 8, 6, 6)).shape == (2, 4, 6, 6) and module.conv.bias is None
    module = ConvModule(
        8,
        4,
        3,
        stride=2,
        padding=1,
        conv_cfg=dict(type='mmssl.DCNv3', deform_groups=2),
        norm_cfg=dict(type='BN'),
    )
    assert module(torch.randn(2, 8, 7, 6)).shape == (2, 4, 4, 3)
    settings = dict(
        depth=50,
        stage_with_dcn=(False, False, False, True),
        dilations=(1, 1, 1, 2),
        strides=(1, 2, 2, 1),
        **SMALL,
    )
    ours = ResNet(dcn=dict(type='mmssl.DeformConv', deform_groups=4), **settings)
    ours.init_weights()
    host = ResNet(dcn=dict(type='DCNv2', deform_groups=4), **settings)
    assert ours.state_dict().keys() == host.state_dict().keys()
    assert sum(isinstance(part, DeformConv) for part in ours.modules()) == 3
    assert not any(bool(value.any()) for key, value in ours.state_dict().items() if 'conv_offset' in key)
    host.load_state_dict(stir(ours).state_dict())
    x = torch.randn(1, 3, 32, 40)
    host.eval()
    torch.testing.assert_close(ours(x)[3], host(x)[3], rtol=1e-4, atol=1e-4)


def test_offsets_can_learn_more_slowly():
    model = nn.Sequential(DeformConv(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1))
    wrapper = build_optim_wrapper(
        model, dict(optimizer=dict(type='SGD', lr=1.0), paramwise_cfg=dict(dcn_offset_lr_mult=0.1))
    )
    rates = {id(group['params'][0]): group['lr'] for group in wrapper.optimizer.param_groups}
    offset = model[0].conv_offset
    assert [
        rates[id(parameter)] for parameter in (offset.weight, offset.bias, model[0].weight, model[1].weight)
    ] == [0.1, 0.1, 1, 1]
    before = copy.deepcopy(model[0].conv_offset.weight)
    model(torch.randn(2, 4, 5, 5)).square().sum().backward()
    wrapper.step()
    assert bool((model[0].conv_offset.weight != before).any())


@pytest.mark.parametrize('remove_center', [False, True])
def test_dcnv3_begins_as_a_mean(remove_center):
    torch.manual_seed(0)
    layer = DCNv3(8, 4, deform_groups=2, remove_center=remove_center)
    x = torch.randn(2, 8, 6, 5)
    maps = layer.input_proj(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    mean = F.avg_pool2d(maps, 3, 1, 1) * 9
    mean = (mean - maps) / 8 if remove_center else mean / 9
    torch.testing.assert_close(
        layer(x), layer.output_proj(mean.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), rtol=1e-5, atol=1e-5
    )


def test_dcnv3_has_the_names_of_internimage():
    layer = stir(DCNv3(8, deform_groups=2, center_feature_scale=True, dw_kernel_size=5, channels_last=True))
    names = [
        f'{part}.{kind}'
        for part in ('dw_conv.0', 'dw_conv.1.1', 'offset', 'mask', 'input_proj', 'output_proj')
        for kind in ('weight', 'bias')
    ]
    assert set(layer.state_dict()) == {
        *names,
        'center_feature_scale_proj_weight',
        'center_feature_scale_proj_bias',
    }
    assert (
        layer.dw_conv[0].weight.shape == (8, 1, 5, 5)
        and layer.offset.weight.shape == (36, 8)
        and layer.mask.weight.shape == (18, 8)
    )
    x = torch.randn(2, 4, 5, 8)
    out = layer(x)
    assert out.shape == x.shape
    # a scale of 1 gives the projected input back
    layer.center_feature_scale_proj_weight.data.zero_()
    layer.center_feature_scale_proj_bias.data.fill_(1e4)
    torch.testing.assert_close(layer(x), layer.output_proj(layer.input_proj(x)))


def deformable(model):
    return [name for name, part in model.named_modules() if hasattr(part, 'conv_offset')]


def test_deform_resnet_as_in_r_fcn():
    model = DeformResNet(depth=50, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), frozen_stages=1, **SMALL)
    assert deformable(model) == [f'layer4.{block}.conv2' for block in range(3)]
    assert all(
        part.deform_groups == 4 and not part.modulated and part.dilation == part.padding == (2, 2)
        for part in model.modules()
        if isinstance(part, DeformConv)
    )
    model.init_weights()
    plain = ResNet(depth=50, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2), **SMALL)
    missing, unexpected = plain.load_state_dict(stir(model).state_dict(), strict=False)
    assert not missing and {key.split('.')[3] for key in unexpected} == {'conv_offset'}
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, DeformConv):
                part.init_weights()
                part.weight.copy_(
                    plain.get_parameter(
                        next(name for name, other in model.named_modules() if other is part) + '.weight'
                    )
                )
    x = torch.randn(1, 3, 64, 48)
    plain.eval()
    torch.testing.assert_close(model(x)[3], plain(x)[3], rtol=1e-4, atol=1e-4)
    assert (
        model.train() is model
        and not model.layer1[0].conv2.weight.requires_grad
        and not model.layer1.training
    )


@pytest.mark.parametrize('kind', ['mmssl.DeformConv', 'DCN'])
def test_deform_resnet_chooses_blocks(kind):
    dcn = dict(type=kind, deform_groups=2, fallback_on_stride=True)
    model = DeformResNet(depth=34, dcn=dcn, deform_blocks=(0, 1, 1, True), **SMALL)
    assert deformable(model) == [
        'layer2.3.conv2',
        'layer3.5.conv2',
        'layer4.0.conv2',
        'layer4.1.conv2',
        'layer4.2.conv2',
    ]
    assert dcn == dict(type=kind, deform_groups=2, fallback_on_stride=True)
    model.init_weights()
    assert not any(bool(value.any()) for key, value in model.state_dict().items() if 'conv_offset' in key)
    strided = DeformResNet(depth=50, dcn=dcn, deform_blocks=(0, True, True, True), style='pytorch', **SMALL)
    names = deformable(strided)
    assert len(names) == 3 + 5 + 2 and not any(name.split('.')[1] == '0' for name in names)
    with pytest.raises(ValueError, match=r'layer2 of a ResNet-18 has 2 blocks'):
        DeformResNet(depth=18, deform_blocks=(0, 3, 0, 0), **SMALL)
    with pytest.raises(ValueError, match='must have 4 entries'):
        DeformResNet(depth=18, deform_blocks=(0, 1), **SMALL)


def test_pretrained_offsets_stay(tmp_path):
    source = stir(DeformResNet(depth=18, **SMALL))
    torch.save(dict(state_dict=source.state_dict()), tmp_path / 'x.pth')
    model = DeformResNet(
        depth=18, init_cfg=dict(type='Pretrained', checkpoint=str(tmp_path / 'x.pth')), **SMALL
    )
    model.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key


@pytest.mark.parametrize(
    ('build', 'text'),
    [
        (
            lambda: DeformConv(6, 4, 3, deform_groups=4),
            '6 input and 4 output channels does not divide into deform_groups=4',
        ),
        (lambda: DCNv3(8, groups=2), 'groups=2: DCNv3'),
        (lambda: DCNv3(6, deform_groups=4), '6 channels does not divide'),
        (lambda: DCNv3(8, stride=2, center_feature_scale=True), 'center_feature_scale'),
        (lambda: DCNv3(8, padding=0), r'padding=\(0, 0\) of DCNv3 must be \(1, 1\)'),
    ],
)
def test_settings_that_do_not_fit_are_refused(build, text):
    with pytest.raises(ValueError, match=text):
        build()


def test_autocast_and_a_detector_of_the_host():
    layer = DeformConv(4, 4, 3, padding=1)
    with torch.autocast('cpu', torch.bfloat16):
        out = layer(torch.randn(1, 4, 5, 5))
    out.float().sum().backward()
    assert out.isfinite().all() and layer.conv_offset.weight.grad is not None
    init_default_scope('mmdet')
    backbone = MODELS.build(
        dict(type='mmssl.DeformResNet', depth=18, deform_blocks=(0, 0, 1, 1), out_indices=(2, 3), **SMALL)
    ).eval()
    assert [tuple(map_.shape) for map_ in backbone(torch.randn(1, 3, 32, 32))] == [
        (1, 32, 2, 2),
        (1, 64, 1, 1),
    ]
