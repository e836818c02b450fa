"""Files of facebookresearch/dino, written out name by name, to our DINO and back."""

import argparse

import pytest
import torch
from torch import nn

from mmssl.convert import from_official, to_official
from mmssl.layers.vit import ViT
from mmssl.registry import MODELS
from mmssl.selfsup.dino import DINO, DINOHead, DINOViT

WIDTH, DEPTH, HIDDEN, BOTTLENECK, OUT = 16, 2, 12, 6, 10


def vit_shapes():
    shapes = {
        'cls_token': (1, 1, WIDTH),
        'pos_embed': (1, 17, WIDTH),
        'patch_embed.proj.weight': (WIDTH, 3, 8, 8),
        'patch_embed.proj.bias': (WIDTH,),
    }
    for i in range(DEPTH):
        for name, size in (
            ('norm1.weight', (WIDTH,)),
            ('norm1.bias', (WIDTH,)),
            ('attn.qkv.weight', (3 * WIDTH, WIDTH)),
            ('attn.qkv.bias', (3 * WIDTH,)),
            ('attn.proj.weight', (WIDTH, WIDTH)),
            ('attn.proj.bias', (WIDTH,)),
            ('norm2.weight', (WIDTH,)),
            ('norm2.bias', (WIDTH,)),
            ('mlp.fc1.weight', (2 * WIDTH, WIDTH)),
            ('mlp.fc1.bias', (2 * WIDTH,)),
            ('mlp.fc2.weight', (WIDTH, 2 * WIDTH)),
            ('mlp.fc2.bias', (WIDTH,)),
        ):
            shapes[f'blocks.{i}.{name}'] = size
    return {**shapes, 'norm.weight': (WIDTH,), 'norm.bias': (WIDTH,)}


def resnet_shapes():
    timm = pytest.importorskip('timm')
    with torch.device('meta'):
        net = timm.create_model('resnet18', num_classes=0)  # torchvision's names
    return {key: tuple(value.shape) for key, value in net.state_dict().items()}


def head_shapes(width, names='old', with_bn=False):
    layers = (0, 3, 6) if with_bn else (0, 2, 4)
    shapes = {}
    for layer, (out, into) in zip(
        layers, ((HIDDEN, width), (HIDDEN, HIDDEN), (BOTTLENECK, HIDDEN)), strict=True
    ):
        shapes |= {f'mlp.{layer}.weight': (out, into), f'mlp.{layer}.bias': (out,)}
        if with_bn and layer < 6:
            shapes |= {
                f'mlp.{layer + 1}.{name}': (HIDDEN,)
                for name in ('weight', 'bias', 'running_mean', 'running_var')
            }
            shapes[f'mlp.{layer + 1}.num_batches_tracked'] = ()
    g, v = (
        ('weight_g', 'weight_v')
        if names == 'old'
        else ('parametrizations.weight.original0', 'parametrizations.weight.original1')
    )
    return {**shapes, f'last_layer.{g}': (OUT, 1), f'last_layer.{v}': (OUT, BOTTLENECK)}


def network(arch='vit', names='old', with_bn=False, module='', seed=0):
    backbone, width = (vit_shapes(), WIDTH) if arch == 'vit' else (resnet_shapes(), 512)
    generator = torch.Generator().manual_seed(seed)
    shapes = {
        **{f'backbone.{key}': shape for key, shape in backbone.items()},
        **{f'head.{key}': shape for key, shape in head_shapes(width, names, with_bn).items()},
    }
    return {
        module + key: torch.tensor(3)
        if key.endswith('num_batches_tracked')
        else torch.rand(shape, generator=generator)
        for key, shape in shapes.items()
    }


def checkpoint(arch='vit', names='old', with_bn=False):
    norms = arch != 'vit' or with_bn
    return {
        'student': network(arch, names, with_bn, 'module.', 1),
        'teacher': network(arch, names, with_bn, 'module.' if norms else '', 2),
        'optimizer': {'state': {}, 'param_groups': [{'lr': 0.1}]},
        'epoch': 100,
        'args': argparse.Namespace(arch='vit_small'),
        'dino_loss': {'center': torch.rand(1, OUT)},
    }


def our_dino(arch='vit', with_bn=False):
    head = dict(out_dim=OUT, hidden_dim=HIDDEN, bottleneck_dim=BOTTLENECK, use_bn=with_bn)
    if arch == 'vit':
        sizes = dict(embed_dims=WIDTH, num_layers=DEPTH, num_heads=2, feedforward_channels=2 * WIDTH)
        return DINO(DINOViT(arch=sizes, img_size=32, patch_size=8), DINOHead(WIDTH, **head))
    backbone = MODELS.build(dict(type='mmpretrain.ResNet', depth=18))
    return DINO(backbone, DINOHead(512, **head))


def same(first, second):
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    return torch.equal(first, second)


@pytest.mark.parametrize(
    ('arch', 'names', 'with_bn'),
    [('vit', 'old', False), ('vit', 'new', False), ('vit', 'old', True), ('resnet', 'old', False)],
)
def test_whole_checkpoints_load_strictly_and_come_back(arch, names, with_bn):
    official = checkpoint(arch, names, with_bn)
    ours = from_official('dino', official)
    model = our_dino(arch, with_bn)
    result = model.load_state_dict(ours, strict=False)
    assert not result.unexpected_keys and not [
        key for key in result.missing_keys if not key.endswith(('steps', 'followed'))
    ]
    assert torch.equal(model.head.last_layer.weight_v, [*official['student'].values()][-1])
    assert torch.equal(model.teacher.module[1].last_layer.weight_g, [*official['teacher'].values()][-2])
    assert torch.equal(
        model.teacher.module[0].state_dict()[
            'layers.1.ffn.layers.1.bias' if arch == 'vit' else 'layer3.0.bn2.running_var'
        ],
        {key.removeprefix('module.'): value for key, value in official['teacher'].items()}[
            'backbone.' + ('blocks.1.mlp.fc2.bias' if arch == 'vit' else 'layer3.0.bn2.running_var')
        ],
    )
    back = to_official('dino', model.state_dict())
    expected = {part: official[part] for part in ('student', 'teacher', 'dino_loss')}
    if names == 'new':  # comes back in the names of the released files
        expected |= {part: checkpoint(arch)[part] for part in ('student', 'teacher')}
    assert same(back, expected)
    without_center = {part: official[part] for part in ('student', 'teacher')}
    assert from_official('dino', without_center).keys() == ours.keys() - {'dino_loss.center'}


@pytest.mark.parametrize('names', ['old', 'new'])
def test_a_single_network_and_a_backbone(names):
    teacher = network(names=names)
    ours = from_official('dino', teacher)
    model = our_dino()
    result = model.load_state_dict(ours, strict=False)
    assert not result.unexpected_keys and all(
        key.startswith(('teacher.', 'clock.', 'dino_loss.')) for key in result.missing_keys
    )
    # the teacher starts as the one network that there is
    for own, student in zip(
        model.teacher.module.parameters(), nn.Sequential(model.backbone, model.head).parameters(), strict=True
    ):
        assert torch.equal(own, student)
    assert same(to_official('dino', ours), network(names='old'))
    with_module = {f'module.{key}': value for key, value in teacher.items()}
    assert same(from_official('dino', with_module), ours)
    alone = {
        key.removeprefix('backbone.'): value for key, value in teacher.items() if key.startswith('backbone.')
    }
    backbone = ViT(arch=model.backbone.arch_settings, img_size=32, patch_size=8)
    backbone.load_state_dict(from_official('dino', alone, prefix=''), strict=True)
    assert same(to_official('dino', backbone.state_dict(), prefix=''), alone)
    residual = {
        key.removeprefix('backbone.'): value
        for key, value in network('resnet').items()
        if key.startswith('backbone.')
    }
    assert same(to_official('dino', from_official('dino', residual)), residual)


def test_the_command_writes_whole_checkpoints_both_ways(tmp_path, capsys):
    from mmssl.cli import main

    official = checkpoint()
    torch.save(official, tmp_path / 'released.pth')
    assert main(['convert', 'dino', f'{tmp_path}/released.pth', f'{tmp_path}/ours.pth']) == 0
    assert main(['convert', 'dino', f'{tmp_path}/ours.pth', f'{tmp_path}/back.pth', '--reverse']) == 0
    assert 'whole checkpoint, ViT' in capsys.readouterr().out
    expected = {part: official[part] for part in ('student', 'teacher', 'dino_loss')}
    assert same(torch.load(tmp_path / 'back.pth', weights_only=True), expected)


def test_misfits_are_named():
    official = checkpoint()
    del official['teacher']['head.mlp.2.bias']
    with pytest.raises(
        ValueError, match='nearest layout: whole checkpoint, ViT.*1 missing: teacher.head.mlp.2.bias'
    ):
        from_official('dino', official)
    official = checkpoint()
    official['student']['module.head.last_layer.weight_v'] = torch.zeros(OUT, BOTTLENECK + 1)
    with pytest.raises(ValueError, match='student.head.last_layer.weight_v'):
        from_official('dino', official)
