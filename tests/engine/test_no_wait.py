"""A step with all checks and logged scalars does not read from the fake GPU until the log is due."""

from types import SimpleNamespace

import pytest
import torch
from fake_cuda import fake_cuda, on_cpu, on_cuda
from mmengine.logging import MessageHub
from torch import nn

from mmssl.engine import nonfinite_flag, optim_wrapper, runtime_info
from mmssl.engine.optim_wrapper import OptimWrapper


@pytest.fixture
def reads(monkeypatch):
    """Flags that were read; the fake GPU has no pinned memory and no events."""
    reads = []

    def flag(tensor):
        return SimpleNamespace(ready=False, read=lambda: reads.append(1) or bool(on_cpu(tensor)))

    for module in (nonfinite_flag, optim_wrapper):
        monkeypatch.setattr(module, 'DeviceFlag', flag)
    return reads


@pytest.fixture(autouse=True)
def one_group_of_gradients(monkeypatch):
    """Let torch clip on the fake GPU: it groups gradients in C++, where their device is the CPU."""

    def group(tensors):
        return {(tensors[0][0].device, tensors[0][0].dtype): (tensors, None)}

    monkeypatch.setattr('torch.nn.utils.clip_grad._group_tensors_by_device_and_dtype', group)


@pytest.mark.parametrize('clip', [None, dict(max_norm=1.0), dict(type='each', max_norm=1.0)])
def test_no_step_waits_and_the_log_waits_once(reads, clip):
    hub = MessageHub.get_instance(f'no-wait-{clip}')
    with fake_cuda() as syncs:
        net = on_cuda(nn.Linear(3, 2))
        wrapper = OptimWrapper(torch.optim.AdamW(net.parameters(), foreach=True), clip_grad=clip)
        wrapper.message_hub, wrapper.on_nonfinite, wrapper.check_gradients = hub, pytest.fail, True
        inputs = torch.randn(4, 3, device='cuda')
        for _ in range(3):
            loss = net(inputs).square().mean()
            wrapper.update_params(loss)
            runtime_info.record_scalar(hub, 'train/loss', loss)
        assert not syncs and len(reads) == 3 + 2  # each loss, and the norms of the steps before
        runtime_info.read_scalars(hub)
        assert sum(syncs.values()) == 1, syncs
    names = ['train/loss'] + ['train/grad_norm'] * (clip is not None)
    assert {name: len(hub.get_scalar(name).data[0]) for name in names} == dict.fromkeys(names, 3)
