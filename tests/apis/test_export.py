"""Backbones in other libraries: loaded there for real, outputs equal; safetensors in and out."""

import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from mmssl.apis import export_backbone, get_model
from mmssl.checkpoint import load_file, save_file
from mmssl.cli import main
from mmssl.convert import from_official
from mmssl.layers.vit import ViT

ARCH = dict(embed_dims=32, num_layers=2, num_heads=4, feedforward_channels=96)


def classifier(**backbone):
    """A small ViT as a model of a config."""
    from mmengine.config import Config

    return get_model(
        Config(
            dict(
                default_scope='mmpretrain',
                model=dict(
                    type='ImageClassifier',
                    data_preprocessor=dict(mean=[100.0, 110.0, 120.0], std=[50.0, 60.0, 70.0], to_rgb=True),
                    backbone=backbone
                    if 'type' in backbone
                    else dict(type='mmssl.ViT', arch=ARCH, img_size=32, patch_size=8, **backbone),
                ),
            )
        )
    )


@pytest.fixture(scope='module')
def vit():
    torch.manual_seed(0)
    model = classifier()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope='module')
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def tokens(model, images):
    model.backbone.out_type = 'raw'
    try:
        with torch.no_grad():
            return model.backbone(images)[-1]
    finally:
        model.backbone.out_type = 'featmap'


@pytest.mark.parametrize('side', [32, (32, 48)])
def test_a_vit_opens_in_timm(tmp_path, side):
    timm = pytest.importorskip('timm')
    model = (
        classifier() if side == 32 else classifier(type='mmssl.ViT', arch=ARCH, img_size=side, patch_size=8)
    )
    text = export_backbone(model, tmp_path / 'out', 'timm')
    assert text == f"timm.create_model('local-dir:{tmp_path}/out', pretrained=True, num_classes=0)"
    theirs = timm.create_model(f'local-dir:{tmp_path}/out', pretrained=True, num_classes=0).eval()
    assert not list(theirs.head.parameters())
    assert theirs.pretrained_cfg['mean'] == pytest.approx((100 / 255, 110 / 255, 120 / 255), abs=1e-6)
    images = torch.randn(2, 3, *((side, side) if isinstance(side, int) else side))
    with torch.no_grad():
        torch.testing.assert_close(theirs.forward_features(images), tokens(model, images), atol=1e-5, rtol=0)


def test_a_vit_with_average_pooling_opens_in_timm(tmp_path, images):
    timm = pytest.importorskip('timm')
    model = classifier(out_type='avg_featmap', final_norm=False)
    export_backbone(model, tmp_path / 'out', 'timm')
    theirs = timm.create_model(f'local-dir:{tmp_path}/out', pretrained=True, num_classes=0).eval()
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), model.backbone(images)[-1], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="is no ViTModel: mmssl keys do not fit family 'hf-vit'"):
        export_backbone(model, tmp_path / 'hf', 'hf')
    assert not (tmp_path / 'hf').exists()


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize(
    'changes',
    [
        {},
        dict(img_size=(32, 48)),
        dict(out_type='avg_featmap', final_norm=False),
        dict(in_channels=1, patch_size=4),
        dict(arch='tiny'),
    ],
)
def test_the_printed_call_builds_the_network_of_timm(changes, suffix, tmp_path):
    timm = pytest.importorskip('timm')
    model = ViT(**{**dict(arch=ARCH, img_size=32, patch_size=8), **changes}).eval()
    text = export_backbone(model, tmp_path / f'out{suffix}', 'timm')
    call = text.partition('model = ')[2].partition('; model.load_state_dict(')[0]
    assert call.startswith('timm.create_model(') and 'embed_dim=' in call and 'depth=' in call
    theirs = eval(call, dict(timm=timm)).eval()
    stored = json.loads((tmp_path / 'out.json').read_text())
    same = timm.create_model(stored['architecture'], num_classes=0, **stored['model_args'])
    for network in (theirs, same):
        network.load_state_dict(load_file(tmp_path / f'out{suffix}'), strict=True)
    images = torch.randn(2, model.patch_embed.projection.in_channels, *model.img_size)
    model.out_type = 'raw'
    with torch.no_grad():
        ours = model(images)[-1]
        if not model.final_norm:
            model.out_type = 'avg_featmap'
            torch.testing.assert_close(theirs(images), model(images)[-1], atol=1e-5, rtol=0)
            return
        torch.testing.assert_close(theirs.forward_features(images), ours, atol=1e-5, rtol=0)


def plain_vit(weights, config, pixels):
    """ViTModel as its documentation has it, from the names of its file; no line of it shared with ours."""

    def linear(name, x):
        return x @ weights[f'{name}.weight'].T + weights[f'{name}.bias']

    def norm(name, x):
        return nn.functional.layer_norm(
            x, x.shape[-1:], weights[f'{name}.weight'], weights[f'{name}.bias'], config['layer_norm_eps']
        )

    patches = nn.functional.conv2d(
        pixels,
        weights['embeddings.patch_embeddings.projection.weight'],
        weights['embeddings.patch_embeddings.projection.bias'],
        stride=config['patch_size'],
    )
    x = torch.cat(
        [weights['embeddings.cls_token'].expand(len(pixels), -1, -1), patches.flatten(2).transpose(1, 2)], 1
    )
    x = x + weights['embeddings.position_embeddings']
    heads = config['num_attention_heads']
    for number in range(config['num_hidden_layers']):
        layer = f'encoder.layer.{number}'
        inner = norm(f'{layer}.layernorm_before', x)
        q, k, v = (
            linear(f'{layer}.attention.attention.{part}', inner).unflatten(-1, (heads, -1)).transpose(1, 2)
            for part in ('query', 'key', 'value')
        )
        mixed = ((q @ k.transpose(-1, -2)) / q.shape[-1] ** 0.5).softmax(-1) @ v
        x = x + linear(f'{layer}.attention.output.dense', mixed.transpose(1, 2).flatten(2))
        inner = nn.functional.gelu(linear(f'{layer}.intermediate.dense', norm(f'{layer}.layernorm_after', x)))
        x = x + linear(f'{layer}.output.dense', inner)
    return norm('layernorm', x)


def test_a_vit_in_the_names_of_hugging_face(vit, tmp_path, images):
    text = export_backbone(vit, tmp_path / 'out', 'hf')
    assert 'ViTModel.from_pretrained' in text
    config = json.loads((tmp_path / 'out/config.json').read_text())
    assert (
        config['model_type'],
        config['hidden_size'],
        config['intermediate_size'],
        config['image_size'],
    ) == ('vit', 32, 96, 32)
    weights = load_file(tmp_path / 'out/model.safetensors')
    with torch.no_grad():
        torch.testing.assert_close(plain_vit(weights, config, images), tokens(vit, images), atol=1e-5, rtol=0)
    back = from_official('hf-vit', weights, prefix='')
    assert back.keys() == vit.backbone.state_dict().keys()
    assert all(torch.equal(back[key], value) for key, value in vit.backbone.state_dict().items())
    processor = json.loads((tmp_path / 'out/preprocessor_config.json').read_text())
    assert processor['size'] == {'height': 32, 'width': 32}
    assert processor['image_std'] == pytest.approx([50 / 255, 60 / 255, 70 / 255], abs=1e-6)


def test_a_vit_opens_in_transformers(vit, tmp_path, images):
    if importlib.util.find_spec('transformers') is None:
        pytest.skip('transformers is not installed')
    export_backbone(vit, tmp_path / 'out', 'hf')
    torch.save(images, tmp_path / 'images.pt')
    code = (
        "import torch, transformers; model, report = transformers.ViTModel.from_pretrained('out', "
        'add_pooling_layer=False, '
        "output_loading_info=True); assert not report['missing_keys'] and not report['unexpected_keys'], "
        'report; '
        "torch.save(model.eval()(torch.load('images.pt')).last_hidden_state.detach(), 'found.pt')"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    torch.testing.assert_close(torch.load(tmp_path / 'found.pt'), tokens(vit, images), atol=1e-5, rtol=0)


def test_hugging_face_names_that_lack_a_part_are_refused(vit, tmp_path):
    export_backbone(vit, tmp_path / 'out', 'hf')
    weights = load_file(tmp_path / 'out/model.safetensors')
    del weights['encoder.layer.1.attention.attention.key.bias']
    with pytest.raises(ValueError, match='encoder.layer.1.attention.attention.query.bias'):
        from_official('hf-vit', weights)


@pytest.mark.parametrize('depth', [18, 50])
def test_a_resnet_opens_in_torchvision_and_timm(depth, tmp_path):
    import torchvision

    timm = pytest.importorskip('timm')
    model = classifier(type='ResNet', depth=depth)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
    export_backbone(model, tmp_path / 'out.safetensors', 'torchvision')
    export_backbone(model, tmp_path / 'timm', 'timm')
    theirs = getattr(torchvision.models, f'resnet{depth}')().eval()
    theirs.fc = nn.Identity()
    theirs.load_state_dict(load_file(tmp_path / 'out.safetensors'), strict=True)
    second = timm.create_model(f'local-dir:{tmp_path}/timm', pretrained=True, num_classes=0).eval()
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours = model.backbone(images)[-1].mean((2, 3))
        torch.testing.assert_close(theirs(images), ours, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(second(images), ours, atol=1e-5, rtol=1e-5)
    assert second.num_features == ours.shape[1]


def test_a_mobilenet_opens_in_torchvision(tmp_path):
    import torchvision

    model = classifier(type='MobileNetV2')
    text = export_backbone(model, tmp_path / 'out.pth', 'torchvision')
    theirs = torchvision.models.mobilenet_v2().eval()
    theirs.classifier = nn.Identity()
    assert 'model.classifier = torch.nn.Identity()' in text
    theirs.load_state_dict(torch.load(tmp_path / 'out.pth', weights_only=True), strict=True)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(images), model.backbone(images)[-1].mean((2, 3)), atol=1e-5, rtol=1e-5
        )


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(depth=50, style='caffe'), "style='caffe'"),
        (dict(depth=18, stem_channels=8, base_channels=8), '8 channels in its stem'),
        (dict(depth=18, strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2)), 'would compute something else'),
    ],
)
def test_resnets_that_torchvision_lacks_are_refused(settings, message, tmp_path):
    from mmpretrain.models import ResNet

    with pytest.raises(ValueError, match=message):
        export_backbone(ResNet(**settings), tmp_path / 'out.pth', 'torchvision')
    assert not list(tmp_path.iterdir())


def test_wrong_targets_and_names(vit, tmp_path):
    with pytest.raises(ValueError, match="no target 'tim'; did you mean 'timm'"):
        export_backbone(vit, tmp_path / 'out', 'tim')
    with pytest.raises(
        ValueError,
        match='torchvision takes resnet and mobilenetv2 here, not ViT; .*: timm, hf, safetensors, onnx',
    ):
        export_backbone(vit, tmp_path / 'out.pth', 'torchvision')
    with pytest.raises(ValueError, match='ends in .onnx for onnx'):
        export_backbone(vit, tmp_path / 'out', 'onnx')
    (tmp_path / 'out.pth').touch()
    with pytest.raises(FileExistsError, match='out.pth exists; --force'):
        export_backbone(vit, tmp_path / 'out.pth', 'timm')
    export_backbone(vit, tmp_path / 'out.pth', 'timm', force=True)
    assert 'blocks.0.attn.qkv.weight' in torch.load(tmp_path / 'out.pth', weights_only=True)


@pytest.mark.compile
def test_onnx_gives_the_features(vit, tmp_path):
    runtime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    from mmssl.evaluation.features import extract_features

    pixels = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    expected, _ = extract_features(vit, [(pixels.flip(1), torch.zeros(3))])  # loaders give BGR
    export_backbone(vit, tmp_path / 'out.onnx', 'onnx')
    session = runtime.InferenceSession(str(tmp_path / 'out.onnx'), providers=['CPUExecutionProvider'])
    (features,) = session.run(None, {'image': pixels.float().numpy()})
    assert np.allclose(features, expected.numpy(), atol=1e-4)
    assert [path.name for path in tmp_path.iterdir()] == ['out.onnx']


def test_the_command(tmp_path, capsys):
    model = get_model('smoke/mae')
    save_file({'state_dict': model.state_dict(), 'optimizer': {}, 'meta': {}}, tmp_path / 'mae.pth')
    assert (
        main(
            [
                'export',
                'backbone',
                'smoke/mae',
                str(tmp_path / 'mae.pth'),
                str(tmp_path / 'timm'),
                '--to',
                'timm',
            ]
        )
        == 0
    )
    assert 'timm.create_model' in capsys.readouterr().out and (tmp_path / 'timm/model.safetensors').is_file()
    assert (
        main(
            [
                'export',
                'backbone',
                'smoke/mae',
                str(tmp_path / 'mae.pth'),
                str(tmp_path / 'b.safetensors'),
                '--to',
                'safetensors',
            ]
        )
        == 0
    )
    assert main(['export', 'weights', str(tmp_path / 'mae.pth'), str(tmp_path / 'w.safetensors')]) == 0
    assert (
        main(
            [
                'export',
                'weights',
                str(tmp_path / 'w.safetensors'),
                str(tmp_path / 'e.pth'),
                '--prefix',
                'backbone',
            ]
        )
        == 0
    )
    whole, encoder = load_file(tmp_path / 'w.safetensors'), load_file(tmp_path / 'e.pth')['state_dict']
    assert whole.keys() == model.state_dict().keys() and encoder.keys() == model.backbone.state_dict().keys()
    again = get_model('smoke/mae', pretrained=tmp_path / 'b.safetensors')
    assert all(torch.equal(value, encoder[key]) for key, value in again.backbone.state_dict().items())
    capsys.readouterr()
    assert main(['export', 'weights', str(tmp_path / 'mae.pth'), str(tmp_path / 'w.safetensors')]) == 1
    assert '--force replaces it' in capsys.readouterr().err
    assert (
        main(['export', 'backbone', 'smoke/gcn', 'random', str(tmp_path / 'gcn.pth'), '--to', 'torchvision'])
        == 1
    )
    assert '8 channels in its stem' in capsys.readouterr().err


def test_two_names_of_one_memory_are_written(tmp_path):
    from mmssl.checkpoint.weight_files import write_weights

    weight = torch.arange(6.0).view(2, 3)
    write_weights({'a': weight, 'b': weight, 'c': weight.T}, str(tmp_path / 'w.safetensors'))
    found = load_file(tmp_path / 'w.safetensors')
    assert (
        torch.equal(found['a'], weight)
        and torch.equal(found['b'], weight)
        and torch.equal(found['c'], weight.T)
    )


def test_training_starts_from_safetensors(tmp_path):
    """``load_from`` and ``init_cfg`` take the format too."""
    from mmengine.runner import load_checkpoint

    model = get_model('smoke/mae')
    model.backbone.cls_token.data.fill_(0.5)
    from mmssl.checkpoint.weight_files import write_weights

    write_weights(model.state_dict(), str(tmp_path / 'mae.safetensors'))
    other = get_model('smoke/mae')
    load_checkpoint(other, str(tmp_path / 'mae.safetensors'))
    assert torch.equal(other.backbone.cls_token, model.backbone.cls_token)
    other.backbone.init_cfg = dict(
        type='Pretrained', checkpoint=str(tmp_path / 'mae.safetensors'), prefix='backbone.'
    )
    other.backbone.cls_token.data.zero_()
    other.backbone._is_init = False
    other.backbone.init_weights()
    assert torch.equal(other.backbone.cls_token, model.backbone.cls_token)
