"""A resumed run follows the schedules of its config from where the checkpoint stands."""

import math
from types import SimpleNamespace

import pytest
import resume_toy as toy
import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import EpochBasedTrainLoop

import mmssl.registry  # noqa: F401
from mmssl.engine.schedule_resume import ConfiguredSchedules
from mmssl.engine.schedules import CosineWeightDecay, WarmupCosineLR  # noqa: F401

LENGTH = 5


class Log(list):
    def warning(self, text):
        self.append(text)


def build(configs, lr=0.1, optimizer='SGD', **hyperparameters):
    """Return a runner's parts; every epoch has five iterations."""
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [dict(params=[weights[0]]), dict(params=[weights[1]], lr=lr / 4)]
    built = getattr(torch.optim, optimizer)(groups, lr=lr, **hyperparameters)
    wrapper = OptimWrapper(built)
    schedulers = []
    for config in configs:
        config = dict(config, optimizer=wrapper)
        if config.pop('convert', False):
            kind = PARAM_SCHEDULERS.get(config.pop('type'))
            schedulers.append(kind.build_iter_from_epoch(**config, epoch_length=LENGTH))
        else:
            schedulers.append(PARAM_SCHEDULERS.build(config))
    return SimpleNamespace(
        optim_wrapper=wrapper, param_schedulers=schedulers, logger=Log(), weights=weights, iter=0, epoch=0
    )


def values(runner, names=('lr', 'weight_decay', 'momentum')):
    return [[group.get(name) for name in names] for group in runner.optim_wrapper.param_groups]


def advance(runner, iterations):
    seen = []
    for _ in range(iterations):
        for weight in runner.weights:
            weight.grad = torch.zeros_like(weight)
        runner.optim_wrapper.step()
        runner.iter += 1
        for scheduler in runner.param_schedulers:
            if not scheduler.by_epoch:
                scheduler.step()
        if runner.iter % LENGTH == 0:
            runner.epoch += 1
            for scheduler in runner.param_schedulers:
                if scheduler.by_epoch:
                    scheduler.step()
        seen.append(values(runner))
    return seen


def resumed(first, second, at):
    """Load the state of one run into another as mmengine does, and apply the config of the other."""
    configured = ConfiguredSchedules.of(second)
    states = [scheduler.state_dict() for scheduler in first.param_schedulers]
    second.optim_wrapper.load_state_dict(first.optim_wrapper.state_dict())
    for scheduler, state in zip(second.param_schedulers, states, strict=False):
        scheduler.load_state_dict(state)
    second.iter, second.epoch = at, at // LENGTH
    second.train_loop = EpochBasedTrainLoop.__new__(EpochBasedTrainLoop)
    configured.restore(second, states, same_position=at == first.iter)


COSINE = dict(type='mmssl.WarmupCosineLR', warmup=1, end=4, convert=True)
DECAY = dict(type='mmssl.CosineWeightDecay', final=0.4, end=4, convert=True)
CHAIN = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=7, by_epoch=False),
    dict(type='MultiStepLR', milestones=[2, 3], gamma=0.1, by_epoch=True),
]
MOMENTUM = dict(type='CosineAnnealingMomentum', T_max=20, eta_min=0.5, by_epoch=False)
SGD = dict(momentum=0.9, weight_decay=0.1)


@pytest.mark.parametrize(
    ('before', 'after', 'new'),
    [
        ([COSINE], [dict(COSINE, end=8)], SGD),
        ([COSINE], [dict(COSINE, warmup=3)], SGD),
        ([COSINE], [dict(COSINE, eta_min=0.01)], dict(SGD, lr=0.3)),
        ([COSINE, DECAY], [COSINE, dict(DECAY, end=8)], SGD),
        ([COSINE, DECAY], [COSINE, DECAY], dict(SGD, weight_decay=0.2)),
        (CHAIN, [CHAIN[0], dict(CHAIN[1], milestones=[4, 6])], SGD),
        (CHAIN, CHAIN, dict(SGD, lr=0.3)),
        ([MOMENTUM], [dict(MOMENTUM, T_max=40)], SGD),
        ([COSINE], [dict(type='CosineAnnealingLR', T_max=8, by_epoch=True)], SGD),
        (CHAIN, [dict(type='PolyLR', power=0.9, end=40, by_epoch=False)], SGD),
        (CHAIN, [], dict(SGD, lr=0.3)),
        ([], [COSINE], SGD),
    ],
)
def test_the_config_says_what_a_schedule_is(before, after, new):
    first, second, whole = build(before, **SGD), build(after, **new), build(after, **new)
    advance(first, 12)
    advance(whole, 12)
    resumed(first, second, 12)
    assert len(second.logger) == 1 and any(text in second.logger[0] for text in ('is now', 'are now'))
    assert second.logger[0].count('\n') == 0 and 'the config applies from iteration 12' in second.logger[0]
    torch.testing.assert_close(torch.tensor(values(second)), torch.tensor(values(whole)), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.tensor(advance(second, 12)), torch.tensor(advance(whole, 12)), rtol=1e-9, atol=1e-12
    )


def test_betas_follow_a_momentum_schedule():
    first, second = build([MOMENTUM], optimizer='AdamW'), build([dict(MOMENTUM, T_max=40)], optimizer='AdamW')
    whole = build([dict(MOMENTUM, T_max=40)], optimizer='AdamW')
    advance(first, 12)
    advance(whole, 12)
    resumed(first, second, 12)
    got, expected = (runner.optim_wrapper.param_groups[0]['betas'] for runner in (second, whole))
    assert got == pytest.approx(expected)


def test_the_same_config_changes_nothing():
    first, second = build([COSINE, DECAY, *CHAIN[:1]], **SGD), build([COSINE, DECAY, *CHAIN[:1]], **SGD)
    advance(first, 12)
    resumed(first, second, 12)
    assert not second.logger and values(first) == values(second)


def test_another_batch_size_moves_the_position():
    first = build([dict(type='PolyLR', power=1.0, end=41, by_epoch=False)])
    second = build([dict(type='PolyLR', power=1.0, end=41, by_epoch=False)])
    advance(first, 20)
    resumed(first, second, 10)
    assert second.optim_wrapper.param_groups[0]['lr'] == pytest.approx(0.1 * 30 / 40)


def test_a_plateau_keeps_its_observations():
    config = dict(type='ReduceOnPlateauLR', monitor='loss', factor=0.5, patience=0, by_epoch=True)
    first, second = build([config]), build([config], lr=0.4)
    for loss in (1.0, 2.0):
        first.optim_wrapper.step()
        first.param_schedulers[0].step(dict(loss=loss))
    assert first.optim_wrapper.param_groups[0]['lr'] == pytest.approx(0.05)
    resumed(first, second, 10)
    assert second.optim_wrapper.param_groups[0]['lr'] == pytest.approx(0.2)
    assert second.param_schedulers[0].best == 1.0


@pytest.fixture(scope='module')
def interrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp('run')
    toy.make_images(folder / 'images')
    toy.train(
        folder / 'first', folder / 'images', loop='epoch', sampler='DefaultSampler', epochs=2, interval=5
    )
    return folder


@pytest.mark.parametrize('runner_type', ['Runner', 'FlexibleRunner'])
def test_a_longer_run_has_a_learning_rate(interrupted, tmp_path, runner_type):
    cfg = toy.config(
        tmp_path,
        interrupted / 'images',
        loop='epoch',
        sampler='DefaultSampler',
        epochs=4,
        ema=False,
        resume=interrupted / 'first' / 'iter_10.pth',
    )
    runner = {'Runner': toy.Runner, 'FlexibleRunner': toy.FlexibleRunner}[runner_type].from_cfg(cfg)
    rates = []
    runner.register_hook(Rates(rates))
    runner.train()
    expected = [1e-2 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(10, 20)]
    assert rates == pytest.approx(expected, rel=1e-6)


class Rates(toy.Hook):
    def __init__(self, rates):
        self.rates = rates

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.rates.append(runner.optim_wrapper.get_lr()['lr'][0])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda checkpoint: checkpoint['meta'].update(iter=-5), r'meta\.iter = -5'),
        (lambda checkpoint: checkpoint['meta'].update(epoch='2'), r"meta\.epoch = '2'"),
        (
            lambda checkpoint: checkpoint['state_dict'].update(
                {key: value[:-1] for key, value in checkpoint['state_dict'].items() if value.ndim == 2}
            ),
            'other shapes, such as .* in the file',
        ),
        (
            lambda checkpoint: [
                (group.pop('betas'), group.update(momentum=0.9))
                for group in checkpoint['optimizer']['param_groups']
            ],
            'of an optimizer with momentum, and that of the config has betas',
        ),
        (
            lambda checkpoint: checkpoint['optimizer']['param_groups'].append(
                dict(checkpoint['optimizer']['param_groups'][0], params=[])
            ),
            'of 2 parameter groups, and that of the config has 1',
        ),
    ],
)
@pytest.mark.parametrize('runner_type', ['Runner', 'FlexibleRunner'])
def test_a_file_that_cannot_be_continued_is_refused(interrupted, tmp_path, change, message, runner_type):
    checkpoint = torch.load(interrupted / 'first' / 'iter_10.pth', weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / 'changed.pth')
    with pytest.raises(ValueError, match=message):
        toy.train(
            tmp_path / 'second',
            interrupted / 'images',
            runner_type,
            loop='epoch',
            sampler='DefaultSampler',
            epochs=4,
            ema=False,
            resume=tmp_path / 'changed.pth',
        )


def test_one_cycle_is_saved_as_plain_types_and_follows_the_config(interrupted, tmp_path):
    """A OneCycleLR holds a bound method, which must neither reach the checkpoint nor be lost by it."""
    rates = []
    for name, highest, epochs, resume in (
        ('first', 0.1, 2, None),
        ('whole', 0.2, 4, None),
        ('second', 0.2, 4, tmp_path / 'first' / 'iter_10.pth'),
    ):
        cfg = toy.config(
            tmp_path / name,
            interrupted / 'images',
            loop='epoch',
            sampler='DefaultSampler',
            epochs=epochs,
            ema=False,
            validate=False,
            resume=resume,
        )
        cfg['param_scheduler'] = [
            dict(type='OneCycleLR', by_epoch=False, eta_max=highest, total_steps=5 * epochs)
        ]
        runner = toy.Runner.from_cfg(cfg)
        rates.append([])
        runner.register_hook(Rates(rates[-1]))
        runner.train()
    assert rates[2] == pytest.approx(rates[1][10:]) and max(rates[1]) == pytest.approx(0.2)


def test_a_sampler_without_end_is_refused_for_epochs(interrupted, tmp_path):
    with pytest.raises(ValueError, match='the sampler of train_dataloader has no end, .* count iterations'):
        toy.train(tmp_path, interrupted / 'images', loop='epoch', sampler='InfiniteSampler', ema=False)
