"""Quality of features without labels: formulas, and the hook in runs that collapse and runs that do not."""

import json
import math
import random
import types
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.runner import Runner, loops

from mmssl.engine.quality_hook import FeatureQualityHook, compare_with_start, starts_from_trained_weights
from mmssl.evaluation.quality import feature_std, lidar, rank_me, uniformity
from mmssl.selfsup.base import SelfSupervisor


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rank_of_known_spectra():
    q, _ = torch.linalg.qr(noise(20, 4))
    assert rank_me(q) == pytest.approx(4, rel=1e-4)
    assert rank_me(q * torch.tensor([1.0, 1, 0, 0])) == pytest.approx(2, rel=1e-4)
    shares = torch.tensor([0.7, 0.3]).double()
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    assert rank_me(q[:, :2] * shares) == pytest.approx(math.exp(entropy), rel=1e-4)
    assert rank_me(torch.ones(20, 4)) == pytest.approx(1, rel=1e-4)
    assert rank_me(torch.zeros(20, 4)) == 0


def test_std_and_uniformity_by_loops():
    features = noise(7, 3)
    unit = [row / row.norm() for row in features]
    pairs = [
        math.exp(-2 * float((unit[i] - unit[j]).square().sum())) for i in range(7) for j in range(i + 1, 7)
    ]
    assert uniformity(features) == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-9)
    table = torch.stack(unit)
    expected = sum(float((table[:, c] - table[:, c].mean()).square().mean().sqrt()) for c in range(3)) / 3
    assert feature_std(features) == pytest.approx(expected, rel=1e-9)
    assert feature_std(noise(2000, 64)) == pytest.approx(1 / 8, rel=0.02)
    assert feature_std(torch.ones(5, 3)) == 0 and uniformity(torch.ones(5, 3)) == 0


def test_lidar_counts_the_directions_in_which_images_differ():
    images = torch.zeros(40, 1, 6).double()
    images[..., :3] = 10 * noise(40, 1, 3)
    views = images + 0.01 * noise(40, 8, 6, seed=1)
    assert lidar(views) == pytest.approx(3, rel=0.1)
    assert lidar(torch.ones(4, 2, 3)) == 0
    # against the definition, in one line each
    means = views.mean(1)
    between = torch.cov(means.T)
    within = ((views - means[:, None]).transpose(1, 2) @ (views - means[:, None])).sum(0) / (40 * 7)
    values = torch.linalg.eigvals(torch.linalg.solve(within + 1e-3 * torch.eye(6), between)).real
    shares = values / values.sum() + 1e-7
    assert lidar(views) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())), rel=1e-6)


@pytest.mark.parametrize(
    ('call', 'message'),
    [
        (lambda: rank_me(torch.ones(1, 3)), 'N >= 2'),
        (lambda: feature_std(torch.full((3, 3), torch.nan)), 'NaN'),
        (lambda: lidar(torch.ones(3, 1, 2)), 'Q >= 2'),
        (lambda: FeatureQualityHook(images=1), 'images=1 must be'),
        (lambda: FeatureQualityHook(collapse=0.9), 'in this order'),
        (lambda: FeatureQualityHook(spread=2.0), 'spread=2.0 must be in'),
        (lambda: FeatureQualityHook(pool='patch'), "pool='patch'"),
    ],
)
def test_what_has_no_value_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_comparison_with_the_start():
    start = dict(rankme=10.0, std=0.1)
    limits = dict(collapse=0.3, spread=0.7, worse=0.8)
    assert compare_with_start(start, dict(rankme=9.0, std=0.08), **limits) == ''
    worse = compare_with_start(start, dict(rankme=7.0, std=0.1), **limits)
    assert worse.startswith('the features are worse') and '7 (10 at the start)' in worse
    assert compare_with_start(start, dict(rankme=7.0, std=0.1), **{**limits, 'worse': 0.0}) == ''
    for now in (dict(rankme=9.0, std=0.06), dict(rankme=2.0, std=0.1)):
        assert compare_with_start(start, now, **limits).startswith('the features collapse')


class Projection(torch.nn.Module):
    """Random projection of small images, with a bias: (B, 16)."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(48, 16)
        torch.nn.init.ones_(self.linear.bias)

    def forward(self, x):
        return (self.linear(torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)),)


class NoCentring(SelfSupervisor):
    """A loss that is lowest where all features are equal, as DINO's without centring."""

    def loss(self, inputs, data_samples=None):
        features = self.backbone(inputs)[-1]
        return dict(loss=(features - features.mean(dim=0).detach()).square().mean())


class NoiseImages(torch.utils.data.Dataset):
    """Images (3, 8, 8), with noise of their own in every draw."""

    def __len__(self):
        return 24

    def __getitem__(self, index):
        return dict(inputs=128 + 50 * noise(3, 8, 8, seed=index).float() + 5 * torch.randn(3, 8, 8))


def run(work_dir, lr, *hooks):
    torch.manual_seed(0)
    preprocessor = dict(mean=[120.0] * 3, std=[60.0] * 3)
    runner = Runner(
        model=NoCentring(Projection(), data_preprocessor=preprocessor),
        work_dir=str(work_dir),
        experiment_name=work_dir.name,
        train_dataloader=torch.utils.data.DataLoader(NoiseImages(), batch_size=8, shuffle=True),
        train_cfg=dict(by_epoch=False, max_iters=20),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=lr)),
        custom_hooks=list(hooks),
        default_scope='mmpretrain',
        randomness=dict(seed=0),
        log_level='WARNING',
    )
    warnings = []
    runner.logger.addFilter(lambda record: warnings.append((record.levelname, record.getMessage())) or True)
    # the loops sleep two seconds whenever a finite loader starts again
    with mock.patch.object(loops, 'time', types.SimpleNamespace(sleep=id, time=loops.time.time)):
        runner.train()
    return runner, [text for level, text in warnings if level == 'WARNING' and 'features' in text]


def test_a_collapse_in_a_run_is_reported(tmp_path):
    hook = FeatureQualityHook(interval=10, images=16, views=2)
    runner, warnings = run(tmp_path, 3.0, hook)
    assert len(warnings) == 2 and warnings[1].startswith('after 20 iterations the features collapse: RankMe')
    entries = json.loads((tmp_path / 'feature_quality.json').read_text())
    assert [entry['iter'] for entry in entries] == [0, 10, 20]
    assert f'({entries[0]["std"]:.4g})' in warnings[1] and entries[2]['std'] < 0.3 * entries[0]['std']
    assert set(entries[0]) == {'iter', 'rankme', 'std', 'uniformity', 'lidar'}
    history, _ = runner.message_hub.get_scalar('quality/rankme').data
    assert history.tolist() == [entry['rankme'] for entry in entries]


def test_features_that_stay_are_not_reported_and_random_states_stay(tmp_path):
    model = NoCentring(Projection(), data_preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3)).train()
    runner = mock.Mock(model=model, work_dir=str(tmp_path), iter=0)
    runner.train_dataloader.dataset = NoiseImages()
    hook = FeatureQualityHook(interval=1, images=16)
    state = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    hook.before_train(runner)
    hook.after_train_iter(runner, 0)
    assert model.training and torch.equal(state[0], torch.get_rng_state())
    assert state[1:] == (random.getstate(), np.random.get_state()[1].tolist())
    runner.logger.warning.assert_not_called()
    first, second = json.loads((tmp_path / 'feature_quality.json').read_text())
    assert {**second, 'iter': 0} == first
    # a resumed run compares with the same start, under the same images
    runner.iter = 1
    resumed = FeatureQualityHook(interval=1, images=16)
    resumed.before_train(runner)
    resumed.after_train_iter(runner, 0)
    entries = json.loads((tmp_path / 'feature_quality.json').read_text())
    assert entries[:2] == [first, second] and {**entries[2], 'iter': 0} == first


@pytest.mark.parametrize('trained', [False, True])
def test_a_lower_rank_counts_where_the_start_was_trained(trained, tmp_path):
    model = NoCentring(Projection(), data_preprocessor=dict(mean=[120.0] * 3, std=[60.0] * 3))
    runner = mock.Mock(model=model, work_dir=str(tmp_path), iter=0, cfg={}, message_hub=MessageHub('x'))
    if trained:
        model.backbone.linear.init_cfg = dict(type='Pretrained', checkpoint='x.pth')
    runner.train_dataloader.dataset = NoiseImages()
    hook = FeatureQualityHook(interval=1, images=16)
    hook.before_train(runner)
    hook._history[0]['rankme'] *= 1.5  # as if training had lowered it since
    hook.after_train_iter(runner, 0)
    assert runner.logger.warning.call_count == trained
    # the checkpoint tells a resumed run, whose config may have changed
    runner.iter, runner.cfg = 1, dict(load_from='y.pth')
    resumed = FeatureQualityHook(interval=1, images=16)
    resumed.before_train(runner)
    resumed._history[0]['rankme'] *= 1.5
    resumed.after_train_iter(runner, 0)
    assert runner.logger.warning.call_count == 2 * trained


def test_what_a_run_starts_from():
    model = types.SimpleNamespace(backbone=Projection(), teacher=Projection())
    model.teacher.init_cfg = [dict(type='Pretrained', checkpoint='x.pth')]
    runner = types.SimpleNamespace(cfg={}, model=model)
    assert not starts_from_trained_weights(runner)
    model.backbone.init_cfg = [dict(type='Xavier'), dict(type='Pretrained', checkpoint='x.pth')]
    assert starts_from_trained_weights(runner)
    assert starts_from_trained_weights(types.SimpleNamespace(cfg=dict(load_from='x.pth'), model=None))
