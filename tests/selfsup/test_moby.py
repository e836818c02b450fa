"""MoBY against the formulas of its paper: loss, target encoder, queues, two processes, resume."""

import math

import pytest
import torch
from mmengine.config import Config
from runs import check_exact_resume, check_two_processes, random_views
from torch import nn

from mmssl.layers.mlp import MLP
from mmssl.registry import MODELS
from mmssl.selfsup.moby import MoBY
from mmssl.selfsup.views import project_views

WIDTH, HIDDEN, DIM, QUEUE = 5, 7, 3, 8


class Flat(nn.Module):
    """A backbone of one layer, (B, 3, 2, 2) to (B, 5)."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, WIDTH)

    def forward(self, x):
        return (torch.tanh(self.layer(x.flatten(1))),)


def moby(seed=0, dtype=torch.float64, **kwargs):
    torch.manual_seed(seed)
    model = MoBY(
        Flat(),
        MLP((WIDTH, HIDDEN, DIM), bias=True),
        MLP((DIM, HIDDEN, DIM), bias=True),
        **{'queue_len': QUEUE, **kwargs},
    )
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    for copy, encoder in model.momentum_pairs():
        copy.copy_from(encoder)
    return model.to(dtype)


def dense(weights, name, x):
    return [
        sum(w * v for w, v in zip(row, x, strict=True)) + b
        for row, b in zip(weights[f'{name}.weight'].tolist(), weights[f'{name}.bias'].tolist(), strict=True)
    ]


def statistics(columns):
    means = [sum(column) / len(column) for column in columns]
    return means, [
        sum((value - mean) ** 2 for value in column) / len(column)
        for column, mean in zip(columns, means, strict=True)
    ]


def plain_mlp(weights, name, batch):
    """Linear, batch norm over the batch, ReLU, linear, number by number; and the batch norm's statistics."""
    hidden = [dense(weights, f'{name}.fc0', x) for x in batch]
    means, variances = statistics(list(zip(*hidden, strict=True)))
    scale, shift = weights[f'{name}.bn0.weight'].tolist(), weights[f'{name}.bn0.bias'].tolist()
    hidden = [
        [
            max(0.0, (value - mean) / math.sqrt(variance + 1e-5) * a + b)
            for value, mean, variance, a, b in zip(x, means, variances, scale, shift, strict=True)
        ]
        for x in hidden
    ]
    return [dense(weights, f'{name}.fc1', x) for x in hidden], means, variances


def unit(vector):
    norm = math.sqrt(sum(value**2 for value in vector))
    return [value / norm for value in vector]


def plain_features(weights, backbone, images):
    return [
        [math.tanh(value) for value in dense(weights, f'{backbone}.layer', image.flatten().tolist())]
        for image in images
    ]


def plain_keys(weights, images):
    projections, means, variances = plain_mlp(
        weights, 'momentum_encoder.module.1', plain_features(weights, 'momentum_encoder.module.0', images)
    )
    return [unit(vector) for vector in projections], means, variances


def plain_loss(weights, first, second, queue1, queue2, temperature=0.2):
    """Equation 1 in both directions, with the target encoder as it stands."""
    predictions = []
    for images in (first, second):
        projections, *_ = plain_mlp(weights, 'neck', plain_features(weights, 'backbone', images))
        predictions.append([unit(vector) for vector in plain_mlp(weights, 'head', projections)[0]])
    keys = [plain_keys(weights, images)[0] for images in (first, second)]
    total = 0.0
    for queries, positives, queue in ((predictions[0], keys[1], queue2), (predictions[1], keys[0], queue1)):
        for query, positive in zip(queries, positives, strict=True):
            scores = [
                sum(a * b for a, b in zip(query, other, strict=True)) / temperature
                for other in (positive, *queue.T.tolist())
            ]
            total += (math.log(sum(math.exp(score) for score in scores)) - scores[0]) / len(queries)
    return total


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize('temperature', [0.2, 1.0])
def test_loss_is_the_papers_number_by_number(temperature):
    model = moby(temperature=temperature, final_momentum=None)
    first, second = random_views(3, size=2)
    before = snapshot(model)
    assert not torch.equal(before['queue1.queue'], before['queue2.queue'])
    loss = model.train().loss([first, second])['loss']
    # the target equals the online encoder, so that following it changes nothing yet
    assert loss.item() == pytest.approx(
        plain_loss(before, first, second, before['queue1.queue'], before['queue2.queue'], temperature),
        abs=1e-12,
    )
    assert loss.item() != pytest.approx(
        plain_loss(before, first, second, before['queue2.queue'], before['queue1.queue'], temperature)
    )


def test_gradient_is_that_of_the_loss():
    model = moby(final_momentum=None).train()
    images, weight = random_views(3, size=2), model.backbone.layer.weight
    state, step = snapshot(model), 1e-6
    model.loss(images)['loss'].backward()
    for row, column in ((0, 0), (3, 7)):
        sides = []
        for sign in (1, -1):
            moved = {key: value.clone() for key, value in state.items()}
            moved['backbone.layer.weight'][row, column] += sign * step
            sides.append(plain_loss(moved, *images, state['queue1.queue'], state['queue2.queue']))
        assert weight.grad[row, column].item() == pytest.approx((sides[0] - sides[1]) / (2 * step), rel=1e-5)


def test_three_steps_move_what_the_recipe_says():
    steps, total, batch = 3, 5, 3
    model = moby(momentum=0.9).train()
    model.set_schedule(total, total)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    model.attach(optimizer)
    state = snapshot(model)
    queues = [state['queue1.queue'].clone(), state['queue2.queue'].clone()]
    pairs = {
        f'momentum_encoder.module.0.{name}': f'backbone.{name}'
        for name, _ in model.backbone.named_parameters()
    }
    pairs |= {
        f'momentum_encoder.module.1.{name}': f'neck.{name}' for name, _ in model.neck.named_parameters()
    }
    running = torch.zeros(HIDDEN, dtype=torch.float64), torch.ones(HIDDEN, dtype=torch.float64)
    for step in range(steps):
        first, second = random_views(batch, size=2, seed=step)
        momentum = 1 - (1 - 0.9) * (math.cos(math.pi * step / total) + 1) / 2
        expected = {
            target: momentum * state[target] + (1 - momentum) * state[online]
            for target, online in pairs.items()
        }
        with_target = {**state, **expected}
        loss = model.loss([first, second])['loss']
        assert loss.item() == pytest.approx(plain_loss(with_target, first, second, *queues), abs=1e-12)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        for queue, images in zip(queues, (first, second), strict=True):
            keys, means, variances = plain_keys(with_target, images)
            for index, key in enumerate(keys):
                queue[:, (step * batch + index) % QUEUE] = torch.tensor(key, dtype=torch.float64)
            running[0].mul_(0.9).add_(torch.tensor(means, dtype=torch.float64), alpha=0.1)
            running[1].mul_(0.9).add_(
                torch.tensor(variances, dtype=torch.float64), alpha=0.1 * batch / (batch - 1)
            )
        after = snapshot(model)
        for target, value in expected.items():
            assert torch.allclose(after[target], value, atol=1e-14, rtol=0), target
        for name in (
            'backbone.layer.weight',
            'neck.fc0.weight',
            'neck.fc1.weight',
            'head.fc0.weight',
            'head.fc1.weight',
        ):
            assert not torch.equal(after[name], state[name]), f'{name} was not trained'
        for number, queue in enumerate(queues, 1):
            assert torch.allclose(after[f'queue{number}.queue'], queue, atol=1e-12, rtol=0)
            assert after[f'queue{number}.queue_ptr'].tolist() == [(step + 1) * batch % QUEUE]
        assert after['momentum_encoder.steps'].tolist() == after['clock.steps'].tolist() == [step + 1]
        # the target keeps statistics of its own
        assert torch.allclose(
            after['momentum_encoder.module.1.bn0.running_mean'], running[0], atol=1e-12, rtol=0
        )
        assert torch.allclose(
            after['momentum_encoder.module.1.bn0.running_var'], running[1], atol=1e-12, rtol=0
        )
        assert step == 0 or not torch.allclose(after['neck.bn0.running_mean'], running[0], atol=1e-12)
        state = after
    assert all(
        not parameter.requires_grad and parameter.grad is None
        for parameter in model.momentum_encoder.parameters()
    )


def test_evaluation_changes_nothing():
    model = moby().eval()
    before = snapshot(model)
    assert (
        model.loss(random_views(2, size=2))['loss'].item()
        == model.loss(random_views(2, size=2))['loss'].item()
    )
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_accumulated_batches_move_the_target_once_and_the_queues_every_time():
    model = moby().train()
    model.set_schedule(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.attach(optimizer)
    for step in (1, 2):
        for seed in (0, 1):
            model.loss(random_views(2, size=2, seed=seed))['loss'].backward()
        optimizer.step()
        assert (
            model.momentum_encoder.steps == step
            and model.queue1.queue_ptr == model.queue2.queue_ptr == 4 * step % QUEUE
        )


SWIN = dict(
    type='mmpretrain.SwinTransformer',
    arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4]),
    img_size=32,
    patch_size=4,
    window_size=4,
    out_indices=(1,),
    drop_path_rate=0.5,
)
VIT = dict(
    type='mmssl.ViT',
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16),
    img_size=32,
    patch_size=8,
    drop_path_rate=0.5,
    out_type='cls_token',
)
RESNET = dict(type='mmpretrain.ResNet', depth=18, stem_channels=4, base_channels=4)


def of_backbone(backbone, width=16):
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type='mmssl.MoBY',
            backbone=backbone,
            neck=dict(type='mmssl.MLP', dims=(width, 8, 4), bias=True),
            head=dict(type='mmssl.MLP', dims=(4, 8, 4), bias=True),
            queue_len=8,
        )
    )


@pytest.mark.parametrize('backbone', [SWIN, VIT], ids=['swin', 'vit'])
def test_only_the_online_encoder_drops_paths(backbone):
    model = of_backbone(backbone).double().train()
    images = [torch.randn(4, 3, 32, 32, dtype=torch.float64) for _ in range(2)]
    online = [project_views(model.encoder, images, model.views_together)[0] for _ in range(2)]
    target = [project_views(model.momentum_encoder.module, images, model.views_together)[0] for _ in range(2)]
    assert not torch.equal(*online) and torch.equal(*target)
    # no stochastic depth is evaluation mode of all but the batch norm
    model.backbone.eval()
    assert torch.allclose(
        project_views(model.encoder, images, model.views_together)[0], target[0], atol=1e-12
    )


@pytest.mark.parametrize(
    ('backbone', 'width', 'joint'), [(SWIN, 16, True), (VIT, 16, True), (RESNET, 32, False)]
)
def test_views_pass_the_backbone_together_unless_batch_norm_would_mix_them(backbone, width, joint):
    backbone = {key: value for key, value in backbone.items() if key != 'drop_path_rate'}
    if backbone['type'] == SWIN['type']:
        backbone['drop_path_rate'] = 0.0
    model = of_backbone(backbone, width).double().train()
    assert model.views_together is joint
    images = [torch.randn(4, 3, 32, 32, dtype=torch.float64) + shift for shift in (0, 2)]
    result = project_views(model.encoder, images, model.views_together)
    for projection, view in zip(result, images, strict=True):
        assert torch.allclose(projection, model.neck(model.backbone(view)), atol=1e-12)
    assert model.extract_feat(images[0])[-1].shape[:2] == (4, width)


def scheduled_moby():
    model = moby().train()
    model.set_schedule(3, 3)
    return model


def test_two_processes_equal_a_single_process_with_the_joined_batch(two_ranks):
    _, state = check_two_processes(two_ranks, scheduled_moby)
    assert state['queue1.queue_ptr'].tolist() == [18 % QUEUE]


def test_a_run_is_resumed_exactly(tmp_path):
    changes = {
        'model.queue_len': 16,
        'train_cfg.max_iters': 6,
        'param_scheduler.end': 6,
        'default_hooks.checkpoint.interval': 3,
    }
    straight, saved = check_exact_resume('moby', tmp_path, 3, changes)
    assert straight.model['queue1.queue_ptr'].tolist() == [24 % 16]
    assert straight.model['momentum_encoder.steps'].tolist() == [6]
    for key in (
        'queue1.queue',
        'queue2.queue',
        'momentum_encoder.module.1.fc0.weight',
        'backbone.norm1.weight',
    ):
        assert not torch.equal(saved[key], straight.model[key]), key


def test_refusals():
    parts = [Flat(), MLP((WIDTH, HIDDEN, DIM), bias=True), MLP((DIM, HIDDEN, DIM), bias=True)]
    with pytest.raises(ValueError, match='temperature=0 must be above 0'):
        MoBY(*parts, temperature=0)
    with pytest.raises(ValueError, match='length=0 of a queue'):
        MoBY(*parts, queue_len=0)
    with pytest.raises(ValueError, match=r'momentum=1\.5'):
        MoBY(*parts, momentum=1.5)
    with pytest.raises(ValueError, match='head goes from 4 to 3'):
        MoBY(parts[0], parts[1], MLP((4, HIDDEN, 3)))
    with pytest.raises(ValueError, match='the neck is a Flat'):
        MoBY(parts[0], Flat(), parts[2])
    with pytest.raises(
        ValueError, match=r'backbone has 16 channels and the neck takes 8; give dims=\(16, \.\.\.\)'
    ):
        of_backbone(SWIN, 8)
    with pytest.raises(ValueError, match='backbone has 32 channels'):
        of_backbone(RESNET, 16)
    model = moby().train()
    with pytest.raises(ValueError, match='a list of views'):
        model.loss(torch.zeros(2, 3, 2, 2))
    with pytest.raises(ValueError, match='takes 2 views, not 3'):
        model.loss(random_views(2, size=2, count=3))
    with pytest.raises(RuntimeError, match='set_schedule'):
        model.loss(random_views(2, size=2))
    model.set_schedule(10, 10)
    with pytest.raises(ValueError, match='the queue has 8 places and the batch of all processes 9'):
        model.loss(random_views(9, size=2))


@pytest.fixture(scope='module')
def labelled(tmp_path_factory):
    """Three classes of bright, middling and dark noise, 40 x 40 pixels."""
    import numpy as np
    from PIL import Image

    generator, root = np.random.default_rng(0), tmp_path_factory.mktemp('labelled')
    for split, count in (('train', 10), ('val', 2)):
        for label in range(3):
            (root / split / str(label)).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(80 * label, 80 * label + 60, (40, 40, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / str(label) / f'{number}.png')
    return root


@pytest.mark.parametrize('name', ['knn', 'linear'])
def test_a_swin_is_evaluated_by_the_commands(name, repo_root, labelled, tmp_path, monkeypatch):
    import argparse
    import importlib
    import json

    from mmssl.apis import loading

    monkeypatch.chdir(tmp_path)
    config = str(repo_root / 'configs/smoke/moby.py')
    model, _ = loading.build_model(config, 'random')
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'model.pth')
    torch.save(model.backbone.state_dict(), tmp_path / 'backbone.pth')
    command, scores = importlib.import_module(f'mmssl.commands.{name}'), []
    for checkpoint in ('model.pth', 'backbone.pth'):
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        arguments = [config, checkpoint, '--data', str(labelled), '--workers', '0', '--out', 'out.json']
        assert (
            command.run(
                parser.parse_args([*arguments, *(['--k', '5'] if name == 'knn' else ['--epochs', '20'])])
            )
            == 0
        )
        result = json.loads((tmp_path / 'out.json').read_text())
        assert result['image_size'] == 32 and result['num_train'] == 30 and result['num_val'] == 6
        scores.append(result['top1'])
    assert scores[0] == scores[1] > 60  # a random Swin tells bright from dark


def test_fine_tuning_decays_learning_rates_by_depth(repo_root):
    from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS, init_default_scope

    cfg = Config.fromfile(repo_root / 'configs/moby/benchmarks/swin-tiny_8xb128-coslr-100e_in1k.py')
    init_default_scope('mmpretrain')
    cfg.model.backbone.update(
        arch=dict(embed_dims=8, depths=[2, 2], num_heads=[1, 2]), out_indices=(1,), init_cfg=None
    )
    cfg.model.head.update(in_channels=16, num_classes=3)
    model = MODELS.build(cfg.model)
    wrapper = dict(cfg.optim_wrapper)
    constructor = OPTIM_WRAPPER_CONSTRUCTORS.build(
        dict(
            type=wrapper.pop('constructor'),
            paramwise_cfg=wrapper.pop('paramwise_cfg'),
            optim_wrapper_cfg=wrapper,
        )
    )
    groups = constructor(model).optimizer.param_groups
    result = {
        id(parameter): (group['lr'], group['weight_decay'])
        for group in groups
        for parameter in group['params']
    }
    names = dict(model.named_parameters())
    # the stem, four blocks, and what follows them
    for name, power, decay in (
        ('patch_embed.projection.weight', 5, 0.05),
        ('stages.0.blocks.0.attn.w_msa.qkv.weight', 4, 0.05),
        ('stages.0.blocks.1.norm1.bias', 3, 0.0),
        ('stages.1.blocks.1.ffn.layers.1.weight', 1, 0.05),
        ('stages.1.blocks.1.attn.w_msa.relative_position_bias_table', 1, 0.0),
    ):
        rate, weight_decay = result[id(names[f'backbone.{name}'])]
        assert rate == pytest.approx(1e-3 * 0.8**power) and weight_decay == decay, name
    assert result[id(names['head.fc.weight'])] == (pytest.approx(1e-3), 0.05)
