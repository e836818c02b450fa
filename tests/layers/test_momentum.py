"""The momentum encoder against hand-made numbers."""

import math

import pytest
import torch
from torch import nn

from mmssl.layers.momentum import MomentumEncoder, cosine_momentum
from mmssl.layers.transformer import TransformerBlock


def pair(**kwargs):
    """An encoder of two weights (3, -1), and a copy of it."""
    encoder = nn.Linear(2, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        encoder.weight.copy_(torch.tensor([[3.0, -1.0]]))
    return encoder, MomentumEncoder(encoder, **kwargs)


def shift(encoder, by):
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter += by


def test_follows_by_the_formula():
    encoder, copy = pair(momentum=0.9)
    shift(encoder, 10.0)
    expected = [3.0, -1.0]
    for steps in (1, 2, 3):
        copy.update(encoder)
        expected = [0.9 * mine + 0.1 * theirs for mine, theirs in zip(expected, (13.0, 9.0), strict=True)]
        assert copy.module.weight.tolist()[0] == pytest.approx(expected, abs=1e-14) and copy.steps == steps
    copy.update(encoder, momentum=0.0)
    assert torch.equal(copy.module.weight, encoder.weight)
    assert encoder.weight.tolist() == [[13.0, 9.0]]


def test_momentum_1_never_moves_and_0_is_the_encoder():
    for momentum, expected in ((1.0, 3.0), (0.0, 13.0)):
        encoder, copy = pair(momentum=momentum)
        shift(encoder, 10.0)
        copy.update(encoder)
        assert copy.module.weight[0, 0] == expected


def test_cosine_goes_from_the_first_value_to_the_last_and_stays():
    # (1 + cos(pi t / T)) / 2 is 1, 0.854, 0.5, 0.146, 0 at the quarters
    for step, fraction in (
        (0, 1.0),
        (1, (1 + math.sqrt(0.5)) / 2),
        (2, 0.5),
        (3, (1 - math.sqrt(0.5)) / 2),
        (4, 0.0),
        (9, 0.0),
    ):
        assert cosine_momentum(step, 4, 0.99, 1.0) == pytest.approx(1 - 0.01 * fraction, abs=1e-15)
    encoder, copy = pair(momentum=0.6, final_momentum=1.0)
    copy.max_steps = 2
    shift(encoder, 1.0)
    expected = 3.0
    for momentum in (0.6, 0.8, 1.0, 1.0):
        assert copy.current_momentum() == pytest.approx(momentum, abs=1e-15)
        copy.update(encoder)
        expected = momentum * expected + (1 - momentum) * 4.0
        assert copy.module.weight[0, 0].item() == pytest.approx(expected, abs=1e-14)


def test_a_cosine_of_unknown_length_is_refused_and_a_constant_needs_none():
    encoder, copy = pair(momentum=0.99, final_momentum=1.0)
    with pytest.raises(
        RuntimeError, match=r'from 0.99 to 1.0 over an unknown number of steps: call set_schedule'
    ):
        copy.update(encoder)
    assert copy.steps == 0
    for constant in (pair(momentum=0.99)[1], pair(momentum=0.99, final_momentum=0.99)[1]):
        assert constant.current_momentum() == 0.99


def normed():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def test_batch_norm_keeps_its_own_statistics():
    encoder = normed()
    copy = MomentumEncoder(encoder, 0.5)
    assert copy.training
    images, others = torch.randn(2, 3, 6, 6), 5 + torch.randn(2, 3, 6, 6)
    encoder(images)
    copy(others)
    own = copy.module[1].running_mean.clone()
    output = copy.module[0](others)
    torch.testing.assert_close(own, 0.1 * output.mean((0, 2, 3)))
    copy.update(encoder)
    assert torch.equal(copy.module[1].running_mean, own) and not torch.equal(own, encoder[1].running_mean)
    assert copy.module[1].num_batches_tracked == 1


def test_copy_buffers_takes_them_over():
    encoder = normed()
    copy = MomentumEncoder(encoder, 0.5, copy_buffers=True)
    for _ in range(3):
        encoder(torch.randn(2, 3, 6, 6))
    copy.update(encoder)
    for (name, mine), theirs in zip(copy.module.named_buffers(), encoder.buffers(), strict=True):
        assert torch.equal(mine, theirs), name
    assert copy.module[1].num_batches_tracked == 3


def test_takes_no_gradient_and_drops_nothing():
    encoder = nn.Sequential(TransformerBlock(8, 2, 16, drop_path_rate=0.5))
    copy = MomentumEncoder(encoder)
    tokens = torch.randn(3, 4, 8, requires_grad=True)
    assert not any(parameter.requires_grad for parameter in copy.parameters()) and copy.training
    assert not copy(tokens).requires_grad and torch.equal(copy(tokens), copy(tokens))
    assert encoder[0].drop_path.drop_prob == 0.5 and all(
        parameter.requires_grad for parameter in encoder.parameters()
    )


def test_timms_and_mmcvs_stochastic_depth_are_off():
    from mmcv.cnn.bricks.drop import DropPath

    timm = pytest.importorskip('timm.layers')
    encoder = nn.Sequential(DropPath(0.5), timm.DropPath(0.5))
    copy = MomentumEncoder(encoder)
    ones = torch.ones(64, 2)
    assert torch.equal(copy(ones), ones) and not torch.equal(encoder(ones), ones)


def test_the_copy_is_independent():
    encoder, copy = pair()
    shift(encoder, 1.0)
    assert copy.module.weight.tolist() == [[3.0, -1.0]]
    copy.copy_from(encoder)
    assert torch.equal(copy.module.weight, encoder.weight)


def test_follows_parts_in_a_sequential():
    backbone, neck = nn.Linear(2, 3), nn.Linear(3, 1)
    copy = MomentumEncoder(nn.Sequential(backbone, neck), 0.0)
    shift(backbone, 1.0)
    shift(neck, -1.0)
    copy.update(nn.Sequential(backbone, neck))
    assert torch.equal(copy.module[0].weight, backbone.weight) and torch.equal(copy.module[1].bias, neck.bias)
    with pytest.raises(ValueError, match='the encoder has 2 parameters, its momentum copy 4'):
        copy.update(backbone)


def test_steps_are_in_the_state_dict():
    encoder, copy = pair(momentum=0.5, final_momentum=1.0)
    copy.max_steps = 10
    for _ in range(3):
        copy.update(encoder)
    state = copy.state_dict()
    assert state['steps'].tolist() == [3] and state['steps'].dtype == torch.int64
    _, other = pair(momentum=0.5, final_momentum=1.0)
    other.max_steps = 10
    other.load_state_dict(state)
    assert (
        other.steps == 3 and type(other.steps) is int and other.current_momentum() == copy.current_momentum()
    )
    del state['steps']  # a released file knows no steps
    other.load_state_dict(state, strict=True)
    assert other.steps == 3


@pytest.mark.parametrize(('name', 'value'), [('momentum', 1.1), ('momentum', -0.1), ('final_momentum', 2.0)])
def test_a_momentum_outside_0_1_is_refused(name, value):
    with pytest.raises(ValueError, match=f'{name}={value} of a momentum encoder must be between 0 and 1'):
        pair(**{name: value})
