"""MoCo against a plain reading of the paper, mmpretrain and two processes; a resumed run; refusals."""

import functools
import math

import pytest
import torch
from mmengine.model import BaseModule
from runs import check_exact_resume, random_views
from torch import nn
from torch.nn import functional as F

from mmssl.losses import info_nce
from mmssl.registry import MODELS
from mmssl.selfsup.moco import MoCo, MoCoV1Neck, MoCoV2Neck

LR, WEIGHT_DECAY, MOMENTUM, KEY_MOMENTUM = 0.1, 0.01, 0.9, 0.9


class ConvBatchNorm(BaseModule):
    """A convolution, a batch norm and a ReLU."""

    feat_dim = 4

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x):
        return (self.bn(self.conv(x)).relu(),)


def small_moco(version=2, seed=0, **kwargs):
    torch.manual_seed(seed)
    neck = MoCoV1Neck(4, 5) if version == 1 else MoCoV2Neck(4, 6, 5)
    model = MoCo(
        ConvBatchNorm(), neck, **{'queue_len': 10, 'momentum': KEY_MOMENTUM, 'temperature': 0.2, **kwargs}
    ).double()
    for parameter in model.encoder_q.parameters():
        nn.init.normal_(parameter, 0.0, 0.5)
    model.encoder_k.copy_from(model.encoder_q)
    return model.train()


def permutation(length, seed=2):
    return torch.randperm(length, generator=torch.Generator().manual_seed(seed))


def info_nce_by_loops(queries, keys, queue, temperature):
    """Equation 1 of the paper, one query and one exponential at a time; queue: (D, K)."""
    total = 0.0
    for query, key in zip(queries, keys, strict=True):
        positive = torch.exp((query * key).sum() / temperature)
        negatives = sum(torch.exp((query * queue[:, j]).sum() / temperature) for j in range(queue.shape[1]))
        total = total - torch.log(positive / (positive + negatives))
    return total / len(queries)


class Reference:
    """MoCo's algorithm 1 with parameters in dicts, batch norm and SGD written out."""

    def __init__(self, model, version, groups, temperature):
        self.version, self.groups, self.temperature = version, groups, temperature
        self.query = {
            name: value.detach().clone().requires_grad_()
            for name, value in model.encoder_q.named_parameters()
        }
        self.key = {name: value.detach().clone() for name, value in self.query.items()}
        self.velocity = {name: torch.zeros_like(value) for name, value in self.query.items()}
        self.statistics = {
            name: [torch.zeros(4).double(), torch.ones(4).double()] for name in ('query', 'key')
        }
        self.queue, self.pointer = model.queue.queue.clone(), 0

    def encode(self, encoder, images):
        weights, out = getattr(self, encoder), []
        for number, start in enumerate(range(0, len(images), len(images) // self.groups)):
            x = F.conv2d(
                images[start : start + len(images) // self.groups],
                weights['0.conv.weight'],
                weights['0.conv.bias'],
                stride=2,
            )
            mean = x.mean((0, 2, 3))
            variance = ((x - mean.view(1, 4, 1, 1)) ** 2).mean((0, 2, 3))
            if number == 0:  # the running statistics of the first device are those in a checkpoint
                count = x.numel() / 4
                for running, new in zip(
                    self.statistics[encoder], (mean, variance * count / (count - 1)), strict=True
                ):
                    running.copy_(0.9 * running + 0.1 * new.detach())
            x = (x - mean.view(1, 4, 1, 1)) / (variance.view(1, 4, 1, 1) + 1e-5).sqrt()
            x = (
                (x * weights['0.bn.weight'].view(1, 4, 1, 1) + weights['0.bn.bias'].view(1, 4, 1, 1))
                .clamp(min=0)
                .mean((2, 3))
            )
            if self.version == 1:
                out.append(x @ weights['1.fc.weight'].T + weights['1.fc.bias'])
            else:
                x = (x @ weights['1.mlp.0.weight'].T + weights['1.mlp.0.bias']).clamp(min=0)
                out.append(x @ weights['1.mlp.2.weight'].T + weights['1.mlp.2.bias'])
        x = torch.cat(out)
        return x / x.square().sum(1, keepdim=True).sqrt()

    def step(self, views, order):
        queries = self.encode('query', views[0])
        for name, value in self.key.items():
            value.copy_(KEY_MOMENTUM * value + (1 - KEY_MOMENTUM) * self.query[name].detach())
        with torch.no_grad():
            shuffled = self.encode('key', torch.stack([views[1][n] for n in order]))
            keys = torch.empty_like(shuffled)
            for position, n in enumerate(order):
                keys[n] = shuffled[position]
        loss = info_nce_by_loops(queries, keys, self.queue, self.temperature)
        gradients = torch.autograd.grad(loss, list(self.query.values()))
        self.queue = self.queue.clone()
        for key in keys:
            self.queue[:, self.pointer] = key
            self.pointer = (self.pointer + 1) % self.queue.shape[1]
        with torch.no_grad():
            for (name, value), gradient in zip(self.query.items(), gradients, strict=True):
                self.velocity[name] = MOMENTUM * self.velocity[name] + gradient + WEIGHT_DECAY * value
                value -= LR * self.velocity[name]
        return loss.item()


def sgd(model):
    return torch.optim.SGD(model.encoder_q.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)


def train(model, optimizer, views, order=None):
    loss = model.loss(views, order=order)['loss']
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def test_loss_is_the_cross_entropy_of_equation_1():
    model = small_moco(temperature=0.07, queue_len=7)
    generator = torch.Generator().manual_seed(3)
    queries, keys = (
        F.normalize(torch.randn(3, 5, generator=generator, dtype=torch.float64)) for _ in range(2)
    )
    got = info_nce(queries, keys, model.queue.queue, 0.07).item()
    assert abs(got - info_nce_by_loops(queries, keys, model.queue.queue, 0.07).item()) < 1e-12
    logits = (
        torch.cat([(queries * keys).sum(1, keepdim=True), queries @ model.queue.queue], 1) / 0.07
    )  # as the released code has it
    assert abs(got - F.cross_entropy(logits, torch.zeros(3, dtype=torch.long)).item()) < 1e-12
    # an orthogonal queue and a perfect key: log(1 + K exp(-1 / T))
    model.queue.queue.zero_()
    assert (
        abs(info_nce(queries, queries, model.queue.queue, 0.07).item() - math.log1p(7 * math.exp(-1 / 0.07)))
        < 1e-12
    )


@pytest.mark.parametrize(('version', 'groups'), [(1, 1), (2, 1), (2, 2)])
def test_three_steps_are_the_papers(version, groups):
    """Loss, encoders, batch norm statistics, queue and pointer; the batch does not divide the queue."""
    model = small_moco(version, bn_groups=groups)
    plain = Reference(model, version, groups, 0.2)
    optimizer = sgd(model)
    model.attach(optimizer)
    for step in range(3):
        views, order = random_views(seed=10 + step), permutation(4, seed=step)
        assert abs(train(model, optimizer, views, order) - plain.step(views, order.tolist())) < 1e-12, step
    for encoder, expected in ((model.encoder_q, plain.query), (model.encoder_k.module, plain.key)):
        for name, value in encoder.named_parameters():
            torch.testing.assert_close(value, expected[name], atol=1e-12, rtol=0, msg=name)
    for norm, expected in (
        (model.backbone.bn, plain.statistics['query']),
        (model.encoder_k.module[0].bn, plain.statistics['key']),
    ):
        torch.testing.assert_close([norm.running_mean, norm.running_var], expected, atol=1e-12, rtol=0)
        assert norm.num_batches_tracked == 3
    torch.testing.assert_close(model.queue.queue, plain.queue, atol=1e-12, rtol=0)
    assert model.queue.queue_ptr == plain.pointer == 2
    assert model.encoder_k.steps == model.clock.steps == 3
    assert all(parameter.grad is None for parameter in model.encoder_k.parameters())


def test_a_shuffle_counts_between_groups_and_not_within():
    model = small_moco(bn_groups=2)
    views = random_views()
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def keys(order):
        model.load_state_dict(state)
        return model.keys(views[1], torch.tensor(order))

    torch.testing.assert_close(keys([0, 1, 2, 3]), keys([1, 0, 3, 2]), atol=1e-12, rtol=0)
    assert (keys([0, 1, 2, 3]) - keys([0, 2, 1, 3])).abs().max() > 1e-3
    drawn = []
    for seed in (4, 4, 5, 6):
        torch.manual_seed(seed)
        model.load_state_dict(state)
        drawn.append(model.keys(views[1]))
    assert torch.equal(drawn[0], drawn[1]) and not all(torch.equal(drawn[0], other) for other in drawn[2:])


def test_evaluation_changes_nothing():
    model = small_moco(bn_groups=3).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loss = model.loss(random_views())['loss']
    assert torch.equal(loss, model.loss(random_views())['loss'])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.extract_feat(random_views()[0])[0].shape == (4, 4, 4, 4)


def test_the_key_encoder_moves_once_a_step_and_the_queue_with_every_batch():
    model = small_moco()
    optimizer = sgd(model)
    model.attach(optimizer)
    for batch in range(4):  # two batches a step
        model.loss(random_views(seed=batch))['loss'].backward()
        if batch % 2:
            optimizer.step()
    assert model.encoder_k.steps == 2 and model.queue.queue_ptr == 4 * 4 - 10


def test_logits_are_not_rounded_under_autocast():
    model = small_moco(momentum=1.0).float()
    views = [view.float() for view in random_views()]
    exact = model.loss(views)['loss'].item()
    with torch.autocast('cpu', torch.bfloat16):
        loss = small_moco(momentum=1.0).float().loss(views)['loss']
    assert loss.dtype == torch.float32 and abs(loss.item() - exact) < 0.05
    assert model.queue.queue.dtype == torch.float32


def resnet(**kwargs):
    return {
        'type': 'mmpretrain.ResNet',
        'depth': 18,
        'stem_channels': 8,
        'base_channels': 8,
        'zero_init_residual': False,
        **kwargs,
    }


def test_mmpretrain_agrees_in_all_but_the_statistics_of_the_key_encoder():
    """Its checkpoint loads as it is; four steps in float64 give its losses, weights and queue.

    It overwrites the key encoder's batch norm statistics by the query encoder's; the released code does not.
    """
    from mmpretrain.models import MoCo as HostMoCo

    torch.manual_seed(0)
    host = HostMoCo(
        backbone=resnet(),
        neck={'type': 'mmpretrain.MoCoV2Neck', 'in_channels': 64, 'hid_channels': 64, 'out_channels': 16},
        head={
            'type': 'mmpretrain.ContrastiveHead',
            'temperature': 0.2,
            'loss': {'type': 'mmpretrain.CrossEntropyLoss'},
        },
        queue_len=32,
        feat_dim=16,
        momentum=0.01,
        data_preprocessor={'type': 'mmpretrain.SelfSupDataPreprocessor'},
    ).double()
    ours = MODELS.build(
        {
            'type': 'mmssl.MoCo',
            'backbone': resnet(),
            'queue_len': 32,
            'momentum': 0.99,
            'temperature': 0.2,
            'neck': {'type': 'mmssl.MoCoV2Neck', 'in_channels': 64, 'hid_channels': 64, 'out_channels': 16},
        }
    ).double()
    ours.load_state_dict(host.state_dict(), strict=True)
    assert torch.equal(ours.queue.queue, host.queue)
    optimizers = [
        torch.optim.SGD(
            [*model.backbone.parameters(), *model.neck.parameters()], lr=0.03, momentum=0.9, weight_decay=1e-4
        )
        for model in (ours, host)
    ]
    statistics = {
        name: value.clone() for name, value in ours.encoder_k.module.named_buffers() if 'running' in name
    }
    recorded = {}
    for name, norm in ours.encoder_k.module.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.register_forward_hook(lambda norm, inputs, _, name=name: recorded.update({name: inputs[0]}))
    for step in range(4):
        views = random_views(8, seed=step, size=48)
        losses = []
        for model, optimizer in zip((ours, host), optimizers, strict=True):
            loss = model.loss(views, None)['loss']
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert abs(losses[0] - losses[1]) < 1e-10, step
        for name, inputs in recorded.items():
            variance, mean = torch.var_mean(inputs, (0, 2, 3))
            for statistic, value in ((f'{name}.running_mean', mean), (f'{name}.running_var', variance)):
                statistics[statistic] = 0.9 * statistics[statistic] + 0.1 * value
    theirs = dict(host.encoder_k.module.named_buffers())
    for (name, value), other in zip(
        ours.encoder_k.module.named_parameters(), host.encoder_k.module.parameters(), strict=True
    ):
        torch.testing.assert_close(value, other, atol=1e-10, rtol=0, msg=name)
    for name, value in ours.backbone.state_dict().items():
        torch.testing.assert_close(value, host.backbone.state_dict()[name], atol=1e-10, rtol=0, msg=name)
    torch.testing.assert_close(ours.queue.queue, host.queue, atol=1e-10, rtol=0)
    for name, value in ours.encoder_k.module.named_buffers():
        if 'running' in name:
            torch.testing.assert_close(value, statistics[name], atol=1e-12, rtol=1e-10, msg=name)
    assert max((theirs[name] - value).abs().max() for name, value in statistics.items()) > 0.01


def train_part(model, forward, start, stop, seed):
    """Train three steps on images ``start`` to ``stop`` of batches of 8; return losses and state dict."""
    optimizer, losses = sgd(model), []
    for step in range(3):
        torch.manual_seed(seed + step)
        loss = forward([view[start:stop] for view in random_views(8, seed=step)])['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, model.state_dict()


def train_rank(rank):
    results = []
    for groups in (1, 2):
        model = small_moco(bn_groups=groups, queue_len=20)
        parallel = nn.parallel.DistributedDataParallel(model, broadcast_buffers=False)
        forward = functools.partial(parallel, data_samples=None, mode='loss')
        # the shuffle is drawn by the first rank
        results.append(train_part(model, forward, 4 * rank, 4 * rank + 4, 1000 * rank))
    return results


def test_two_processes_equal_a_single_process_with_as_many_groups(two_ranks):
    ranks = two_ranks(train_rank)
    for groups, (first, first_state), (second, second_state) in zip((2, 4), *ranks, strict=True):
        model = small_moco(bn_groups=groups, queue_len=20)
        losses, state = train_part(model, model.loss, 0, 8, 0)
        assert [(a + b) / 2 for a, b in zip(first, second, strict=True)] == pytest.approx(losses, abs=1e-12)
        for name, value in state.items():
            torch.testing.assert_close(
                value, first_state[name], atol=1e-12, rtol=0, msg=name
            )  # the running statistics too
            if 'running' not in name:
                assert torch.equal(first_state[name], second_state[name]), name
        assert state['queue.queue_ptr'] == 4


def test_a_run_is_resumed_exactly(tmp_path):
    changes = {
        'train_cfg.max_iters': 6,
        'param_scheduler.end': 6,
        'default_hooks.checkpoint.interval': 3,
        'model.queue_len': 10,
    }
    straight, saved = check_exact_resume('moco', tmp_path, 3, changes)
    assert saved['queue.queue_ptr'] == 2 and straight.model['queue.queue_ptr'] == 4
    assert straight.model['encoder_k.steps'] == 6
    for part in ('backbone.conv1.weight', 'encoder_k.module.1.mlp.0.weight', 'queue.queue'):
        assert not torch.equal(saved[part], straight.model[part]), part


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'temperature': 0}, 'temperature=0 of MoCo must be above 0; v1 has 0.07'),
        ({'bn_groups': 0}, 'bn_groups=0 of MoCo must be at least 1'),
        ({'queue_len': 0}, 'length=0 of a queue'),
        ({'momentum': 1.5}, 'momentum=1.5 of a momentum encoder must be between 0 and 1'),
        (
            {'neck': MoCoV1Neck(8)},
            'neck has in_channels=8, but the backbone has 4 channels; set in_channels=4',
        ),
    ],
)
def test_wrong_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        MoCo(**{'backbone': ConvBatchNorm(), 'neck': MoCoV2Neck(4), 'queue_len': 8, **change})


def test_a_momentum_counted_from_the_other_end_is_noticed():
    with pytest.raises(ValueError, match=r"momentum=0\.001 .*mmpretrain's .*set momentum=0\.999"):
        small_moco(momentum=0.001)
    with pytest.warns(UserWarning, match='momentum=0.3: the key encoder takes 70.0% of the query encoder'):
        small_moco(momentum=0.3)


def test_wrong_inputs_are_refused():
    model = small_moco(bn_groups=3)
    with pytest.raises(ValueError, match='a batch of 4 does not divide into bn_groups=3'):
        model.loss(random_views())
    with pytest.raises(ValueError, match='MoCo takes 2 views, not 3'):
        model.loss([*random_views(), random_views()[0]])
    with pytest.raises(ValueError, match='MoCo takes a list of views'):
        model.loss(random_views()[0])
    with pytest.raises(
        ValueError, match='the queue has 10 places and the batch of all processes 12 features'
    ):
        model.loss(random_views(12))
