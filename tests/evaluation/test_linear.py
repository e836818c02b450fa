"""Linear probing against autograd, scikit-learn, and data whose answer is known."""

import pytest
import torch
from torch import nn

from mmssl.evaluation import linear_probe
from mmssl.evaluation.linear import ProbeSettings, fit_heads, stratified_split


def clusters(each=60, classes=5, width=12, spread=1.2, seed=0, shift=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(classes).repeat_interleave(each)
    return shift + scale * (
        centres[labels] + spread * torch.randn(len(labels), width, generator=generator)
    ), labels


def test_heads_follow_torch_sgd_step_by_step():
    features, labels = clusters()
    features = features.double()
    grid, epochs, batch = [(0.05, 0.0), (0.2, 0.01)], 3, 64
    settings = ProbeSettings(epochs=epochs, batch_size=batch, momentum=0.9, seed=4)
    weight, bias = fit_heads(features, labels, 5, grid, settings)
    for head, (rate, decay) in enumerate(grid):
        layer = nn.Linear(12, 5).double()
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
        optimizer = torch.optim.SGD(
            [dict(params=[layer.weight], weight_decay=decay), dict(params=[layer.bias])],
            lr=rate,
            momentum=0.9,
        )
        steps = epochs * -(-len(labels) // batch)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        generator = torch.Generator().manual_seed(4)
        for _ in range(epochs):
            for indices in torch.randperm(len(labels), generator=generator).split(batch):
                optimizer.zero_grad()
                nn.functional.cross_entropy(layer(features[indices]), labels[indices]).backward()
                optimizer.step()
                schedule.step()
        torch.testing.assert_close(weight[head], layer.weight.detach().T, atol=1e-9, rtol=1e-7)
        torch.testing.assert_close(bias[head], layer.bias.detach(), atol=1e-9, rtol=1e-7)


def test_reaches_logistic_regression():
    linear_model = pytest.importorskip('sklearn.linear_model')
    train, labels = clusters()
    val, val_labels = clusters(seed=1)
    reference = 100 * linear_model.LogisticRegression(max_iter=1000).fit(train, labels).score(val, val_labels)
    result = linear_probe(train, labels, val, val_labels)
    assert 60 < reference < 99  # neither trivial nor hopeless
    assert abs(result['top1'] - reference) < 3
    assert result['top5'] == 100 and len(result['sweep']) == 18
    assert (
        dict(lr=result['lr'], weight_decay=result['weight_decay'], holdout_top1=result['holdout_top1'])
        in result['sweep']
    )
    assert result['holdout_top1'] == max(entry['holdout_top1'] for entry in result['sweep'])


def test_scale_and_shift_of_features_do_not_matter_and_seeds_repeat():
    plain = linear_probe(*clusters(), *clusters(seed=1), epochs=20)
    assert linear_probe(*clusters(), *clusters(seed=1), epochs=20) == plain
    moved = linear_probe(
        *clusters(shift=50.0, scale=100.0), *clusters(seed=1, shift=50.0, scale=100.0), epochs=20
    )
    assert abs(moved['top1'] - plain['top1']) < 1.5


def test_the_global_generator_is_not_touched():
    before = torch.get_rng_state()
    linear_probe(*clusters(each=10), *clusters(each=10, seed=1), epochs=2)
    assert torch.equal(before, torch.get_rng_state())


def test_validation_labels_take_no_part_in_the_choice():
    train, labels = clusters()
    val, val_labels = clusters(seed=1)
    honest = linear_probe(train, labels, val, val_labels, epochs=10)
    shuffled = linear_probe(train, labels, val, val_labels.flip(0), epochs=10)
    assert honest['sweep'] == shuffled['sweep'] and honest['lr'] == shuffled['lr']
    assert shuffled['top1'] < honest['top1']


def test_constant_features_and_diverging_rates():
    train, labels = clusters()
    train[:, 0] = 3.0
    assert linear_probe(train, labels, train, labels, epochs=5)['top1'] > 50
    with pytest.raises(ValueError, match='diverged; give smaller'):
        linear_probe(train, labels, train, labels, learning_rates=[1e38], epochs=5)
    mixed = linear_probe(
        train, labels, train, labels, learning_rates=[1e38, 0.1], weight_decays=[0.1], epochs=5
    )
    assert mixed['lr'] == 0.1


def test_stratified_split():
    labels = torch.tensor([0] * 10 + [1] * 5 + [2])
    first, second = stratified_split(labels, 0.2, seed=1)
    assert sorted([*first.tolist(), *second.tolist()]) == list(range(16))
    assert torch.bincount(labels[second], minlength=3).tolist() == [2, 1, 0]
    assert torch.equal(stratified_split(labels, 0.2, seed=1)[1], second)
    assert not torch.equal(stratified_split(labels, 0.2, seed=2)[1], second)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(train_labels=torch.zeros(300, dtype=torch.long)), 'at least two classes'),
        (dict(labels=torch.full((300,), 9)), 'go up to 9, but there are 5 classes'),
        (dict(features=torch.ones(300, 3)), '12 dimensions, validation features 3'),
        (dict(train_features=torch.full((300, 12), float('nan'))), '300 of 300 training features'),
        (dict(learning_rates=[]), 'learning_rates='),
        (dict(learning_rates=[-1.0]), 'above 0'),
        (dict(epochs=0), 'epochs=0'),
        (dict(holdout=1.0), 'fraction=1.0'),
        (
            dict(train_features=torch.eye(5, 12), train_labels=torch.arange(5)),
            'no class of the training set has two images',
        ),
    ],
)
def test_bad_input_is_refused(kwargs, message):
    train, labels = clusters()
    with pytest.raises(ValueError, match=message):
        linear_probe(
            **dict(train_features=train, train_labels=labels, features=train, labels=labels) | kwargs
        )
