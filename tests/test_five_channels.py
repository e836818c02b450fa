"""Images of five channels: every method trains on them, every system takes them, RGB weights grow to them."""

import re

import pytest
import torch
from mmengine.config import ConfigDict
from torch import nn

from mmssl.checkpoint import MismatchError, grown_channels, load_matching, load_weights, save_file
from mmssl.checkpoint.channels import grow_channels
from mmssl.checkpoint.keys import add_prefix
from mmssl.registry import MODELS, build
from mmssl.selfsup.base import ScheduledSupervisor, SelfSupervisor
from mmssl.selfsup.small import ARCH, RESNET, small_settings_of_methods

READS_IMAGES = re.compile(r'(ViT|ResNet|KMeansTokenizer|InfoMaxEncoder|SwinTransformer)$')
SETTINGS = small_settings_of_methods()
PREDICTS_COLORS = {'Colorization'}


def methods():
    MODELS.import_from_location()
    found = {name: MODELS.module_dict[name] for name in SETTINGS if name in MODELS.module_dict}
    return [name for name, cls in found.items() if isinstance(cls, type) and issubclass(cls, SelfSupervisor)]


def with_channels(node, count=5):
    """Copy settings, with ``in_channels`` for everything that reads images."""
    if isinstance(node, dict):
        node = {key: with_channels(value, count) for key, value in node.items()}
        return {**node, 'in_channels': count} if READS_IMAGES.search(str(node.get('type', ''))) else node
    return [with_channels(value, count) for value in node] if isinstance(node, list) else node


@pytest.mark.parametrize('name', sorted({*methods()} - PREDICTS_COLORS))
def test_methods_train(name):
    torch.manual_seed(0)
    mean = dict(mean=[100.0, 110, 120, 130, 140], std=[50.0, 60, 50, 60, 50])
    model = build(
        dict(type=f'mmssl.{name}', **with_channels(SETTINGS[name].settings), data_preprocessor=mean), MODELS
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    if isinstance(model, ScheduledSupervisor):
        model.set_schedule(2, 2)
        model.attach(optimizer)
    first = next(module for module in model.backbone.modules() if isinstance(module, nn.Conv2d))
    before = first.weight.detach().clone()
    values = torch.rand(2, 5, 32, 32) * 255
    for _ in range(2):
        loss = SETTINGS[name].run(model.train(), model.data_preprocessor(dict(inputs=values))['inputs'])
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # every channel has been learned from; MoCo v3 keeps its patch projection
    if first.weight.requires_grad:
        assert ((first.weight - before).abs().amax(dim=(0, 2, 3)) > 0).all()


def test_there_is_a_method_for_every_entry():
    assert {'MAE', 'BEiT', 'MoCo', 'MoCoV3', 'DINO', 'DINOv2', 'SwAV', 'MoBY', 'DeepInfoMax', 'IJEPA'} <= set(
        methods()
    )


@pytest.mark.parametrize(('part', 'name'), [('neck', 'in_chans'), ('head', 'in_channels')])
def test_parts_of_mae_agree_on_the_channels(part, name):
    settings = with_channels(SETTINGS['MAE'].settings)
    settings[part] = {**settings[part], name: 3}
    with pytest.raises(ValueError, match='backbone has in_channels=5.*set all of them'):
        build(dict(type='mmssl.MAE', **settings), MODELS)


def test_colors_are_predicted_of_rgb_only():
    with pytest.raises(ValueError, match='in_channels=5.*Inpainting'):
        build(dict(type='mmssl.Colorization', **with_channels(SETTINGS['Colorization'].settings)), MODELS)


BACKBONES = {
    'mmdet.ResNet': dict(depth=18, base_channels=8, stem_channels=8),
    'mmseg.ResNetV1c': dict(depth=18, base_channels=8, stem_channels=8),
    'mmpretrain.ResNet': dict(depth=18, base_channels=8, stem_channels=8),
    'mmdet.MobileNetV2': dict(widen_factor=0.25),
    'mmseg.MobileNetV2': dict(widen_factor=0.25),
    'mmpretrain.MobileNetV2': dict(widen_factor=0.25),
    'mmssl.DilatedMobileNetV2': dict(widen_factor=0.25),
    'mmpretrain.SwinTransformer': dict(
        arch=dict(embed_dims=12, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2]), img_size=64, pad_small_map=True
    ),
    'mmdet.SwinTransformer': dict(embed_dims=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
    'mmseg.SwinTransformer': dict(embed_dims=12, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2)),
    'mmssl.ViT': dict(arch=ARCH, img_size=64, patch_size=8),
    'mmssl.SAMImageEncoder': dict(
        img_size=64, patch_size=8, embed_dim=16, depth=1, num_heads=2, out_chans=16, global_attn_indexes=(0,)
    ),
    'mmssl.SAMTinyViT': dict(
        img_size=64,
        embed_dims=(4, 8, 8, 8),
        depths=(1, 1, 1, 1),
        num_heads=(1, 1, 2, 2),
        window_sizes=(2, 2, 3, 2),
        num_classes=2,
        out_chans=8,
    ),
    'mmssl.HDCResNet': dict(depth=18, stem_channels=8, base_channels=8, stage3=(1, 2), stage4=(5, 9)),
    'mmssl.GCNResNet': dict(depth=50, stem_channels=8, base_channels=8, kernel_size=3),
    'mmdet.ResNet, deformable': dict(
        depth=50,
        base_channels=8,
        stem_channels=8,
        dcn=dict(type='DCN'),
        stage_with_dcn=(False, False, True, False),
    ),
}


def first_convolution(model):
    return next((name, part) for name, part in model.named_modules() if isinstance(part, nn.Conv2d))


@pytest.mark.parametrize('name', BACKBONES)
def test_backbones_read_five_channels_and_grow_from_rgb(name, tmp_path):
    settings = dict(type=name.partition(',')[0], **BACKBONES[name])
    rgb = build(settings, MODELS)
    path = str(tmp_path / 'rgb.pth')
    save_file({'state_dict': add_prefix(rgb.state_dict(), 'backbone.')}, path)
    key, _ = first_convolution(rgb)
    weight = rgb.state_dict()[f'{key}.weight'].clone()
    init_cfg = ConfigDict(type='Pretrained', checkpoint=path, bands=('B', None, 'R', 'G', None))
    model = build(dict(settings, in_channels=5, init_cfg=init_cfg), MODELS)
    model.init_weights()
    mean = weight.mean(1)
    expected = torch.stack([weight[:, 2], mean, weight[:, 0], weight[:, 1], mean], 1) * 0.6
    assert torch.allclose(model.state_dict()[f'{key}.weight'], expected, atol=1e-6)
    assert grown_channels(model.state_dict())[key]['to'] == 5
    model.eval()
    with torch.no_grad():
        model(torch.rand(1, 5, 64, 64))


@pytest.mark.parametrize('count', [1, 2, 5])
def test_growth_keeps_the_response_to_equal_channels(count):
    conv = nn.Conv2d(3, 4, 3)
    grown = grow_channels(conv.weight, count)
    values = torch.rand(1, 1, 8, 8)
    response = nn.functional.conv2d(values.expand(-1, count, -1, -1), grown)
    assert torch.allclose(
        response, nn.functional.conv2d(values.expand(-1, 3, -1, -1), conv.weight), atol=1e-5
    )


def test_a_log_line_and_a_record_in_the_checkpoint(tmp_path, capsys):
    rgb, model = (build({**RESNET, 'in_channels': count}, MODELS) for count in (3, 5))
    weights = rgb.state_dict()
    load_weights(model, weights, logger=None)
    assert (
        'conv1.weight grown from 3 to 5 channels: the mean of the colors times 3/5' in capsys.readouterr().out
    )
    path = str(tmp_path / 'five.pth')
    save_file({'state_dict': model.state_dict()}, path)
    copy = build({**RESNET, 'in_channels': 5}, MODELS)
    load_weights(copy, path, logger=None)  # the record goes on from file to file
    entry = grown_channels(copy.state_dict())['conv1']
    assert (entry['from'], entry['to'], entry['source']) == (3, 5, 'the given weights')
    assert torch.equal(copy.conv1.weight, model.conv1.weight)
    assert 'grown' not in capsys.readouterr().out


def test_three_channels_in_another_order():
    rgb = build(RESNET, MODELS)
    model = build(RESNET, MODELS)
    load_matching(model, rgb.state_dict(), bands=(None, 'R', 'G'), logger=None)
    first = rgb.conv1.weight
    assert torch.allclose(model.conv1.weight, torch.stack([first.mean(1), first[:, 0], first[:, 1]], 1))


@pytest.mark.parametrize(('old', 'new'), [(5, 3), (5, 7), (1, 3)])
def test_other_weights_than_rgb_are_refused_by_name(old, new):
    source, model = (build({**RESNET, 'in_channels': count}, MODELS) for count in (old, new))
    with pytest.raises(MismatchError, match=f'conv1.weight reads {old} channels.*set in_channels={old}'):
        load_weights(model, source.state_dict(), logger=None)


@pytest.mark.parametrize(
    'bands', [('R', 'G', 'B'), ('R', 'R', 'G', 'B', None), ('X', None, None, None, None)]
)
def test_wrong_bands(bands):
    rgb, model = (build({**RESNET, 'in_channels': count}, MODELS) for count in (3, 5))
    with pytest.raises(ValueError, match='each of the 5 channels'):
        load_weights(model, rgb.state_dict(), bands=bands, logger=None)


def test_bands_of_weights_that_have_grown():
    five = build({**RESNET, 'in_channels': 5}, MODELS)
    with pytest.raises(MismatchError, match='reads 5 channels already; leave out bands'):
        load_weights(five, five.state_dict(), bands=('R', 'G', 'B', None, None), logger=None)


def test_sam_needs_a_mean_for_each_channel():
    encoder = dict(type='mmssl.SAMImageEncoder', in_channels=5, **BACKBONES['mmssl.SAMImageEncoder'])
    with pytest.raises(ValueError, match='reads 5 channels; give both 5 values'):
        build(dict(type='mmssl.SAM', image_encoder=encoder), MODELS)
    model = build(
        dict(type='mmssl.SAM', image_encoder=encoder, pixel_mean=[100.0] * 5, pixel_std=[50.0] * 5), MODELS
    )
    record = dict(
        image=torch.rand(5, 24, 32) * 255, original_size=(24, 32), boxes=torch.tensor([[2.0, 3, 20, 20]])
    )
    assert model([record], False)[0]['masks'].shape == (1, 1, 24, 32)
