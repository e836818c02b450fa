"""Files of the BEiT release: their names, written out, into our models and the host's, and back."""

import pytest
import torch

from mmssl.convert import from_official, to_official
from mmssl.layers.beit_vit import BEiTViT
from mmssl.registry import MODELS

ARCH = dict(embed_dims=32, num_layers=3, num_heads=4, feedforward_channels=64)


def official_beit(
    tuned=False, head=True, mask=True, pooled=True, width=32, depth=3, heads=4, side=4, classes=10
):
    """A state dict as modeling_pretrain.py or modeling_finetune.py gives it."""
    tokens, offsets = side * side + 1, (2 * side - 1) ** 2 + 3
    shapes = {
        'cls_token': (1, 1, width),
        **({'mask_token': (1, 1, width)} if mask and not tuned else {}),
        'patch_embed.proj.weight': (width, 3, 8, 8),
        'patch_embed.proj.bias': (width,),
    }
    bias = {'relative_position_bias_table': (offsets, heads), 'relative_position_index': (tokens, tokens)}
    if not tuned:
        shapes |= {f'rel_pos_bias.{name}': shape for name, shape in bias.items()}
    for i in range(depth):
        block = {
            'gamma_1': (width,),
            'gamma_2': (width,),
            'norm1.weight': (width,),
            'norm1.bias': (width,),
            'attn.q_bias': (width,),
            'attn.v_bias': (width,),
            **({f'attn.{name}': shape for name, shape in bias.items()} if tuned else {}),
            'attn.qkv.weight': (3 * width, width),
            'attn.proj.weight': (width, width),
            'attn.proj.bias': (width,),
            'norm2.weight': (width,),
            'norm2.bias': (width,),
            'mlp.fc1.weight': (2 * width, width),
            'mlp.fc1.bias': (2 * width,),
            'mlp.fc2.weight': (width, 2 * width),
            'mlp.fc2.bias': (width,),
        }
        shapes |= {f'blocks.{i}.{name}': shape for name, shape in block.items()}
    norm = 'fc_norm' if tuned and pooled else 'norm'
    shapes |= {f'{norm}.weight': (width,), f'{norm}.bias': (width,)}
    if head:
        name = 'head' if tuned else 'lm_head'
        shapes |= {f'{name}.weight': (classes, width), f'{name}.bias': (classes,)}
    generator = torch.Generator().manual_seed(0)
    index = BEiTViT(arch='t', img_size=8 * side, patch_size=8).rel_pos_bias.relative_position_index
    return {
        key: index.clone() if key.endswith('index') else torch.rand(shape, generator=generator)
        for key, shape in shapes.items()
    }


def our_beit():
    return MODELS.build(
        dict(
            type='mmssl.BEiT',
            backbone=dict(type='mmssl.BEiTViT', arch=ARCH, img_size=32, patch_size=8),
            tokenizer=dict(type='mmssl.KMeansTokenizer', checkpoint='random', num_tokens=10, patch_size=8),
        )
    )


def test_the_pre_training_file_loads_into_our_model_and_comes_back():
    official, model = official_beit(), our_beit()
    ours = from_official('beit', {'model': official})
    report = model.load_state_dict(ours, strict=False)
    assert not report.unexpected_keys and report.missing_keys == ['target_generator.centroids']
    assert torch.equal(model.backbone.layers[2].attn.q_bias, official['blocks.2.attn.q_bias'])
    assert torch.equal(model.backbone.layers[1].gamma_2, official['blocks.1.gamma_2'])
    assert torch.equal(model.backbone.ln1.weight, official['norm.weight'])
    assert torch.equal(model.head.cls_head.weight, official['lm_head.weight'])
    back = to_official(
        'beit', model.state_dict()
    )  # the tokenizer, which has a release of its own, is left out
    assert back.keys() == official.keys() and all(
        torch.equal(value, official[key]) for key, value in back.items()
    )


@pytest.mark.parametrize(
    'settings',
    [
        dict(head=False),
        dict(head=False, mask=False),
        dict(tuned=True),
        dict(tuned=True, pooled=False),
        dict(tuned=True, head=False),
        dict(tuned=True, head=False, pooled=False),
    ],
)
def test_every_layout_comes_back(settings):
    official = official_beit(**settings)
    ours = from_official('beit', official)
    back = to_official('beit', ours)
    assert list(back) == list(official) and all(back[key] is official[key] for key in official)
    assert ('head.fc.weight' in ours) == (settings.get('tuned', False) and settings.get('head', True))
    backbone = BEiTViT(
        arch=ARCH,
        img_size=32,
        patch_size=8,
        use_rel_pos_bias='tuned' in settings,
        use_shared_rel_pos_bias='tuned' not in settings,
        with_mask_token='tuned' not in settings and 'mask' not in settings,
        final_norm='tuned' not in settings or 'pooled' in settings,
        out_type='avg_featmap' if 'tuned' in settings and 'pooled' not in settings else 'featmap',
    )
    weights = {
        key: value
        for key, value in from_official('beit', official, prefix='').items()
        if not key.startswith('head.')
    }
    backbone.load_state_dict(weights, strict=True)


def test_the_fine_tuned_file_classifies_alike_in_our_backbone_and_the_hosts():
    from mmpretrain.models import ImageClassifier

    weights = from_official('beit', official_beit(tuned=True))
    settings = dict(
        arch=ARCH,
        img_size=32,
        patch_size=8,
        out_type='avg_featmap',
        use_rel_pos_bias=True,
        use_shared_rel_pos_bias=False,
    )
    images, outs = torch.randn(2, 3, 32, 32), []
    for backbone in (
        dict(type='mmpretrain.BEiTViT', **settings),
        dict(type='mmssl.BEiTViT', with_mask_token=False, final_norm=False, **settings),
    ):
        model = ImageClassifier(
            backbone=backbone,
            head=dict(type='mmpretrain.LinearClsHead', num_classes=10, in_channels=32),
            data_preprocessor=dict(type='mmpretrain.ClsDataPreprocessor'),
        )
        model.load_state_dict(weights, strict=True)
        outs.append(model.eval()(images, mode='tensor'))
    torch.testing.assert_close(outs[0], outs[1], atol=1e-5, rtol=1e-5)


def test_wrong_files_are_refused():
    official = official_beit()
    del official['blocks.1.gamma_1']
    with pytest.raises(ValueError, match=r'1 missing: blocks\.1\.gamma_1'):
        from_official('beit', official)
    official = official_beit() | {'pos_embed': torch.zeros(1, 17, 32)}
    with pytest.raises(ValueError, match='1 unknown: pos_embed'):
        from_official('beit', official)
    official = official_beit() | {'blocks.0.attn.v_bias': torch.zeros(31)}
    with pytest.raises(ValueError, match='1 tensors do not fit'):
        from_official('beit', official)
