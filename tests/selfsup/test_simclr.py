"""SimCLR: the loss number by number, its gradient, one step, two processes against one, an exact resume."""

import math

import pytest
import torch
from runs import Dense, check_exact_resume, check_two_processes, random_views
from torch import nn

from mmssl.layers.mlp import MLP
from mmssl.selfsup.simclr import SimCLR


def simclr(**settings):
    torch.manual_seed(0)
    model = SimCLR(Dense(), MLP((5, 7, 4), bias=True), **settings)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.double().train()


def loss_by_loops(first, second, temperature):
    """Algorithm 1 of the paper: 2N views, number 2k - 1 and 2k of image k."""
    views = [view for pair in zip(first, second, strict=True) for view in pair]

    def similarity(a, b):
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    total = 0.0
    for i, view in enumerate(views):
        j = i + 1 if i % 2 == 0 else i - 1
        denominator = sum(
            math.exp(similarity(view, views[k]) / temperature) for k in range(len(views)) if k != i
        )
        total -= math.log(math.exp(similarity(view, views[j]) / temperature) / denominator)
    return total / len(views)


def projections(model, views):
    return [model.neck(model.backbone(view)).tolist() for view in views]


@pytest.mark.parametrize('temperature', [0.1, 0.5])
def test_loss_is_algorithm_1(temperature):
    model = simclr(temperature=temperature)
    views = random_views(size=2)
    expected = loss_by_loops(*projections(model, views), temperature)
    assert model.loss(views)['loss'].item() == pytest.approx(expected, abs=1e-12)


def test_identical_views_of_orthogonal_images_by_hand():
    """Each view: log(1 + 2 exp(-1 / T)) for two images whose projections are orthogonal."""
    model = simclr(temperature=0.5)
    vectors = torch.eye(2, 4, dtype=torch.float64)
    assert model.nt_xent(vectors, vectors).item() == pytest.approx(math.log1p(2 * math.exp(-2)), abs=1e-12)


def test_gradient_is_that_of_the_loss():
    model = simclr()
    views, weight = random_views(size=2), model.backbone.layer.weight
    model.loss(views)['loss'].backward()
    for row, column in ((0, 0), (3, 7)):
        losses = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                weight[row, column] += step
            losses.append(loss_by_loops(*projections(model, views), 0.1))
        with torch.no_grad():
            weight[row, column] += 1e-6
        slope = (losses[0] - losses[1]) / 2e-6
        assert weight.grad[row, column].item() == pytest.approx(slope, rel=1e-5)


def test_a_step_trains_every_parameter_and_reduces_the_loss():
    model = simclr()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    views = random_views(size=2)
    loss = model.loss(views)['loss']
    loss.backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        if name != 'neck.fc0.bias':  # the batch norm that follows takes it out again
            assert not torch.equal(parameter, before[name]), name
    assert model.loss(views)['loss'] < loss


def test_evaluation_changes_nothing():
    model = simclr().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    views = random_views(size=2)
    assert torch.equal(model.loss(views)['loss'], model.loss(views)['loss'])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert model.extract_feat(views[0])[0].shape == (4, 5)


def test_the_loss_is_computed_in_float32_under_autocast():
    model = simclr().float()
    views = [view.float() for view in random_views(size=2)]
    exact = model.loss(views)['loss'].item()
    with torch.autocast('cpu', torch.bfloat16):
        loss = model.loss(views)['loss']
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact, abs=0.1)


def test_two_processes_equal_a_single_process_with_all_images(two_ranks):
    check_two_processes(two_ranks, simclr)


def test_a_run_is_resumed_exactly(tmp_path):
    changes = {'train_cfg.max_iters': 6, 'param_scheduler.end': 6, 'default_hooks.checkpoint.interval': 3}
    straight, saved = check_exact_resume('simclr', tmp_path, 3, changes)
    assert len(straight.losses) == 6
    assert not torch.equal(saved['neck.fc0.weight'], straight.model['neck.fc0.weight'])


def test_wrong_settings_and_inputs_are_refused():
    with pytest.raises(ValueError, match='temperature=0 must be above 0'):
        simclr(temperature=0)
    with pytest.raises(ValueError, match='SimCLR takes 2 views, not 3'):
        simclr().loss(random_views(count=3, size=2))
    with pytest.raises(ValueError, match='SimCLR takes a list of views'):
        simclr().loss(random_views(size=2)[0])
