"""SwAV against a plain reading of the paper by loops; two processes against one; a resumed run; refusals."""

import math
import types

import numpy as np
import pytest
import torch
from runs import check_exact_resume
from torch import distributed as dist
from torch import nn

from mmssl.layers.sync_bn import convert_sync_batchnorm
from mmssl.ops.switch import plain_forms
from mmssl.registry import MODELS, build
from mmssl.selfsup.swav import sinkhorn

F64 = torch.float64


class Mean(nn.Module):
    """A backbone without weights: an image to the mean of its channels."""

    def forward(self, x):
        return (x.mean((2, 3)),)


class ConvBatchNorm(nn.Sequential):
    """A backbone with batch norm."""

    def __init__(self):
        super().__init__(nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU())


def swav(backbone=Mean, width=3, hidden=0, dim=4, prototypes=5, seed=0, **kwargs):
    torch.manual_seed(seed)
    head = {
        key: kwargs.pop(key)
        for key in ('temperature', 'epsilon', 'iterations', 'crops_for_assign')
        if key in kwargs
    }
    return build(
        dict(
            type='SwAV',
            backbone=backbone(),
            neck=dict(type='SwAVNeck', in_channels=width, hid_channels=hidden, out_channels=dim),
            head=dict(type='SwAVHead', in_channels=dim, num_prototypes=prototypes, **head),
            **kwargs,
        ),
        MODELS,
    ).double()


def draw(batch, large=2, small=3, seed=1, size=8):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(batch, 3, side, side, generator=generator, dtype=F64)
        for side in [size] * large + [size // 2] * small
    ]


def codes_by_loops(scores, epsilon=0.05, iterations=3):
    """Algorithm 1 of the paper's appendix, number by number."""
    batch, count = len(scores), len(scores[0])
    q = [[math.exp(scores[b][k] / epsilon) for k in range(count)] for b in range(batch)]
    for _ in range(iterations):
        for k in range(count):
            mass = sum(q[b][k] for b in range(batch))
            for b in range(batch):
                q[b][k] /= mass * count
        for b in range(batch):
            mass = sum(q[b])
            q[b] = [value / mass / batch for value in q[b]]
    return [[value * batch for value in row] for row in q]


def dot(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True))


def loss_by_loops(
    features, prototypes, queued=None, assigned=(0, 1), temperature=0.1, epsilon=0.05, iterations=3
):
    """Mean loss and its gradients in features and prototypes, by the formula of softmax."""
    views, batch, count, dim = len(features), len(features[0]), len(prototypes), len(prototypes[0])
    loss, weight = 0.0, 1 / (len(assigned) * (views - 1) * batch)
    of_features = np.zeros((views, batch, dim))
    of_prototypes = np.zeros((count, dim))
    scores = [[[dot(z, c) for c in prototypes] for z in view] for view in features]
    for row, a in enumerate(assigned):
        older = [[dot(z, c) for c in prototypes] for z in queued[row]] if queued else []
        codes = codes_by_loops(older + scores[a], epsilon, iterations)[len(older) :]
        for v in range(views):
            if v == a:
                continue
            for b in range(batch):
                logits = [value / temperature for value in scores[v][b]]
                total = sum(math.exp(value) for value in logits)
                for k in range(count):
                    loss -= weight * codes[b][k] * (logits[k] - math.log(total))
                    slope = weight * (math.exp(logits[k]) / total - codes[b][k]) / temperature
                    of_features[v, b] += slope * np.array(prototypes[k])
                    of_prototypes[k] += slope * np.array(features[v][b])
    return loss, of_features, of_prototypes


@pytest.mark.parametrize(('epsilon', 'iterations'), [(0.05, 3), (0.05, 1), (0.3, 10)])
def test_codes_equal_the_algorithm(epsilon, iterations):
    scores = torch.rand(9, 4, dtype=F64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    original = scores.clone()
    codes = sinkhorn(scores, epsilon, iterations)
    torch.testing.assert_close(
        codes,
        torch.tensor(codes_by_loops(scores.tolist(), epsilon, iterations), dtype=F64),
        atol=1e-12,
        rtol=0,
    )
    assert torch.equal(scores, original)
    single = sinkhorn(scores.float(), epsilon, iterations)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), codes, atol=1e-5, rtol=0)
    both = sinkhorn(torch.stack([scores, scores.flip(1)]), epsilon, iterations)
    torch.testing.assert_close(both, torch.stack([codes, codes.flip(1)]), atol=1e-15, rtol=0)


def test_after_many_iterations_all_prototypes_have_the_same_mass():
    codes = sinkhorn(torch.randn(60, 6, dtype=F64, generator=torch.Generator().manual_seed(0)), 0.5, 500)
    torch.testing.assert_close(codes.sum(0), torch.full((6,), 10.0, dtype=F64), atol=1e-9, rtol=0)
    torch.testing.assert_close(codes.sum(1), torch.ones(60, dtype=F64), atol=1e-12, rtol=0)


@pytest.mark.parametrize('far', [-100.0, -1e6, -torch.inf])
@pytest.mark.parametrize('dtype', [torch.float32, F64, torch.bfloat16])
def test_a_prototype_that_no_sample_likes_gives_no_nan(far, dtype):
    scores = torch.randn(12, 5, generator=torch.Generator().manual_seed(0)).to(dtype)
    scores[:, 2] = far
    codes = sinkhorn(scores)
    assert codes.isfinite().all() and (codes >= 0).all()
    torch.testing.assert_close(codes.sum(1), torch.ones(12, dtype=codes.dtype), atol=1e-5, rtol=0)
    assert (codes[:, 2].sum() > 0) == (far > -torch.inf)  # however far it is, equal sharing gives it some
    assert sinkhorn(scores[:, :2] * 0 + 1e30).isfinite().all()


def test_codes_are_float32_under_autocast():
    scores = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    with torch.autocast('cpu', torch.bfloat16):
        codes = sinkhorn(scores)
    assert torch.equal(codes, sinkhorn(scores))


@pytest.mark.parametrize('assigned', [(0, 1), (1,), (2, 0)])
@pytest.mark.parametrize('queued', [0, 7])
def test_loss_and_gradients_equal_the_paper(assigned, queued):
    model = swav(crops_for_assign=assigned, temperature=0.2, epsilon=0.1, iterations=2)
    generator = torch.Generator().manual_seed(3)
    features = nn.functional.normalize(
        torch.randn(4, 6, 4, dtype=F64, generator=generator), dim=2
    ).requires_grad_()
    older = (
        nn.functional.normalize(torch.randn(len(assigned), queued, 4, dtype=F64, generator=generator), dim=2)
        if queued
        else None
    )
    weight = model.head.prototypes.weight
    loss = model.head.loss(features, older)
    loss.backward()
    expected = loss_by_loops(
        features.tolist(), weight.tolist(), older.tolist() if queued else None, assigned, 0.2, 0.1, 2
    )
    for got, value in zip((loss, features.grad, weight.grad), expected, strict=True):
        torch.testing.assert_close(got.detach(), torch.as_tensor(value, dtype=F64), atol=1e-12, rtol=0)


def test_three_steps_as_the_recipe_says():
    """Every number by hand, with SGD.

    Prototypes are normalised before each forward pass and frozen for two steps; the queue of the last six
    features starts in the second epoch and is used when full.
    """
    rate, batch, length = 0.5, 3, 6
    model = swav(freeze_prototypes=2, queue_length=length, queue_start_epoch=1)
    model.set_schedule(iterations_per_epoch=1, max_iterations=5)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    model.attach(optimizer)
    linear = model.neck.projection_neck
    weight, bias, prototypes = (
        tensor.detach().numpy().copy()
        for tensor in (linear.weight, linear.bias, model.head.prototypes.weight)
    )
    queue = [[], []]
    for step in range(5):
        inputs = draw(batch, seed=step)
        loss = model.loss(inputs)['loss']
        optimizer.zero_grad()
        loss.backward()
        assert model.head.prototypes.weight.grad is not None
        optimizer.step()
        assert (model.head.prototypes.weight.grad is None) == (step < 2)

        prototypes = np.array([row / math.sqrt(dot(row, row)) for row in prototypes])
        pixels = [[image.mean((1, 2)).numpy() for image in view] for view in inputs]
        raw = [[np.array([dot(row, x) for row in weight]) + bias for x in view] for view in pixels]
        features = [[y / math.sqrt(dot(y, y)) for y in view] for view in raw]
        full = len(queue[0]) == length
        expected_loss, of_features, of_prototypes = loss_by_loops(
            features, prototypes.tolist(), queue if full else None
        )
        assert full == (step >= 3)
        if step >= 1:
            for row, view in zip(queue, features, strict=False):
                row += list(view)
                del row[:-length]
        of_weight, of_bias = np.zeros_like(weight), np.zeros_like(bias)
        for view, (images, vectors) in enumerate(zip(pixels, features, strict=True)):
            for b, (x, z) in enumerate(zip(images, vectors, strict=True)):
                slope = (of_features[view, b] - z * dot(z, of_features[view, b])) / math.sqrt(
                    dot(raw[view][b], raw[view][b])
                )
                of_weight += np.outer(slope, x)
                of_bias += slope
        weight, bias = weight - rate * of_weight, bias - rate * of_bias
        if step >= 2:
            prototypes = prototypes - rate * of_prototypes

        assert loss.item() == pytest.approx(expected_loss, abs=1e-12)
        for got, expected in (
            (linear.weight, weight),
            (linear.bias, bias),
            (model.head.prototypes.weight, prototypes),
        ):
            np.testing.assert_allclose(got.detach().numpy(), expected, atol=1e-12)
        assert model.queue.filled == len(queue[0]) and model.clock.steps == step + 1
        columns = model.queue.queue.view(2, 4, length).mT.numpy()
        for row, features in zip(columns, queue, strict=True):
            present = sorted(tuple(column) for column in row if column.any())
            np.testing.assert_allclose(
                present, sorted(tuple(vector) for vector in features) or np.zeros((0,)), atol=1e-12
            )


def test_evaluation_changes_nothing():
    model = swav(ConvBatchNorm, 6, 8, queue_length=4, queue_start_epoch=0).eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    first, second = (model.loss(draw(4))['loss'] for _ in range(2))
    assert torch.equal(first, second)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_views_of_equal_size_go_through_the_backbone_together():
    model = swav(ConvBatchNorm, 6, 8, freeze_prototypes=0)
    shapes = []
    model.backbone.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(inputs[0].shape)))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.attach(optimizer)
    model.loss(draw(4))
    assert shapes == [(8, 3, 8, 8), (12, 3, 4, 4)]
    assert model.extract_feat(draw(4)[0]).shape == (4, 6, 3, 3)


# two processes against one

STEPS, BATCH = 5, 4


def train(model, part, world=1):
    """Train on a part of every batch; losses, gradients of the first step, and the state at the end."""
    model.set_schedule(iterations_per_epoch=1, max_iterations=STEPS)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    model.attach(optimizer)
    losses, first = [], {}
    for step in range(STEPS):
        loss = model.loss([view[part] for view in draw(2 * BATCH, seed=step)])['loss']
        optimizer.zero_grad()
        loss.backward()
        for name, parameter in model.named_parameters():  # as DistributedDataParallel does
            if world > 1:
                dist.all_reduce(parameter.grad)
                parameter.grad /= world
            first.setdefault(name, parameter.grad.clone())
        optimizer.step()
        losses.append(loss.item())
    return dict(losses=losses, gradients=first, state=dict(model.state_dict()))


def unbalanced_scores(rank=None):
    """Scores of 2 x 5 samples; those of rank 1 are far from prototypes 0 to 2, and all from prototype 3."""
    scores = torch.rand(10, 6, dtype=F64, generator=torch.Generator().manual_seed(4)) * 2 - 1
    scores[5:, :3] = -60.0
    scores[:, 3] = -1e4
    return scores if rank is None else scores[5 * rank : 5 * rank + 5]


def two_process_model():
    model = swav(ConvBatchNorm, 6, 8, freeze_prototypes=1, queue_length=13, queue_start_epoch=1)
    model.backbone = nn.SyncBatchNorm.convert_sync_batchnorm(model.backbone)
    model.neck = nn.SyncBatchNorm.convert_sync_batchnorm(model.neck)
    convert_sync_batchnorm(model)
    return model


def train_rank(rank):
    from mmpretrain.models.losses.swav_loss import distributed_sinkhorn

    result = train(two_process_model(), slice(BATCH * rank, BATCH * rank + BATCH), world=2)
    scores = unbalanced_scores(rank)
    result['codes'] = sinkhorn(scores)
    with plain_forms():
        result['plain'] = sinkhorn(scores)
    result['uneven'] = sinkhorn(unbalanced_scores()[:3] if rank == 0 else unbalanced_scores()[3:])
    result['single'] = sinkhorn(scores.float())
    result['mmpretrain'] = distributed_sinkhorn(scores[:, 4:].clone(), 3, 2, 0.05)
    return result


def test_two_processes_equal_a_single_process_with_all_samples(two_ranks):
    ranks = two_ranks(train_rank)
    expected = train(two_process_model(), slice(None))
    for step, loss in enumerate(expected['losses']):
        assert (ranks[0]['losses'][step] + ranks[1]['losses'][step]) / 2 == pytest.approx(loss, abs=1e-12)
    assert expected['state']['queue.filled'] == 13 and expected['state']['queue.queue_ptr'] == 32 % 13
    for result in ranks:
        for name, gradient in expected['gradients'].items():
            torch.testing.assert_close(result['gradients'][name], gradient, atol=1e-12, rtol=0, msg=name)
        for key, value in expected['state'].items():
            torch.testing.assert_close(result['state'][key], value, atol=1e-11, rtol=0, msg=key)
    assert torch.equal(ranks[0]['state']['queue.queue'], ranks[1]['state']['queue.queue'])

    codes = sinkhorn(unbalanced_scores())
    assert codes.isfinite().all()
    for name, tolerance in (('codes', 1e-11), ('plain', 1e-11), ('uneven', 1e-11), ('single', 1e-5)):
        torch.testing.assert_close(
            torch.cat([result[name] for result in ranks]).to(F64), codes, atol=tolerance, rtol=0, msg=name
        )
    # the fault that this is here to avoid: onedl-mmpretrain's processes balance their own samples only
    joint = sinkhorn(unbalanced_scores()[:, 4:])
    assert (torch.cat([result['mmpretrain'] for result in ranks]) - joint).abs().max() > 0.05


# a run


def test_a_run_is_resumed_exactly(tmp_path):
    """Ten steps, three per epoch, with the queue from the second epoch on."""
    changes = {
        'default_hooks.checkpoint.interval': 4,
        'model.queue_length': 8,
        'model.queue_start_epoch': 1,
    }
    straight, saved = check_exact_resume('swav', tmp_path, 4, changes)
    assert saved['clock.steps'] == 4 and saved['queue.filled'] == 4 and saved['queue.queue_ptr'] == 4
    assert len(straight.losses) == 10
    assert straight.model['queue.filled'] == 8 and straight.model['queue.queue_ptr'] == 7 * 4 % 8


def test_learning_rates_are_the_released_ones(repo_root):
    """0.3 to 4.8 in ten epochs, then a cosine to 0.0048 (main_swav.py, whose warm-up has one step less)."""
    from mmengine.config import Config

    from mmssl.registry import PARAM_SCHEDULERS

    cfg = Config.fromfile(repo_root / 'configs/swav/swav_resnet50_64xb64-mcrop-coslr-100e_in1k-224px-96px.py')
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=cfg.optim_wrapper.optimizer.lr)
    epoch = 20
    settings = {
        key: value
        for key, value in cfg.param_scheduler.items()
        if key not in ('type', 'convert_to_iter_based')
    }
    schedule = PARAM_SCHEDULERS.get('mmssl.WarmupCosineLR').build_iter_from_epoch(
        optimizer, **settings, epoch_length=epoch
    )
    steps = np.arange(90 * epoch)
    expected = np.concatenate(
        [
            np.linspace(0.3, 4.8, 10 * epoch + 1)[:-1],
            0.0048 + 0.5 * (4.8 - 0.0048) * (1 + np.cos(np.pi * steps / (90 * epoch))),
        ]
    )
    got = []
    for _ in expected:
        got.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        schedule.step()
    np.testing.assert_allclose(got, expected, rtol=1e-12)


# errors


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(epsilon=0), 'epsilon=0 of Sinkhorn must be above 0'),
        (dict(iterations=0), '0 iterations of Sinkhorn'),
        (dict(temperature=0.0), r'temperature=0\.0 and num_prototypes=5 must be above 0'),
        (dict(prototypes=0), 'num_prototypes=0'),
        (dict(crops_for_assign=()), r'crops_for_assign=\(\)'),
        (dict(crops_for_assign=(0, 0)), r'crops_for_assign=\(0, 0\)'),
        (dict(freeze_prototypes=-1), 'freeze_prototypes=-1'),
        (dict(queue_length=-1), 'queue_length=-1'),
    ],
)
def test_impossible_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        swav(**settings)


def test_widths_that_do_not_agree_are_refused():
    with pytest.raises(ValueError, match='head has in_channels=8, but the neck gives 4'):
        build(
            dict(
                type='SwAV',
                backbone=Mean(),
                neck=dict(type='SwAVNeck', in_channels=3, hid_channels=0, out_channels=4),
                head=dict(type='SwAVHead', in_channels=8),
            ),
            MODELS,
        )


def test_views_that_do_not_fit_are_refused():
    model = swav(crops_for_assign=(0, 2)).eval()
    with pytest.raises(ValueError, match='SwAV takes a list of views'):
        model.loss(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r'crops_for_assign=\[0, 2\], but there are 2 views'):
        model.loss(draw(2, small=0))
    with pytest.raises(ValueError, match='views of 4 and 3 images'):
        model.loss([*draw(4, small=1), draw(3)[0]])
    with pytest.raises(ValueError, match=r'scores of Sinkhorn have shape \(4,\)'):
        sinkhorn(torch.zeros(4))


def test_a_queue_asks_how_long_an_epoch_is():
    model = swav(queue_length=8)
    model.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match=r'starts after 15 epochs of unknown length.*set_schedule'):
        model.loss(draw(4))
    model.set_schedule(2, 100)
    model.loss(draw(4))
    assert model.queue.filled == 0
    short = swav(queue_length=8, queue_start_epoch=0)
    short.attach(types.SimpleNamespace(register_step_pre_hook=id, register_step_post_hook=id))
    with pytest.raises(ValueError, match='the queue has 8 places and the batch of all processes 9 features'):
        short.loss(draw(9))
