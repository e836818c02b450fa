"""Mixed precision on the CPU."""

import copy

import pytest
import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmssl.engine.amp import AmpOptimWrapper


def build(kind=AmpOptimWrapper, **kwargs):
    torch.manual_seed(0)
    model = nn.Linear(64, 8)
    return model, kind(optimizer=torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), **kwargs)


def step(model, wrapper, count=1):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        with wrapper.optim_context(model):
            output = model(torch.randn(16, 64, generator=generator))
        wrapper.update_params(output.float().square().mean())
    return output


def test_forward_is_bfloat16_and_weights_are_float32():
    model, wrapper = build()
    assert step(model, wrapper).dtype == torch.bfloat16
    assert (
        model.weight.dtype == torch.float32
        and wrapper.optimizer.state[model.weight]['momentum_buffer'].dtype == torch.float32
    )


@pytest.mark.parametrize('kwargs', [dict(), dict(accumulative_counts=3), dict(clip_grad=dict(max_norm=0.1))])
def test_follows_float32(kwargs):
    """Six steps agree with those in float32 to the 2**-8 of a bfloat16 mantissa, and not exactly."""
    model, wrapper = build(
        **{**kwargs, 'clip_grad': dict(kwargs['clip_grad'])} if 'clip_grad' in kwargs else kwargs
    )
    reference, plain = build(OptimWrapper, **kwargs)
    start = reference.weight.detach().clone()
    step(model, wrapper, 6), step(reference, plain, 6)
    moved = (reference.weight - start).abs().max()
    difference = (model.weight - reference.weight).abs().max()
    assert 0 < difference < 0.05 * moved


def test_state_goes_on():
    model, wrapper = build()
    step(model, wrapper, 3)
    other, restored = build()
    other.load_state_dict(model.state_dict())
    state = wrapper.state_dict()
    keys = set(state)
    restored.load_state_dict({**copy.deepcopy(state), 'loss_scaler': dict(scale=2.0)})  # of a run in float16
    assert set(state) == keys
    step(model, wrapper), step(other, restored)
    assert torch.equal(model.weight, other.weight)


def test_float16_needs_a_gpu():
    with pytest.raises(ValueError, match="dtype='float16'.*needs a GPU.*bfloat16"):
        build(dtype='float16')
    with pytest.raises(ValueError, match="dtype='int8'.*bfloat16, float16"):
        build(dtype='int8')
    assert build(dtype=torch.bfloat16)[1].cast_dtype == torch.bfloat16


@pytest.mark.skipif(not torch.cuda.is_available(), reason='float16 needs a GPU')
def test_float16_scales_and_survives_overflow():
    torch.manual_seed(0)
    model = nn.Linear(64, 8).cuda()
    wrapper = AmpOptimWrapper(
        dtype='float16',
        optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
        loss_scale=dict(init_scale=2.0**40),
    )
    before = model.weight.detach().clone()
    with wrapper.optim_context(model):
        output = model(torch.randn(16, 64, device='cuda'))
    wrapper.update_params(output.float().square().mean())
    assert torch.equal(model.weight, before) and wrapper.loss_scaler.get_scale() == 2.0**39
    assert wrapper.state_dict()['loss_scaler']['scale'] == 2.0**39
