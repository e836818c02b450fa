"""Key maps against real timm models and against the names of the released MAE files."""

import pytest
import torch

from mmssl.convert import families, from_official, to_official

timm = pytest.importorskip('timm')
mae = pytest.importorskip('mmssl.selfsup.mae')
from mmssl.layers.vit import ViT  # noqa: E402


def official_mae(width=768, depth=12, decoder_width=512, decoder_depth=8, tokens=197, decoder=True, **extra):
    """A state dict with the names of ``models_mae.py``, written out one by one."""

    def block(stem, c, hidden):
        return {
            f'{stem}.norm1.weight': (c,),
            f'{stem}.norm1.bias': (c,),
            f'{stem}.attn.qkv.weight': (3 * c, c),
            f'{stem}.attn.qkv.bias': (3 * c,),
            f'{stem}.attn.proj.weight': (c, c),
            f'{stem}.attn.proj.bias': (c,),
            f'{stem}.norm2.weight': (c,),
            f'{stem}.norm2.bias': (c,),
            f'{stem}.mlp.fc1.weight': (hidden, c),
            f'{stem}.mlp.fc1.bias': (hidden,),
            f'{stem}.mlp.fc2.weight': (c, hidden),
            f'{stem}.mlp.fc2.bias': (c,),
        }

    shapes = {'cls_token': (1, 1, width), 'pos_embed': (1, tokens, width)}
    shapes |= {'patch_embed.proj.weight': (width, 3, 16, 16), 'patch_embed.proj.bias': (width,)}
    for i in range(depth):
        shapes |= block(f'blocks.{i}', width, 4 * width)
    shapes |= {'norm.weight': (width,), 'norm.bias': (width,)}
    if decoder:
        d = decoder_width
        shapes |= {'mask_token': (1, 1, d), 'decoder_pos_embed': (1, tokens, d)}
        shapes |= {'decoder_embed.weight': (d, width), 'decoder_embed.bias': (d,)}
        for i in range(decoder_depth):
            shapes |= block(f'decoder_blocks.{i}', d, 4 * d)
        shapes |= {
            'decoder_norm.weight': (d,),
            'decoder_norm.bias': (d,),
            'decoder_pred.weight': (768, d),
            'decoder_pred.bias': (768,),
        }
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) for key, shape in (shapes | extra).items()}


def small_mae(**extra):
    return official_mae(width=32, depth=3, decoder_width=16, decoder_depth=2, tokens=17, **extra)


def assert_identical(first, second):
    assert list(first) == list(second)
    assert all(first[key] is second[key] for key in first)


def random_weights(model):
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.data.normal_(0, 0.05, generator=generator)
    return model.eval()


def test_pre_training_file_loads_strictly_into_our_mae():
    official = official_mae()
    assert len(official) == 254
    ours = from_official('mae', {'model': official})
    model = mae.MAE(backbone=mae.MAEViT(arch='b'), neck=mae.MAEDecoder(embed_dim=768), head=mae.MAEHead())
    model.load_state_dict(ours, strict=True)
    assert torch.equal(
        model.backbone.layers[11].ffn.layers[0][0].weight, official['blocks.11.mlp.fc1.weight']
    )
    assert torch.equal(model.neck.decoder_blocks[7].attn.qkv.bias, official['decoder_blocks.7.attn.qkv.bias'])
    assert torch.equal(model.neck.ln1.weight, official['decoder_norm.weight'])
    assert set(to_official('mae', model.state_dict())) == set(official)


def test_pre_training_file_loads_strictly_into_mmpretrain():
    from mmpretrain.models import MAE
    from mmpretrain.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    model = MAE(
        backbone=dict(type='mmpretrain.MAEViT', arch='b'),
        neck=dict(type='mmpretrain.MAEPretrainDecoder', num_patches=196, embed_dim=768),
        data_preprocessor=dict(type='mmpretrain.SelfSupDataPreprocessor'),
    )
    report = model.load_state_dict(from_official('mae', official_mae()), strict=True)
    assert not report.missing_keys and not report.unexpected_keys


HEAD = {'head.weight': (10, 32), 'head.bias': (10,)}
PROBE = {
    'head.0.running_mean': (32,),
    'head.0.running_var': (32,),
    'head.0.num_batches_tracked': (),
    'head.1.weight': (10, 32),
    'head.1.bias': (10,),
}


@pytest.mark.parametrize(
    ('extra', 'pool'), [({}, False), (HEAD, False), (HEAD, True), (PROBE, False), (PROBE, True)]
)
def test_round_trip_of_files_without_decoder(extra, pool):
    official = small_mae(decoder=False, **extra)
    if pool:
        official = {
            key.replace('norm.', 'fc_norm.') if key.startswith('norm.') else key: value
            for key, value in official.items()
        }
    ours = from_official('mae', official)
    assert ('backbone.ln2.weight' in ours) == pool and ('backbone.ln1.weight' in ours) != pool
    assert_identical(to_official('mae', ours), official)


def test_fine_tuned_file_loads_into_an_image_classifier():
    from mmpretrain.models import ImageClassifier

    official = official_mae(
        width=192, depth=12, decoder=False, **{'head.weight': (10, 192), 'head.bias': (10,)}
    )
    official = {
        key.replace('norm.', 'fc_norm.') if key.startswith('norm.') else key: value
        for key, value in official.items()
    }
    arch = dict(embed_dims=192, num_layers=12, num_heads=3, feedforward_channels=768)
    model = ImageClassifier(
        backbone=dict(
            type='mmpretrain.VisionTransformer', arch=arch, out_type='avg_featmap', final_norm=False
        ),
        head=dict(
            type='mmpretrain.LinearClsHead',
            num_classes=10,
            in_channels=192,
            loss=dict(type='mmpretrain.CrossEntropyLoss'),
        ),
        data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'),
    )
    model.load_state_dict(from_official('mae', official), strict=True)
    net = timm.create_model('vit_tiny_patch16_224', num_classes=10, global_pool='avg').eval()
    net.load_state_dict(official, strict=True)
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(images, mode='tensor'), net(images), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize('pooled', [False, True])
def test_timm_model_and_our_backbone_give_the_same_features(pooled):
    net = random_weights(
        timm.create_model('vit_tiny_patch16_224', num_classes=0, global_pool='avg' if pooled else 'token')
    )
    arch = dict(embed_dims=192, num_layers=12, num_heads=3, feedforward_channels=768)
    ours = ViT(
        arch=arch,
        img_size=224,
        patch_size=16,
        out_type='avg_featmap' if pooled else 'cls_token',
        final_norm=not pooled,
    ).eval()
    ours.load_state_dict(from_official('timm-vit', net.state_dict(), prefix=''), strict=True)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(ours(images)[-1], net(images), atol=1e-5, rtol=1e-5)


def test_vit_b_exports_to_timm_and_comes_back():
    ours = random_weights(ViT(arch='b', img_size=224, patch_size=16, out_type='cls_token'))
    exported = to_official('timm-vit', {f'backbone.{key}': value for key, value in ours.state_dict().items()})
    net = timm.create_model('vit_base_patch16_224', num_classes=0).eval()
    net.load_state_dict(exported, strict=True)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        torch.testing.assert_close(net(images), ours(images)[-1], atol=1e-5, rtol=1e-5)
    back = from_official('timm-vit', exported, prefix='')
    assert list(back) == list(ours.state_dict())
    assert all(torch.equal(back[key], value) for key, value in ours.state_dict().items())


def test_every_family_is_listed_with_unique_rows_on_both_sides():
    assert {'mae', 'timm-vit'} <= set(families())
    for family in families().values():
        for layout, rows in family.layouts.items():
            for side in ('official', 'ours'):
                names = [getattr(row, side) for row in rows]
                assert len(set(names)) == len(names), (family.name, layout)
            assert all(('{i}' in row.official) == ('{i}' in row.ours) for row in rows)


def test_unknown_family_names_the_nearest():
    with pytest.raises(ValueError, match="no family 'timm_vit'; did you mean 'timm-vit'"):
        from_official('timm_vit', {})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda s: s.update({'blocks.0.attn.q_norm.weight': torch.zeros(8)}),
            '1 unknown: blocks.0.attn.q_norm.weight',
        ),
        (lambda s: s.pop('blocks.1.mlp.fc2.bias'), '1 missing: blocks.1.mlp.fc2.bias'),
        (
            lambda s: [s.pop(key) for key in list(s) if key.startswith('blocks.1.')],
            '12 missing: blocks.1.norm1.weight',
        ),
        (lambda s: s.pop('decoder_norm.weight'), '1 missing: decoder_norm.weight'),
        (
            lambda s: s.update({'blocks.2.attn.qkv.weight': torch.zeros(64, 32)}),
            r'blocks.2.attn.qkv.weight \(64, 32\), expected \(3C, C\) = \(96, 32\)',
        ),
        (lambda s: s.update({'mask_token': torch.zeros(16)}), r'mask_token \(16,\), expected \(1, 1, D\)'),
        (lambda s: s.update({'epoch': 3}), 'not tensors: epoch'),
    ],
    ids=['unknown', 'missing', 'gap', 'decoder', 'shape', 'dimensions', 'value'],
)
def test_a_file_that_does_not_fit_is_refused_with_its_keys(change, message):
    official = small_mae()
    change(official)
    with pytest.raises(ValueError, match=message):
        from_official('mae', official)


def test_wrong_direction_prefix_and_decoder_are_explained():
    official = small_mae()
    ours = from_official('mae', official)
    with pytest.raises(ValueError, match='other direction'):
        from_official('mae', ours)
    with pytest.raises(ValueError, match='other direction'):
        to_official('mae', official)
    with pytest.raises(ValueError, match='drop neck'):
        to_official('timm-vit', ours)
    with pytest.raises(ValueError, match='not weights by name'):
        from_official('mae', [1, 2])


def test_the_input_is_left_alone():
    official = small_mae()
    before = dict(official)
    from_official('mae', official)
    assert_identical(official, before)
