"""Files of the MoCo v3 release: their names, written out, into our model and back."""

import pytest
import torch

from mmssl.checkpoint import load_file
from mmssl.cli import main
from mmssl.convert import from_official, to_official
from mmssl.registry import MODELS

HIDDEN, DIM = 24, 8


def norm(name, width, affine=True):
    shapes = {f'{name}.weight': (width,), f'{name}.bias': (width,)} if affine else {}
    return {
        **shapes,
        f'{name}.running_mean': (width,),
        f'{name}.running_var': (width,),
        f'{name}.num_batches_tracked': (),
    }


def vit_encoder(stem, width=16, depth=3):
    shapes = {
        f'{stem}cls_token': (1, 1, width),
        f'{stem}pos_embed': (1, 17, width),
        f'{stem}patch_embed.proj.weight': (width, 3, 8, 8),
        f'{stem}patch_embed.proj.bias': (width,),
    }
    for block in range(depth):
        name = f'{stem}blocks.{block}'
        for part, out, into in (
            ('attn.qkv', 3 * width, width),
            ('attn.proj', width, width),
            ('mlp.fc1', 2 * width, width),
            ('mlp.fc2', width, 2 * width),
        ):
            shapes |= {f'{name}.{part}.weight': (out, into), f'{name}.{part}.bias': (out,)}
        for part in ('norm1', 'norm2'):
            shapes |= {f'{name}.{part}.weight': (width,), f'{name}.{part}.bias': (width,)}
    shapes |= {f'{stem}norm.weight': (width,), f'{stem}norm.bias': (width,)}
    return {
        **shapes,
        f'{stem}head.0.weight': (HIDDEN, width),
        **norm(f'{stem}head.1', HIDDEN),
        f'{stem}head.3.weight': (HIDDEN, HIDDEN),
        **norm(f'{stem}head.4', HIDDEN),
        f'{stem}head.6.weight': (DIM, HIDDEN),
        **norm(f'{stem}head.7', DIM, affine=False),
    }


def resnet50_encoder(stem, channels=4):
    shapes = {f'{stem}conv1.weight': (channels, 3, 7, 7), **norm(f'{stem}bn1', channels)}
    into = channels
    for stage, blocks in enumerate((3, 4, 6, 3)):
        inner = channels * 2**stage
        for block in range(blocks):
            name = f'{stem}layer{stage + 1}.{block}'
            for number, shape in enumerate(
                [(inner, into, 1, 1), (inner, inner, 3, 3), (4 * inner, inner, 1, 1)], 1
            ):
                shapes |= {f'{name}.conv{number}.weight': shape, **norm(f'{name}.bn{number}', shape[0])}
            if block == 0:
                shapes |= {
                    f'{name}.downsample.0.weight': (4 * inner, into, 1, 1),
                    **norm(f'{name}.downsample.1', 4 * inner),
                }
            into = 4 * inner
    return {
        **shapes,
        f'{stem}fc.0.weight': (HIDDEN, into),
        **norm(f'{stem}fc.1', HIDDEN),
        f'{stem}fc.3.weight': (DIM, HIDDEN),
        **norm(f'{stem}fc.4', DIM, affine=False),
    }


def official_mocov3(kind):
    """A state dict as ``MoCo_ViT`` or ``MoCo_ResNet`` of moco/builder.py gives it."""
    encoder = vit_encoder if kind == 'vit' else resnet50_encoder
    shapes = {
        **encoder('base_encoder.'),
        **encoder('momentum_encoder.'),
        'predictor.0.weight': (HIDDEN, DIM),
        **norm('predictor.1', HIDDEN),
        'predictor.3.weight': (DIM, HIDDEN),
    }
    if kind == 'vit':
        shapes |= norm('predictor.4', DIM, affine=False)
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.tensor(7) if key.endswith('tracked') else torch.rand(shape, generator=generator)
        for key, shape in shapes.items()
    }


def our_mocov3(kind):
    if kind == 'vit':
        arch = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)
        backbone, dims = (
            dict(type='mmssl.MoCoV3ViT', arch=arch, img_size=32, patch_size=8),
            (16, HIDDEN, HIDDEN, DIM),
        )
    else:
        backbone, dims = (
            dict(type='mmpretrain.ResNet', depth=50, stem_channels=4, base_channels=4),
            (128, HIDDEN, DIM),
        )
    predictor = dict(type='mmssl.MLP', dims=(DIM, HIDDEN, DIM), last_bn=kind == 'vit')
    return MODELS.build(
        dict(
            type='mmssl.MoCoV3',
            backbone=backbone,
            neck=dict(type='mmssl.MLP', dims=dims, last_bn=True),
            head=dict(type='mmssl.MoCoV3Head', predictor=predictor),
        )
    )


@pytest.mark.parametrize('kind', ['vit', 'resnet'])
def test_a_released_file_loads_strictly_and_comes_back(kind):
    official, model = official_mocov3(kind), our_mocov3(kind)
    ours = from_official('mocov3', {'state_dict': official, 'epoch': 300})
    model.load_state_dict(ours, strict=True)
    back = to_official('mocov3', ours)
    assert list(back) == list(official) and all(back[key] is value for key, value in official.items())
    trained = to_official('mocov3', model.state_dict())  # our counters stay here
    assert trained.keys() == official.keys() and all(
        torch.equal(trained[key], value) for key, value in official.items()
    )
    keys = model.momentum_encoder.module
    assert torch.equal(model.head.predictor.fc1.weight, official['predictor.3.weight'])
    if kind == 'vit':
        assert torch.equal(
            model.backbone.layers[2].attn.qkv.bias, official['base_encoder.blocks.2.attn.qkv.bias']
        )
        assert torch.equal(
            keys[0].layers[1].ffn.layers[0][0].weight, official['momentum_encoder.blocks.1.mlp.fc1.weight']
        )
        assert torch.equal(keys[1].bn2.running_var, official['momentum_encoder.head.7.running_var'])
        assert torch.equal(model.head.predictor.bn1.running_mean, official['predictor.4.running_mean'])
    else:
        assert torch.equal(
            model.backbone.layer3[5].conv2.weight, official['base_encoder.layer3.5.conv2.weight']
        )
        assert torch.equal(
            keys[0].layer2[0].downsample[1].running_var,
            official['momentum_encoder.layer2.0.downsample.1.running_var'],
        )
        assert torch.equal(keys[1].fc1.weight, official['momentum_encoder.fc.3.weight'])
        assert torch.equal(model.neck.bn0.bias, official['base_encoder.fc.1.bias'])


def test_the_files_of_the_release_have_a_prefix_before_every_name(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    official = {f'module.{key}': value for key, value in official_mocov3('vit').items()}
    torch.save({'state_dict': official, 'arch': 'vit_small', 'epoch': 300}, tmp_path / 'official.pth.tar')
    for arguments in (['official.pth.tar', 'ours.pth'], ['ours.pth', 'back.pth.tar', '--reverse']):
        assert main(['convert', 'mocov3', *arguments]) == 0
        assert 'mocov3 (ViT)' in capsys.readouterr().out
    our_mocov3('vit').load_state_dict(load_file(tmp_path / 'ours.pth')['state_dict'], strict=True)
    back = load_file(tmp_path / 'back.pth.tar')['state_dict']
    assert list(back) == list(official) and all(
        torch.equal(back[key], value) for key, value in official.items()
    )


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda weights: weights.pop('momentum_encoder.head.6.weight'),
            '1 missing: momentum_encoder.head.6.weight',
        ),
        (lambda weights: weights.update({'queue': torch.zeros(8)}), '1 unknown: queue'),
        (
            lambda weights: weights.update({'predictor.3.weight': torch.zeros(DIM, DIM)}),
            r'predictor.3.weight \(8, 8\), expected \(D, M\)',
        ),
    ],
)
def test_other_files_are_refused(change, message):
    official = official_mocov3('vit')
    change(official)
    with pytest.raises(ValueError, match=message):
        from_official('mocov3', official)
