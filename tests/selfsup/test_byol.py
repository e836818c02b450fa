"""BYOL: the loss number by number, its gradient, three steps, two processes against one, an exact resume."""

import math

import pytest
import torch
from runs import Dense, check_exact_resume, check_two_processes, random_views
from torch import nn

from mmssl.layers.mlp import MLP
from mmssl.selfsup.byol import BYOL, regression_loss


def byol(steps=5, **settings):
    torch.manual_seed(0)
    model = BYOL(Dense(), MLP((5, 7, 4), bias=True), MLP((4, 6, 4), bias=True), **settings)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)  # the target network differs from the online network
    if steps:
        model.set_schedule(steps, steps)
    return model.double().train()


def loss_by_loops(prediction, projection):
    """Equation 2: the squared distance of normalised vectors, averaged over the images."""
    total = 0.0
    for p, z in zip(prediction, projection, strict=True):
        p_norm, z_norm = (math.sqrt(sum(x * x for x in vector)) for vector in (p, z))
        total += sum((x / p_norm - y / z_norm) ** 2 for x, y in zip(p, z, strict=True))
    return total / len(prediction)


def expected_loss(model, views):
    predictions = [model.head(model.neck(model.backbone(view))).tolist() for view in views]
    backbone, projector = model.target.module
    projections = [projector(backbone(view)).tolist() for view in views]
    return loss_by_loops(predictions[0], projections[1]) + loss_by_loops(predictions[1], projections[0])


def test_loss_is_equation_2_in_both_directions():
    model, views = byol(), random_views(size=2)
    assert model.loss(views)['loss'].item() == pytest.approx(expected_loss(model, views), abs=1e-12)


def test_loss_of_vectors_by_hand():
    first = torch.tensor([[3.0, 0.0], [0.0, 2.0]])
    second = torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    assert regression_loss(first, second).item() == pytest.approx((2 + 0) / 2)
    assert regression_loss(first, -first).item() == pytest.approx(4)


def test_gradient_is_that_of_the_loss_and_stops_at_the_target():
    model, views = byol(), random_views(size=2)
    model.loss(views)['loss'].backward()
    for weight in (model.backbone.layer.weight, model.head.fc1.weight):
        losses = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                weight[2, 3] += step
            losses.append(expected_loss(model, views))
        with torch.no_grad():
            weight[2, 3] += 1e-6
        assert weight.grad[2, 3].item() == pytest.approx((losses[0] - losses[1]) / 2e-6, rel=1e-5)
    assert all(parameter.grad is None for parameter in model.target.parameters())


def test_three_steps_move_the_target_after_the_update_with_the_cosine_momentum():
    model = byol(momentum=0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    model.attach(optimizer)
    trained = (
        'backbone.layer.weight',
        'neck.fc0.weight',
        'neck.fc1.weight',
        'head.fc0.weight',
        'head.fc1.bias',
    )
    for step in range(3):
        before = {key: value.clone() for key, value in model.state_dict().items()}
        optimizer.zero_grad()
        model.loss(random_views(size=2, seed=step))['loss'].backward()
        optimizer.step()
        after = model.state_dict()
        momentum = 1 - (1 - 0.9) * (math.cos(math.pi * step / 5) + 1) / 2
        for index, part in enumerate(('backbone', 'neck')):
            for name, _ in getattr(model, part).named_parameters():
                key = f'target.module.{index}.{name}'
                expected = momentum * before[key] + (1 - momentum) * after[f'{part}.{name}']
                torch.testing.assert_close(after[key], expected, atol=1e-14, rtol=0, msg=key)
        for name in trained:
            assert not torch.equal(after[name], before[name]), name
    assert model.target.steps == model.clock.steps == 3
    # batch norm of the target keeps statistics of its own
    statistics = model.target.module[1].bn0.running_mean
    assert statistics.any() and not torch.allclose(statistics, model.neck.bn0.running_mean)


def test_accumulated_batches_move_the_target_once():
    model = byol()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.attach(optimizer)
    for seed in range(4):
        model.loss(random_views(size=2, seed=seed))['loss'].backward()
        if seed % 2:
            optimizer.step()
    assert model.target.steps == model.clock.steps == 2


def test_evaluation_changes_nothing():
    model = byol().eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    views = random_views(size=2)
    assert torch.equal(model.loss(views)['loss'], model.loss(views)['loss'])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_the_loss_is_computed_in_float32_under_autocast():
    model = byol().float()
    views = [view.float() for view in random_views(size=2)]
    exact = model.loss(views)['loss'].item()
    with torch.autocast('cpu', torch.bfloat16):
        loss = model.loss(views)['loss']
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(exact, abs=0.1)


def test_two_processes_equal_a_single_process_with_all_images(two_ranks):
    check_two_processes(two_ranks, byol)


def test_a_run_is_resumed_exactly(tmp_path):
    changes = {'train_cfg.max_iters': 6, 'param_scheduler.end': 6, 'default_hooks.checkpoint.interval': 3}
    straight, saved = check_exact_resume('byol', tmp_path, 3, changes)
    assert straight.model['target.steps'].tolist() == [6] and saved['target.steps'].tolist() == [3]
    for key in ('target.module.1.fc0.weight', 'head.fc0.weight'):
        assert not torch.equal(saved[key], straight.model[key]), key


def test_wrong_settings_and_inputs_are_refused():
    with pytest.raises(ValueError, match=r'momentum=1\.5 of a momentum encoder must be between 0 and 1'):
        byol(momentum=1.5)
    with pytest.raises(ValueError, match='BYOL takes 2 views, not 3'):
        byol().loss(random_views(count=3, size=2))
    model = byol(steps=None)
    model.attach(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(RuntimeError, match='set_schedule'):
        model.after_update()
