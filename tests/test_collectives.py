"""Everything that ranks exchange, through a stand-in for NCCL, which refuses tensors on the CPU."""

import copy
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import on_cpu, on_cuda
from nccl_stand_in import nccl_stand_in
from torch import distributed, nn

from mmssl.ops import switch
from mmssl.registry import MODELS
from mmssl.selfsup.base import SelfSupervisor
from mmssl.selfsup.small import small_settings_of_methods

SMALL = small_settings_of_methods()
MODELS.import_from_location()
METHODS = sorted(name for name in SMALL if issubclass(MODELS.module_dict[name], SelfSupervisor))


def step(rank, name):
    """Start from the first rank's weights, as FSDP does, and make a training step; what it has sent."""
    from mmssl.engine.fsdp import _copy_from_first_rank

    switch.HAS_TRITON = False
    torch.manual_seed(rank)
    model = MODELS.build(dict(copy.deepcopy(SMALL[name].settings), type=f'mmssl.{name}')).train()
    if hasattr(model, 'set_schedule'):
        model.set_schedule(1, 10)
    with nccl_stand_in() as calls:
        model = on_cuda(model)
        _copy_from_first_rank(model)
        start = torch.cat([parameter.detach().flatten() for parameter in model.parameters()]).sum().item()
        calls.clear()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, foreach=True)
        if hasattr(model, 'attach'):
            model.attach(optimizer)
        loss = SMALL[name].run(model, on_cuda(torch.randn(2, 3, 32, 32)))
        loss.backward()
        optimizer.step()
        return start, dict(calls), loss.isfinite().item()


def steps(rank, names):
    return {name: step(rank, name) for name in names}


@pytest.mark.filterwarnings('ignore:.*is not attached to the optimizer')
def test_methods_send_tensors_of_their_device(two_ranks):
    first, second = two_ranks(steps, METHODS)
    for name in METHODS:
        assert first[name][:2] == second[name][:2] and first[name][2] and second[name][2], name
        assert all(where == 'device' for _, where in first[name][1]), first[name]
    sent = {name: {function for function, _ in first[name][1]} for name in METHODS}
    assert 'all_gather' in sent['MoCo'] and 'all_gather' in sent['MoBY']  # queues
    assert 'all_reduce' in sent['DINO']  # centre
    # Sinkhorn; its plain form gathers
    assert ('all_gather' if switch.plain_only() else 'all_reduce') in sent['SwAV']


class Net(nn.Module):
    """A convolution with synchronised batch norm."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4))

    def forward(self, x):
        return self.layers(x)


def batch_norm(rank):
    """A forward and a backward pass of synchronised batch norm."""
    from mmssl.layers.sync_bn import convert_sync_batchnorm

    torch.manual_seed(0)
    net, images = Net(), torch.randn(2, 4, 3, 5, 5)
    convert_sync_batchnorm(net)
    with nccl_stand_in() as calls:
        net = on_cuda(net)
        out = net(on_cuda(images[rank]))
        out.square().mean().backward()
        return on_cpu(out.detach()), dict(calls), images


def test_synchronised_batch_norm(two_ranks):
    (first, calls, images), (second, _, _) = two_ranks(batch_norm)
    torch.manual_seed(0)
    net = Net()
    x = net.layers[0](images.flatten(0, 1))
    expected = nn.functional.batch_norm(x, None, None, training=True)
    torch.testing.assert_close(torch.cat([first, second]), expected, atol=1e-5, rtol=1e-4)
    assert set(calls) == {('all_reduce', 'device')}


def run_services(rank):
    """What a run exchanges beside its method: seeds, states, checks, signals, features."""
    from mmengine.dist import sync_random_seed

    from mmssl.engine import nonfinite_flag, stop
    from mmssl.engine.run_state import gather_rng_states, rng_state
    from mmssl.engine.signals import SignalWatch
    from mmssl.evaluation.sharded import gather_rows, on_all_ranks
    from mmssl.layers.distributed import wait_for_first_rank

    watch = SignalWatch()
    watch.signum = 15 if rank else None
    stop.current_watch = lambda: watch
    # pinned memory and events, which the fake GPU lacks
    nonfinite_flag.DeviceFlag = lambda flag: SimpleNamespace(read=lambda: bool(on_cpu(flag)))
    results = {}
    with nccl_stand_in() as calls:
        results['seed'] = sync_random_seed()
        calls.clear()
        results['states'] = len(gather_rng_states(rng_state()))
        exchange = stop.SignalExchange()
        results['signals'] = [exchange.after_step(step, last=False) for step in (1, 2)], exchange.now()
        results['rows'] = len(gather_rows(torch.zeros(2 + rank, 3)))
        results['results'] = on_all_ranks(lambda: rank)
        wait_for_first_rank()
        results['host'] = {where for _, where in calls}
        calls.clear()
        nonfinite_flag.refuse_nonfinite_weights(on_cuda(nn.Linear(2, 2)), every_rank=True)
        value = torch.tensor(float('nan') if rank else 0.0, device='cuda')
        results['finite'] = nonfinite_flag.finite_everywhere(value).read()
        results['device'] = {where for _, where in calls}
    return results


def test_services_of_a_run(two_ranks):
    first, second = two_ranks(run_services)
    assert first['seed'] == second['seed']
    for rank, results in enumerate((first, second)):
        assert results['states'] == 2 and results['signals'] == ([0, 15], 15)
        assert results['rows'] == (5, 3)[rank] and results['results'] == rank
        assert results['finite'] is False
        assert results['host'] == {'host'} and results['device'] == {'device'}


def metrics(rank):
    """Results that mmengine collects for a metric."""
    from mmengine.evaluator import BaseMetric

    class Count(BaseMetric):
        def process(self, data_batch, data_samples):
            self.results += data_samples

        def compute_metrics(self, results):
            return dict(total=len(results))

    with nccl_stand_in():
        collected = Count(collect_device='gpu')
        collected.process(None, [rank, rank])
        collected = collected.evaluate(4)
    return collected


def test_metrics_that_mmengine_collects(two_ranks):
    assert two_ranks(metrics) == [dict(total=4)] * 2


def refused(rank):
    messages = []
    with nccl_stand_in():
        group = distributed.new_group(backend='gloo')
        for tensor, where in ((torch.zeros(1), None), (torch.zeros(1, device='cuda'), group)):
            with pytest.raises(RuntimeError) as raised:
                distributed.all_reduce(tensor, group=where)
            messages.append(str(raised.value))
        distributed.all_reduce(torch.zeros(1, device='cuda'))
        distributed.all_reduce(torch.zeros(1), group=group)
    return messages


def test_the_stand_in_refuses_what_nccl_refuses(two_ranks):
    for messages in two_ranks(refused):
        assert 'a tensor on cpu in a group of nccl' in messages[0]
        assert 'a tensor on cuda in a group of gloo' in messages[1]
