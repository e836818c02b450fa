"""VICReg and Barlow Twins as methods: the loss of the projections, a step, two processes against one."""

from functools import partial

import pytest
import torch
from runs import Dense, check_two_processes, random_views

from mmssl.layers.mlp import MLP
from mmssl.losses import BarlowTwinsLoss, VICRegLoss
from mmssl.selfsup.barlow_twins import BarlowTwins
from mmssl.selfsup.vicreg import VICReg


def make(method, **settings):
    torch.manual_seed(0)
    model = method(Dense(), MLP((5, 7, 4)), **settings)
    return model.double().train()


@pytest.mark.parametrize(
    'method, settings, loss',
    [
        (VICReg, dict(invariance_weight=2.0), VICRegLoss(invariance_weight=2.0)),
        (BarlowTwins, dict(off_diagonal_weight=0.1), BarlowTwinsLoss(0.1)),
    ],
)
def test_loss_is_that_of_the_projections_and_a_step_reduces_it(method, settings, loss):
    model, views = make(method, **settings), random_views(6, size=2)
    expected = loss(*(model.neck(model.backbone(view)) for view in views))
    result = model.loss(views)
    assert torch.equal(result['loss'], expected)
    assert not any(value.requires_grad for name, value in result.items() if name != 'loss')
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    expected.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())
    optimizer.step()
    assert model.loss(views)['loss'] < expected


@pytest.mark.parametrize('method', [VICReg, BarlowTwins])
def test_two_processes_equal_a_single_process_with_all_images(method, two_ranks):
    check_two_processes(two_ranks, partial(make, method), steps=2, lr=0.02)


def test_wrong_inputs_and_heads_are_refused():
    with pytest.raises(ValueError, match='VICReg takes 2 views, not 3'):
        make(VICReg).loss(random_views(count=3, size=2))
    with pytest.raises(ValueError, match='head'):
        make(BarlowTwins, head=dict(type='mmssl.MLP', dims=(4, 4)))
