"""VICReg and Barlow Twins as methods: the loss of the projections, a step, two processes against one."""

import pytest
import torch
from runs import assert_same_training, random_views, train_on_part
from torch import nn

from mmssl.layers.mlp import MLP
from mmssl.layers.sync_bn import convert_sync_batchnorm
from mmssl.losses import BarlowTwinsLoss, VICRegLoss
from mmssl.selfsup.barlow_twins import BarlowTwins
from mmssl.selfsup.vicreg import VICReg


class Dense(nn.Module):
    """A backbone of one layer, (B, 3, 2, 2) to (B, 5)."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(12, 5)

    def forward(self, x):
        return (self.layer(x.flatten(1)).tanh(),)


def make(method, **settings):
    torch.manual_seed(0)
    model = method(Dense(), MLP((5, 7, 4)), **settings)
    model.attach = lambda optimizer: None  # the shared loop calls it; these methods need none
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


def train_rank(rank, method, batches):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(make(method))
    convert_sync_batchnorm(model)
    return train_on_part(model, batches, rank, world=2, lr=0.02)


@pytest.mark.parametrize('method', [VICReg, BarlowTwins])
def test_two_processes_equal_a_single_process_with_all_images(method, two_ranks):
    batches = [random_views(6, size=2, seed=seed) for seed in range(2)]
    expected = train_on_part(make(method), batches, lr=0.02)
    for result in two_ranks(train_rank, method, batches):
        assert_same_training(result, expected)


def test_wrong_inputs_and_heads_are_refused():
    with pytest.raises(ValueError, match='VICReg takes 2 views, not 3'):
        make(VICReg).loss(random_views(count=3, size=2))
    with pytest.raises(ValueError, match='head'):
        make(BarlowTwins, head=dict(type='mmssl.MLP', dims=(4, 4)))
