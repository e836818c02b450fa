"""Backbones by timm's names, against timm and Hugging Face.

transformers is in the extra ``bench``: where it is installed, mmengine and mmdet import it in every process.
"""

import functools

import pytest
import timm
import torch
from torch import nn

from mmssl.apis import get_backbone
from mmssl.apis.backbones import backbone_config
from mmssl.convert import from_official, to_official
from mmssl.errors import UserError

# name, the width and depth to which timm's model and ours are cut
SHAPES = [
    ('vit_small_patch14_dinov2', 518),
    ('vit_base_patch14_dinov2', 518),
    ('vit_large_patch14_dinov2', 518),
    ('vit_giant_patch14_dinov2', 518),
    ('vit_small_patch14_reg4_dinov2', 518),
    ('vit_base_patch14_reg4_dinov2', 518),
    ('vit_large_patch14_reg4_dinov2', 518),
    ('vit_giant_patch14_reg4_dinov2', 518),
    ('vit_small_patch16_dinov3', 256),
    ('vit_small_plus_patch16_dinov3', 256),
    ('vit_base_patch16_dinov3', 256),
    ('vit_large_patch16_dinov3', 256),
    ('vit_tiny_patch16_dinov3_qkvb', 256),
    ('vit_huge_plus_patch16_dinov3', 256),
    ('vit_7b_patch16_dinov3', 256),
    ('vit_huge_patch14_gap_224', 224),
    ('vit_giant_patch16_gap_224', 224),
    ('vit_base_patch16_224', 224),
]


def seeded(module):
    """Give every weight of a module a value that is neither 0 nor 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.05 if parameter.ndim > 1 else 0.3, generator=generator)
    return module.eval()


def cut(name):
    """timm's model of a name with two layers, and the arguments that cut ours alike."""
    options = dict(dynamic_img_size=True) if 'dinov3' not in name else {}
    with torch.device('meta'):
        depth = len(timm.create_model(name, num_classes=0).blocks)
    model = timm.create_model(name, num_classes=0, depth=2, **options)
    assert depth == backbone_config(name)['arch']['num_layers']
    return seeded(model), dict(arch={**backbone_config(name)['arch'], 'num_layers': 2})


# the widest models have up to 134 million weights a layer: their settings are compared on no device
@pytest.mark.parametrize(('name', 'size'), SHAPES)
def test_shapes_equal_timms(name, size):
    with torch.device('meta'):
        theirs = timm.create_model(name, num_classes=0)
        weights = theirs.state_dict()
        backbone = get_backbone(name)
        renamed = from_official('timm-vit', weights, prefix='')
        assert {key: value.shape for key, value in renamed.items()} == {
            key: value.shape for key, value in backbone.state_dict().items()
        }
        back = to_official('timm-vit', renamed, prefix='')
    assert {key: value.shape for key, value in back.items()} == {
        key: value.shape for key, value in weights.items()
    }
    assert backbone.arch_settings['num_heads'] == theirs.blocks[0].attn.num_heads
    assert backbone.layers[0].ln1.eps == theirs.blocks[0].norm1.eps
    assert backbone.img_size == (size, size)


@pytest.mark.parametrize(
    ('name', 'sizes'),
    [
        ('vit_small_patch14_dinov2', [(518, 518), (70, 98), (532, 56)]),
        ('vit_small_patch14_reg4_dinov2', [(70, 98), (546, 28)]),
        ('vit_small_patch16_dinov3', [(256, 256), (80, 48)]),
        ('vit_small_plus_patch16_dinov3', [(80, 48)]),
        ('vit_tiny_patch16_dinov3_qkvb', [(80, 48)]),
        ('vit_base_patch16_224', [(224, 224), (80, 48)]),
    ],
)
def test_features_equal_timms_and_weights_go_there_and_back(name, sizes):
    theirs, overrides = cut(name)
    ours = get_backbone(name, theirs.state_dict(), **overrides)
    assert not ours.training
    for size in sizes:
        x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
        with torch.no_grad():
            expected = theirs.forward_features(x)[:, theirs.num_prefix_tokens :]
            features = ours(x)[-1]
        assert features.shape[2:] == (
            size[0] // ours.patch_embed.patch_size[0],
            expected.shape[1] // features.shape[2],
        )
        torch.testing.assert_close(features.flatten(2).transpose(1, 2), expected, rtol=1e-5, atol=1e-5)
    back = to_official('timm-vit', ours.state_dict(), prefix='')
    for key, value in theirs.state_dict().items():
        torch.testing.assert_close(back.pop(key), value)
    assert not back


# every shape with two layers and two heads, as wide as its own, and with its own feed-forward network
@pytest.mark.parametrize('grid', [(5, 7), (40, 3)], ids=['rectangle', 'larger than the table'])
@pytest.mark.parametrize('name', [name for name, _ in SHAPES if 'dinov' in name])
def test_narrow_shapes_equal_timms(name, grid):
    arch = backbone_config(name)['arch']
    sizes = dict(embed_dim=2 * arch['embed_dims'] // arch['num_heads'], num_heads=2, depth=2)
    options = dict(dynamic_img_size=True) if 'dinov3' not in name else {}
    theirs = seeded(timm.create_model(name, num_classes=0, **sizes, **options))
    arch = dict(
        embed_dims=sizes['embed_dim'],
        num_layers=2,
        num_heads=2,
        feedforward_channels=theirs.blocks[0].mlp.fc2.in_features,
    )
    ours = get_backbone(name, theirs.state_dict(), arch=arch)
    patch = ours.patch_embed.patch_size[0]
    x = torch.randn(1, 3, grid[0] * patch, grid[1] * patch, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs.forward_features(x)[:, theirs.num_prefix_tokens :]
        features = ours(x)[-1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    back = to_official('timm-vit', ours.state_dict(), prefix='')
    weights = theirs.state_dict()
    assert back.keys() == weights.keys()
    for key, value in weights.items():
        torch.testing.assert_close(back[key], value)


def test_a_classifiers_head_is_left_out():
    theirs = seeded(timm.create_model('vit_tiny_patch16_224', num_classes=5))
    ours = get_backbone('vit_tiny_patch16_224', theirs.state_dict())
    x = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = theirs.forward_features(x)[:, 1:]
        torch.testing.assert_close(ours(x)[-1].flatten(2).transpose(1, 2), expected, rtol=1e-5, atol=1e-5)


def test_a_table_of_another_size_sets_the_size_of_the_images():
    theirs = seeded(timm.create_model('vit_tiny_patch16_224', num_classes=0, img_size=64))
    ours = get_backbone('vit_tiny_patch16_224', theirs.state_dict())
    assert ours.img_size == (64, 64)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = theirs.forward_features(x)[:, 1:]
        torch.testing.assert_close(ours(x)[-1].flatten(2).transpose(1, 2), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('size', ['tiny', 'small', 'base', 'large'])
def test_shapes_of_convnext_equal_timms(size, monkeypatch):
    # mmpretrain reads its rates of stochastic depth out of a tensor
    monkeypatch.setattr(torch, 'linspace', functools.partial(torch.linspace, device='cpu'))
    with torch.device('meta'):
        weights = timm.create_model(f'convnext_{size}', num_classes=0).state_dict()
        backbone = get_backbone(f'convnext_{size}.dinov3_lvd1689m')
        renamed = from_official('convnext', weights, prefix='')
    own = backbone.state_dict()
    assert {key: value.shape for key, value in renamed.items()} == {
        key: value.shape for key, value in own.items()
    }


def test_convnext_equals_timms():
    theirs = seeded(timm.create_model('convnext_tiny', num_classes=0, drop_path_rate=0.0))
    ours = get_backbone('convnext_tiny.dinov3_lvd1689m', theirs.state_dict())
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = theirs.head.norm(theirs.forward_features(x))
        torch.testing.assert_close(ours(x)[-1], expected, rtol=1e-4, atol=1e-5)
    back = to_official('convnext', ours.state_dict(), prefix='')
    assert all(torch.equal(back[key], value) for key, value in theirs.state_dict().items())


HF_SIZES = dict(hidden_size=384, num_hidden_layers=2, num_attention_heads=6)
HF_MODELS = [
    ('Dinov2', dict(image_size=518, patch_size=14), 'vit_small_patch14_dinov2', 1),
    (
        'Dinov2',
        dict(image_size=518, patch_size=14, use_swiglu_ffn=True),
        'vit_giant_patch14_dinov2',
        1,
    ),
    ('Dinov2WithRegisters', dict(image_size=518, patch_size=14), 'vit_small_patch14_reg4_dinov2', 5),
    (
        'DINOv3ViT',
        dict(intermediate_size=1536, num_register_tokens=4, layer_norm_eps=1e-5),
        'vit_small_patch16_dinov3',
        5,
    ),
    (
        'DINOv3ViT',
        dict(
            intermediate_size=1536,
            num_register_tokens=4,
            use_gated_mlp=True,
            hidden_act='silu',
            layer_norm_eps=1e-5,
        ),
        'vit_small_plus_patch16_dinov3',
        5,
    ),
]


@pytest.mark.parametrize(('family', 'settings', 'name', 'leading'), HF_MODELS)
def test_features_equal_hugging_faces_and_weights_go_there_and_back(
    family, settings, name, leading, tmp_path
):
    transformers = pytest.importorskip('transformers')
    model_class = getattr(transformers, f'{family}Model')
    theirs = seeded(model_class(getattr(transformers, f'{family}Config')(**HF_SIZES, **settings)))
    theirs.save_pretrained(tmp_path)
    config = backbone_config(name)
    hidden = (int(4 * 384 * 2 / 3) + 7) // 8 * 8 if 'giant' in name else 1536
    overrides = dict(
        arch=dict(embed_dims=384, num_layers=2, num_heads=6, feedforward_channels=hidden),
    )
    if 'dinov3' in name:
        overrides['qkv_bias'] = 'qv_bias'
    ours = get_backbone(name, checkpoint=tmp_path / 'model.safetensors', **overrides)
    in_memory = get_backbone(name, theirs.state_dict(), **overrides)
    patch = config['patch_size']
    for grid in ((5, 7), (40, 3)):
        x = torch.randn(1, 3, grid[0] * patch, grid[1] * patch)
        with torch.no_grad():
            expected = theirs(x).last_hidden_state[:, leading:]
            features = ours(x)[-1].flatten(2).transpose(1, 2)
        torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
        assert torch.equal(in_memory(x)[-1], ours(x)[-1])
    from safetensors.torch import load_file

    back = to_official('hf-vit', ours.state_dict(), prefix='')
    files = load_file(tmp_path / 'model.safetensors')
    assert back.keys() == files.keys()
    assert all(torch.equal(back[key], value) for key, value in files.items() if 'mask_token' not in key)


def test_ijepa_equals_hugging_faces(tmp_path):
    transformers = pytest.importorskip('transformers')
    sizes = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128)
    theirs = transformers.IJepaModel(
        transformers.IJepaConfig(**sizes, image_size=56, patch_size=14, layer_norm_eps=1e-6),
        add_pooling_layer=False,
    )
    seeded(theirs).save_pretrained(tmp_path)
    arch = dict(embed_dims=64, num_layers=2, num_heads=4, feedforward_channels=128)
    ours = get_backbone('vit_huge_patch14_gap_224', checkpoint=tmp_path / 'model.safetensors', arch=arch)
    x = torch.randn(1, 3, 56, 56)
    with torch.no_grad():
        expected = theirs(x).last_hidden_state
    torch.testing.assert_close(ours(x)[-1].flatten(2).transpose(1, 2), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: get_backbone('vit_small_patch14_dinov4'), 'dinov4'),
        (lambda: get_backbone('resnet50'), "'resnet50'"),
        (lambda: get_backbone('vit_tiny_patch16_224', {}, 'x.pth'), 'both given'),
        (lambda: get_backbone('vit_tiny_patch16_224', nn.Linear(2, 2).state_dict()), 'no known release'),
        (
            lambda: get_backbone(
                'vit_small_patch16_224', timm.create_model('vit_tiny_patch16_224').state_dict()
            ),
            'do not fit vit_small_patch16_224',
        ),
    ],
)
def test_wrong_use_is_named(call, message):
    with pytest.raises(UserError, match=message):
        call()
