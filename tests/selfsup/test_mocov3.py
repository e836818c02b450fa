"""MoCo v3 against loops over the paper's formulas, mmpretrain and two processes; a resumed run; refusals."""

import math
from functools import partial

import pytest
import torch
from mmengine.model import BaseModule
from runs import assert_same_training, check_exact_resume, random_views, train_on_part, train_rank
from torch import nn

from mmssl.layers.mlp import MLP
from mmssl.selfsup.mocov3 import MoCoV3, MoCoV3Head, MoCoV3ViT

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)


class Dense(BaseModule):
    """A backbone of one matrix, (B, 3, 2, 2) to (B, 6)."""

    def __init__(self):
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(6, 12))

    def forward(self, x):
        return (x.flatten(1) @ self.matrix.T,)


class Convolution(BaseModule):
    """A backbone with batch norm, (B, 3, H, W) to (B, 6, H, W)."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.bn = nn.BatchNorm2d(6)

    def forward(self, x):
        return (self.bn(self.conv(x)),)


def mocov3(backbone=Dense, temperature=0.5, last_bn=True, seed=0, width=6, steps=10, momentum=0.9, **kwargs):
    """Both last batch norms as for ViT (``last_bn``), or none after the predictor, as for ResNet-50."""
    torch.manual_seed(seed)
    head = MoCoV3Head(MLP((5, 7, 5), last_bn=last_bn), temperature)
    model = MoCoV3(backbone(), MLP((width, 7, 5), last_bn=True), head, momentum=momentum, **kwargs)
    for (
        name,
        parameter,
    ) in model.named_parameters():  # scales and shifts that are not neutral, keys that differ from queries
        if '.bn' in name or name.startswith('momentum'):
            parameter.data.add_(torch.randn_like(parameter), alpha=0.3)
    if steps:
        model.set_schedule(steps, steps)
    return model.double()


def vit(**kwargs):
    return MoCoV3ViT(arch=ARCH, img_size=16, patch_size=8, **kwargs)


# the paper in loops over numbers


def product(rows, matrix):
    return [[sum(x * w for x, w in zip(row, weights, strict=True)) for weights in matrix] for row in rows]


def normed(rows, weight=None, bias=None):
    columns = []
    for index, column in enumerate(zip(*rows, strict=True)):
        mean = sum(column) / len(column)
        scale = 1 / math.sqrt(sum((value - mean) ** 2 for value in column) / len(column) + 1e-5)
        columns.append(
            [
                (value - mean) * scale * (weight[index] if weight else 1) + (bias[index] if bias else 0)
                for value in column
            ]
        )
    return [list(row) for row in zip(*columns, strict=True)]


def mlp(weights, name, rows, last_bn):
    rows = normed(
        product(rows, weights[f'{name}.fc0.weight']),
        weights[f'{name}.bn0.weight'],
        weights[f'{name}.bn0.bias'],
    )
    rows = product([[max(0.0, value) for value in row] for row in rows], weights[f'{name}.fc1.weight'])
    return normed(rows) if last_bn else rows


def contrast(queries, keys, temperature):
    """Mean over the queries of -log(exp(q k+ / T) / sum exp(q k / T)), k all keys of the batch."""

    def unit(row):
        return [value / math.sqrt(sum(value**2 for value in row)) for value in row]

    queries, keys = [unit(row) for row in queries], [unit(row) for row in keys]
    total = 0.0
    for index, query in enumerate(queries):
        logits = [sum(a * b for a, b in zip(query, key, strict=True)) / temperature for key in keys]
        total += math.log(sum(math.exp(logit) for logit in logits)) - logits[index]
    return total / len(queries)


def plain_loss(model, inputs, momentum, temperature, last_bn):
    weights = {name: parameter.tolist() for name, parameter in model.named_parameters()}
    online = {name: parameter.detach() for name, parameter in model.named_parameters()}
    moved = {}
    for copy, encoder in (('0', 'backbone'), ('1', 'neck')):
        for name in [name for name in online if name.startswith(f'{encoder}.')]:
            key = online[f'momentum_encoder.module.{copy}{name[len(encoder) :]}']
            moved[f'keys.{name}'] = (momentum * key + (1 - momentum) * online[name]).tolist()
    weights |= moved
    queries, keys = [], []
    for view in inputs:
        pixels = view.flatten(1).tolist()
        queries.append(
            mlp(
                weights,
                'head.predictor',
                mlp(weights, 'neck', product(pixels, weights['backbone.matrix']), True),
                last_bn,
            )
        )
        keys.append(mlp(weights, 'keys.neck', product(pixels, weights['keys.backbone.matrix']), True))
    return (
        2
        * temperature
        * (contrast(queries[0], keys[1], temperature) + contrast(queries[1], keys[0], temperature))
    )


@pytest.mark.parametrize(('temperature', 'last_bn'), [(0.2, True), (1.0, False)])
def test_loss_is_the_papers_number_by_number(temperature, last_bn):
    model = mocov3(temperature=temperature, last_bn=last_bn)
    expected = plain_loss(model, random_views(size=2), 0.9, temperature, last_bn)
    assert model.loss(random_views(size=2))['loss'].item() == pytest.approx(expected, abs=1e-12)
    model.momentum_encoder.steps = 5  # halfway: m = 0.95
    expected = plain_loss(model, random_views(size=2, seed=1), 0.95, temperature, last_bn)
    assert model.loss(random_views(size=2, seed=1))['loss'].item() == pytest.approx(expected, abs=1e-12)


def test_gradient_is_that_of_the_loss():
    model = mocov3(
        backbone=Convolution, momentum=1.0
    )  # keys that do not follow, whose own slope is not in the gradient
    start = {key: value.clone() for key, value in model.state_dict().items()}

    def loss_with(**changes):
        model.load_state_dict({**start, **changes})
        return model.loss(random_views(size=2))['loss']

    loss_with().backward()
    for name in ('backbone.conv.weight', 'backbone.bn.bias', 'neck.fc1.weight', 'head.predictor.fc0.weight'):
        step, index = torch.zeros_like(start[name]), (1,) * start[name].ndim
        step[index] = 1e-6
        slope = (
            loss_with(**{name: start[name] + step}) - loss_with(**{name: start[name] - step})
        ).item() / 2e-6
        assert model.get_parameter(name).grad[index].item() == pytest.approx(slope, abs=1e-7), name
    assert all(parameter.grad is None for parameter in model.momentum_encoder.parameters())


def test_three_steps_move_what_the_recipe_says():
    """The key encoder moves before the keys are computed, with m from 0.9 to 1 on a cosine.

    Its batch norm keeps statistics of its own.
    """
    model = mocov3()
    optimizer = torch.optim.SGD(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1
    )
    model.attach(optimizer)
    keys = {name: value.clone() for name, value in model.momentum_encoder.module.state_dict().items()}
    parts = nn.Sequential(model.backbone, model.neck)
    for step in range(3):
        momentum = 1 - 0.1 * (math.cos(math.pi * step / 10) + 1) / 2
        for name, value in parts.named_parameters():
            keys[name] = momentum * keys[name] + (1 - momentum) * value.detach()
        for view in random_views(size=2, seed=step):
            hidden = view.flatten(1) @ keys['0.matrix'].T @ keys['1.fc0.weight'].T
            centred = (hidden - hidden.mean(0)) / (hidden.var(0, correction=0) + 1e-5).sqrt()
            last = (centred * keys['1.bn0.weight'] + keys['1.bn0.bias']).clamp(min=0) @ keys['1.fc1.weight'].T
            for name, values in (('1.bn0', hidden), ('1.bn1', last)):
                keys[f'{name}.running_mean'] = 0.9 * keys[f'{name}.running_mean'] + 0.1 * values.mean(0)
                keys[f'{name}.running_var'] = 0.9 * keys[f'{name}.running_var'] + 0.1 * values.var(0)
                keys[f'{name}.num_batches_tracked'] = keys[f'{name}.num_batches_tracked'] + 1
        before = {
            name: parameter.detach().clone()
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        optimizer.zero_grad()
        model.loss(random_views(size=2, seed=step))['loss'].backward()
        optimizer.step()
        for name, value in model.momentum_encoder.module.state_dict().items():
            assert torch.allclose(value.double(), keys[name].double(), atol=1e-12, rtol=0), (step, name)
        for name, value in before.items():
            assert torch.allclose(
                model.get_parameter(name), value - 0.1 * model.get_parameter(name).grad, atol=1e-12, rtol=0
            ), name
    assert model.momentum_encoder.steps == model.clock.steps == 3
    assert not torch.allclose(
        model.neck.bn0.running_mean, model.momentum_encoder.module[1].bn0.running_mean, atol=1e-3
    )


def test_accumulated_batches_move_the_keys_once():
    model = mocov3()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.attach(optimizer)
    for step in range(2):
        for part in range(3):
            model.loss(random_views(size=2, seed=3 * step + part))['loss'].backward()
        optimizer.step()
    assert model.momentum_encoder.steps == model.clock.steps == 2


def test_evaluation_changes_nothing():
    model = mocov3().eval()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    assert model.loss(random_views(size=2))['loss'].isfinite()
    assert all(torch.equal(value, start[key]) for key, value in model.state_dict().items())


def test_the_patch_projection_and_the_positions_stay_as_they_were_drawn():
    model = mocov3(vit, width=16)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1, weight_decay=0.1
    )
    for step in range(3):
        model.loss(random_views(seed=step, size=16))['loss'].backward()
        optimizer.step()
    for name, parameter in model.backbone.named_parameters():
        frozen = name.startswith(('patch_embed', 'pos_embed'))
        assert (
            torch.equal(parameter, start[f'backbone.{name}']) == frozen and parameter.requires_grad != frozen
        ), name
    free = vit(stop_grad_conv1=False)
    assert free.patch_embed.projection.weight.requires_grad and not free.pos_embed.requires_grad


def test_vit_starts_as_released():
    from mmpretrain.models.utils import build_2d_sincos_position_embedding

    torch.manual_seed(0)
    backbone = MoCoV3ViT(arch='small', img_size=(32, 48), patch_size=16)
    assert (
        len(backbone.layers) == 12 and backbone.layers[0].attn.num_heads == 12 and backbone.embed_dims == 384
    )
    assert MoCoV3ViT(arch=ARCH).layers[0].attn.num_heads == 2
    table = backbone.pos_embed[0]
    assert not table[0].any()
    for row in range(2):
        for column in range(3):
            entry = table[1 + 3 * row + column]
            for channel in (0, 1, 50, 95):
                rate = 10000 ** (-channel / 96)
                waves = [
                    math.sin(row * rate),
                    math.cos(row * rate),
                    math.sin(column * rate),
                    math.cos(column * rate),
                ]
                assert entry[channel::96].tolist() == pytest.approx(waves, abs=1e-6)
    host = build_2d_sincos_position_embedding((2, 2), 16, cls_token=True)
    torch.testing.assert_close(vit().pos_embed.detach(), host, atol=1e-6, rtol=0)
    for part in backbone.layers[3].attn.qkv.weight.chunk(3):
        assert (
            0.98 * math.sqrt(6 / 768) < part.abs().max() <= math.sqrt(6 / 768)
        )  # of the whole, it would be sqrt(6 / 1536)
    weight = backbone.patch_embed.projection.weight
    assert 0.98 * math.sqrt(6 / (768 + 384)) < weight.abs().max() <= math.sqrt(6 / (768 + 384))
    assert 0 < backbone.cls_token.abs().max() < 1e-5
    assert not any(
        module.bias.any() for module in backbone.modules() if isinstance(module, (nn.Linear, nn.Conv2d))
    )


@pytest.mark.parametrize(('backbone', 'width', 'together'), [(vit, 16, True), (Convolution, 6, False)])
def test_views_pass_the_backbone_together_unless_batch_norm_would_mix_them(backbone, width, together):
    model = mocov3(backbone, width=width)
    batch_sizes = []
    model.backbone.register_forward_pre_hook(lambda module, inputs: batch_sizes.append(len(inputs[0])))
    inputs = random_views(size=16)
    loss = model.loss(inputs)['loss'].item()
    assert batch_sizes == ([8] if together else [4, 4])
    apart = mocov3(backbone, width=width)
    apart.views_together = False
    assert apart.loss(inputs)['loss'].item() == pytest.approx(loss, abs=1e-12)


def test_logits_are_not_rounded_under_autocast():
    model = mocov3().float()
    predictions = []
    model.head.predictor.register_forward_hook(lambda module, inputs, output: predictions.append(output))
    with torch.autocast('cpu', torch.bfloat16):
        loss = model.loss([view.float() for view in random_views(size=2)])['loss']
    assert predictions[0].dtype == torch.bfloat16 and loss.dtype == torch.float32
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters() if parameter.requires_grad)


def ours_and_mmpretrains(backbone, final_momentum):
    """Ours and mmpretrain's with the same weights."""
    from mmengine.registry import DefaultScope
    from mmpretrain.models.selfsup import mocov3 as host
    from mmpretrain.registry import MODELS

    width = 16 if backbone == 'vit' else 32
    dims = (width, 24, 24, 8) if backbone == 'vit' else (width, 24, 8)
    backbones = (
        dict(type='mmpretrain.MoCoV3ViT', arch=ARCH, img_size=16, patch_size=8, stop_grad_conv1=True),
        dict(type='mmpretrain.ResNet', depth=18, stem_channels=4, base_channels=4),
    )

    def neck(sizes, last_bn, pool):
        return dict(
            type='mmpretrain.NonLinearNeck',
            in_channels=sizes[0],
            hid_channels=24,
            out_channels=8,
            num_layers=len(sizes) - 1,
            with_last_bn=last_bn,
            with_last_bn_affine=False,
            with_avg_pool=pool,
            norm_cfg=dict(type='BN1d'),
        )

    with DefaultScope.overwrite_default_scope('mmpretrain'):
        theirs = host.MoCoV3(
            backbones[backbone != 'vit'],
            neck(dims, True, backbone != 'vit'),
            dict(
                type='mmpretrain.MoCoV3Head',
                predictor=neck((8, 24, 8), backbone == 'vit', False),
                temperature=0.2,
                loss=dict(type='mmpretrain.CrossEntropyLoss', loss_weight=0.4),
            ),
            base_momentum=0.01,
        )
        theirs.momentum_encoder.end_momentum = 0.0 if final_momentum else 0.01
        torch.manual_seed(0)
        ours = MoCoV3(
            vit() if backbone == 'vit' else MODELS.build(backbones[1]),
            MLP(dims, last_bn=True),
            MoCoV3Head(MLP((8, 24, 8), last_bn=backbone == 'vit'), 0.2),
            final_momentum=final_momentum,
        )
    ours.init_weights()
    weights = {key: value for key, value in ours.state_dict().items() if not key.startswith('clock')}
    theirs.load_state_dict({**weights, 'momentum_encoder.steps': torch.tensor(0)}, strict=True)
    theirs.backbone.requires_grad_(True)
    for parameter, other in zip(theirs.parameters(), ours.parameters(), strict=True):
        parameter.requires_grad_(other.requires_grad)
    return ours.double(), theirs.double()


# mmpretrain computes its cosine in float32
@pytest.mark.parametrize(('final_momentum', 'tolerance'), [(None, 1e-9), (1.0, 1e-7)])
@pytest.mark.parametrize('backbone', ['vit', 'resnet'])
def test_mmpretrain_agrees_in_all_but_the_statistics_of_the_key_encoder(backbone, final_momentum, tolerance):
    from mmengine.logging import MessageHub

    ours, theirs = ours_and_mmpretrains(backbone, final_momentum)
    ours.set_schedule(10, 10)
    MessageHub.get_current_instance().update_info('max_iters', 10)
    optimizers = [
        torch.optim.SGD(
            [parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1, momentum=0.9
        )
        for model in (ours, theirs)
    ]
    for step in range(3):
        losses = []
        for model, optimizer in zip((ours, theirs), optimizers, strict=True):
            loss = model.loss(random_views(6, seed=step, size=16), None)['loss']
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], abs=tolerance)
    mine, other = ours.state_dict(), theirs.state_dict()
    statistics = {name for name, _ in ours.named_buffers() if name in mine}
    for name, _ in ours.named_parameters():
        torch.testing.assert_close(mine[name], other[name], atol=tolerance, rtol=0, msg=name)
    for name in statistics:
        if not name.startswith('momentum'):
            torch.testing.assert_close(mine[name], other[name], atol=tolerance, rtol=0, msg=name)
    # three steps of two views; mmpretrain's copy has the query encoder's six, and two of its own
    key = 'momentum_encoder.module.1.bn0.'
    assert mine[f'{key}num_batches_tracked'] == 6 and other[f'{key}num_batches_tracked'] == 8
    assert (mine[f'{key}running_var'] - other[f'{key}running_var']).abs().max() > 1e-3


PAIR = ((Convolution, 6), (vit, 16))


def train_both(rank, batches):
    builds = (partial(mocov3, backbone, width=width) for backbone, width in PAIR)
    return [train_rank(rank, build, batches, lr=0.1) for build in builds]


def test_two_processes_equal_a_single_process_with_the_joined_batch(two_ranks):
    batches = [random_views(6, size=16, seed=seed) for seed in range(3)]
    ranks = two_ranks(train_both, batches)
    for index, (backbone, width) in enumerate(PAIR):
        expected = train_on_part(mocov3(backbone, width=width), batches, lr=0.1)
        for results in ranks:
            assert_same_training(results[index], expected)


def test_a_run_is_resumed_exactly(tmp_path):
    changes = {'train_cfg.max_iters': 6, 'param_scheduler.end': 6, 'default_hooks.checkpoint.interval': 3}
    straight, saved = check_exact_resume('mocov3', tmp_path, 3, changes)
    assert straight.model['momentum_encoder.steps'].tolist() == straight.model['clock.steps'].tolist() == [6]
    assert saved['momentum_encoder.steps'].tolist() == [3]
    for key in (
        'backbone.layers.0.attn.qkv.weight',
        'momentum_encoder.module.1.fc0.weight',
        'momentum_encoder.module.1.bn0.running_mean',
    ):
        assert not torch.equal(saved[key], straight.model[key]), key


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (
            lambda: mocov3(temperature=0),
            'temperature=0 of MoCoV3Head must be above 0; the paper has 0.2 for ViT',
        ),
        (lambda: mocov3(momentum=1.5), 'momentum=1.5 of a momentum encoder must be between 0 and 1'),
        (
            lambda: mocov3(vit, width=12),
            r'the backbone gives 16 channels and the neck has dims=\(12, 7, 5\); begin them with 16',
        ),
        (
            lambda: MoCoV3(Dense(), MLP((6, 7, 4)), MoCoV3Head(MLP((5, 7, 5)))),
            'the predictor must begin and end with 4',
        ),
        (lambda: MLP((6,)), r'dims=\(6,\) of an MLP'),
        (lambda: mocov3().loss(random_views(size=2, count=3)), 'MoCoV3 takes 2 views, not 3'),
        (lambda: mocov3().loss(random_views(size=2)[0]), 'MoCoV3 takes a list of views'),
    ],
)
def test_wrong_settings_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_a_training_of_unknown_length_is_refused():
    model = mocov3(steps=None)
    with pytest.raises(RuntimeError, match='set_schedule'):
        model.loss(random_views(size=2))
    assert (
        mocov3(steps=None, final_momentum=None).loss(random_views(size=2))['loss'].isfinite()
    )  # constant momentum needs no length
