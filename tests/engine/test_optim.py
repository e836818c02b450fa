"""Parameter groups, LARS, LARC, and clipping of every gradient by itself."""

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from mmssl.engine.optim import LARC, LARS, MergedOptimWrapperConstructor
from mmssl.engine.optim_wrapper import clip_each_grad_norm_
from mmssl.registry import MODELS

ARCH = {'embed_dims': 32, 'num_layers': 3, 'num_heads': 4, 'feedforward_channels': 64}


def mae():
    return MODELS.build(
        {
            'type': 'mmssl.MAE',
            'backbone': {'type': 'mmssl.MAEViT', 'arch': ARCH, 'img_size': 32, 'patch_size': 8},
            'neck': {
                'type': 'mmssl.MAEDecoder',
                'num_patches': 16,
                'patch_size': 8,
                'embed_dim': 32,
                'decoder_embed_dim': 16,
                'decoder_depth': 1,
                'decoder_num_heads': 2,
            },
            'head': {'type': 'mmssl.MAEHead', 'patch_size': 8},
        }
    )


def wrapper(model, **paramwise):
    return build_optim_wrapper(
        model,
        {
            'type': 'OptimWrapper',
            'constructor': 'mmssl.MergedOptimWrapperConstructor',
            'optimizer': {'type': 'AdamW', 'lr': 1.0, 'weight_decay': 0.05, 'fused': True},
            'paramwise_cfg': paramwise,
        },
    )


def test_mae_decays_tokens_and_matrices_and_has_two_groups():
    model = mae()
    groups = wrapper(model, flat_decay_mult=0.0).optimizer.param_groups
    assert len(groups) == 2
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed = {
        names[id(parameter)] for group in groups if group['weight_decay'] for parameter in group['params']
    }
    free = {
        names[id(parameter)] for group in groups if not group['weight_decay'] for parameter in group['params']
    }
    assert decayed == {
        name
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and not name.endswith('pos_embed')
    }
    assert {'backbone.cls_token', 'neck.mask_token'} <= decayed
    assert free == {name for name, parameter in model.named_parameters() if parameter.ndim == 1}


def test_layer_decay_gives_every_depth_its_rate():
    model = nn.Module()
    model.backbone = MODELS.build({'type': 'mmssl.ViT', 'arch': ARCH, 'img_size': 32, 'patch_size': 8})
    model.head = nn.Linear(32, 5)
    model.get_layer_depth = lambda name: model.backbone.get_layer_depth(name, 'backbone.')
    groups = wrapper(model, layer_decay_rate=0.5, flat_decay_mult=0.0).optimizer.param_groups
    rates = {id(parameter): group['lr'] for group in groups for parameter in group['params']}
    expected = {
        'backbone.cls_token': 0.5**4,
        'backbone.patch_embed.projection.bias': 0.5**4,
        'backbone.layers.0.ln1.weight': 0.5**3,
        'backbone.layers.2.attn.qkv.weight': 0.5,
        'backbone.ln1.weight': 1.0,
        'head.weight': 1.0,
    }
    for name, rate in expected.items():
        assert rates[id(dict(model.named_parameters())[name])] == rate, name
    assert all(group['lr'] == group['lr_scale'] for group in groups)
    assert len(groups) == 10  # five depths, decayed and not


def test_groups_divide_the_trained_parameters():
    model = mae()
    for paramwise in (
        {},
        {'flat_decay_mult': 0.0},
        {'norm_decay_mult': 0.0, 'custom_keys': {'cls_token': {'decay_mult': 0.0}}},
    ):
        groups = wrapper(model, **paramwise).optimizer.param_groups
        listed = [
            id(parameter) for group in groups for parameter in group['params'] if parameter.requires_grad
        ]
        assert sorted(listed) == sorted(
            id(parameter) for parameter in model.parameters() if parameter.requires_grad
        )


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="unknown keys \\['flat_decay'\\]"):
        wrapper(mae(), flat_decay=0.0)
    with pytest.raises(ValueError, match='layer_decay_rate needs a model or a backbone with get_layer_depth'):
        wrapper(nn.Linear(2, 2), layer_decay_rate=0.5)


def test_lars_by_hand():
    matrix = nn.Parameter(torch.tensor([[3.0, 4.0]], dtype=torch.float64))
    bias = nn.Parameter(torch.tensor([3.0, 4.0], dtype=torch.float64))
    optimizer = LARS([matrix, bias], lr=0.1, weight_decay=0.5, momentum=0.9, trust_coefficient=0.01)
    velocity, weight = torch.zeros(1, 2, dtype=torch.float64), matrix.detach().clone()
    plain, free = torch.zeros(2, dtype=torch.float64), bias.detach().clone()
    for lr in (0.1, 0.3):  # a change of rate tells whether it is inside the momentum
        optimizer.param_groups[0]['lr'] = lr
        matrix.grad, bias.grad = (
            torch.tensor([[1.0, -2.0]], dtype=torch.float64),
            torch.tensor([1.0, -2.0], dtype=torch.float64),
        )
        optimizer.step()
        update = torch.tensor([[1.0, -2.0]], dtype=torch.float64) + 0.5 * weight
        velocity = 0.9 * velocity + update * 0.01 * weight.norm() / update.norm()
        weight = weight - lr * velocity
        plain = 0.9 * plain + torch.tensor([1.0, -2.0], dtype=torch.float64)
        free = free - lr * plain
    torch.testing.assert_close(matrix.detach(), weight, atol=1e-14, rtol=0)
    torch.testing.assert_close(bias.detach(), free, atol=1e-14, rtol=0)


def test_lars_survives_zero_weights_and_zero_gradients():
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    LARS([zero, still], lr=1.0).step()
    assert torch.equal(zero.detach(), -torch.ones(2, 2)) and torch.equal(still.detach(), torch.ones(2, 2))


def test_lars_of_mmpretrain_scales_the_bias():
    """The reason for this one: mmpretrain's LARS shrinks the step of a bias."""
    from mmpretrain.engine import optimizers

    bias, other_bias = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))
    bias.grad = other_bias.grad = torch.ones(4)
    LARS([bias], lr=1.0).step()
    optimizers.LARS([other_bias], lr=1.0).step()
    assert bias[0] == 0 and other_bias[0] > 0.9


def test_negative_lr_is_refused():
    with pytest.raises(ValueError, match='lr=-1'):
        LARS([nn.Parameter(torch.zeros(1))], lr=-1)
    with pytest.raises(ValueError, match='momentum=-1'):
        LARC([nn.Parameter(torch.zeros(1))], lr=1, momentum=-1)


@pytest.mark.parametrize('clip', [False, True])
def test_larc_by_hand(clip):
    """Biases are scaled like everything else; a zero tensor and a zero gradient are not."""
    start, gradient = (
        [[3.0, 4.0], [0.0, 0.0], [1.0, 0.0], [60.0, 80.0]],
        [[1.0, -2.0], [1.0, 1.0], [0.0, 0.0], [1e-3, 0.0]],
    )
    parameters = [nn.Parameter(torch.tensor(values, dtype=torch.float64)) for values in start]
    optimizer = LARC(parameters, lr=0.1, weight_decay=0.5, momentum=0.9, trust_coefficient=0.01, clip=clip)
    expected = [torch.tensor(values, dtype=torch.float64) for values in start]
    velocity = [torch.zeros(2, dtype=torch.float64) for _ in start]
    for lr in (0.1, 0.001):
        optimizer.param_groups[0]['lr'] = lr
        for index, values in enumerate(gradient):
            g = torch.tensor(values, dtype=torch.float64)
            parameters[index].grad = g.clone()
            p = expected[index]
            if p.norm() > 0 and g.norm() > 0:
                rate = 0.01 * p.norm() / (g.norm() + 0.5 * p.norm() + 1e-8)
                g = (min(rate / lr, 1.0) if clip else rate) * (g + 0.5 * p)
            velocity[index] = 0.9 * velocity[index] + g
            expected[index] = p - lr * velocity[index]
        optimizer.step()
    for parameter, value in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value, atol=1e-14, rtol=0)


def test_every_gradient_is_clipped_by_its_own_norm():
    model = nn.ParameterList([nn.Parameter(torch.zeros(2)) for _ in range(3)])
    gradients = [torch.tensor([3.0, 4.0]), torch.tensor([0.3, 0.4]), None]
    for parameter, gradient in zip(model, gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.clone()
    norm = clip_each_grad_norm_(list(model)[:2], 2.0)
    assert norm.item() == pytest.approx((25 + 0.25) ** 0.5)
    torch.testing.assert_close(model[0].grad, torch.tensor([1.2, 1.6]), atol=1e-6, rtol=0)
    assert torch.equal(model[1].grad, gradients[1])


@pytest.mark.parametrize('kind', ['mmssl.OptimWrapper', 'mmssl.AmpOptimWrapper'])
def test_wrappers_clip_each(kind):
    model = nn.Linear(2, 1)
    wrapped = build_optim_wrapper(
        model,
        {
            'type': kind,
            'optimizer': {'type': 'SGD', 'lr': 1.0},
            'clip_grad': {'type': 'each', 'max_norm': 0.5},
        },
    )
    before = [parameter.detach().clone() for parameter in model.parameters()]
    wrapped.update_params(100 * model(torch.ones(1, 2)).sum())
    for parameter, old in zip(model.parameters(), before, strict=True):
        assert (parameter.detach() - old).norm().item() == pytest.approx(0.5, rel=1e-4)
    with pytest.raises(ValueError, match='takes max_norm above 0 and nothing else'):
        build_optim_wrapper(
            model,
            {
                'type': kind,
                'optimizer': {'type': 'SGD', 'lr': 1.0},
                'clip_grad': {'type': 'each', 'norm': 3.0},
            },
        )


def test_layer_decay_reads_the_depths_of_the_backbone_of_a_detector():
    from mmssl.layers.vit import ViT

    arch = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=8)
    detector = nn.Module()
    detector.backbone = ViT(arch, img_size=8, patch_size=4)
    detector.head = nn.Linear(8, 2)
    constructor = MergedOptimWrapperConstructor(
        dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=1.0)), dict(layer_decay_rate=0.5)
    )
    rates = {
        id(parameter): group['lr']
        for group in constructor(detector).optimizer.param_groups
        for parameter in group['params']
    }
    assert rates[id(detector.head.weight)] == 1
    assert rates[id(detector.backbone.layers[1].ln1.weight)] == 0.5
    assert rates[id(detector.backbone.patch_embed.projection.weight)] == 0.125
