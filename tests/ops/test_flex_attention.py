"""FlexAttention with relative positions: gradients, and when it is chosen."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention import flex_attention

from mmssl.ops import switch
from mmssl.ops.fast.flex_attention import attend_flex
from mmssl.ops.rel_attention import rel_attention


@pytest.mark.compile
@pytest.mark.filterwarnings('ignore:flex_attention called without torch.compile')
def test_gradients_equal_those_of_the_plain_form(monkeypatch):
    # which wants a GPU for gradients
    monkeypatch.setattr(flex_attention, '_validate_device', lambda *tensors: None, raising=False)
    torch.manual_seed(0)
    grid = (7, 61)
    shapes = [(1, 2, 7 * 61, 4)] * 3 + [(2 * size - 1, 4) for size in grid]
    inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    results = []
    for form in (attend_flex, rel_attention):
        with switch.plain_forms():
            out = form(*inputs, grid)
        weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
        results.append((out, *torch.autograd.grad(out, inputs, weights)))
    torch.testing.assert_close(*results)


def test_it_is_chosen_on_cuda_and_on_request(monkeypatch):
    on_gpu = SimpleNamespace(device=torch.device('cuda'))
    monkeypatch.setattr(switch, '_flex_attention', False)
    assert not switch.cuda_with_flex_attention([on_gpu])
    monkeypatch.setattr(switch, '_flex_attention', True)
    assert switch.cuda_with_flex_attention([on_gpu])
    assert not switch.cuda_with_flex_attention([on_gpu, torch.zeros(1)])
