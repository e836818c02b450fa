"""Batch norm over two gloo processes equals batch norm of the joined batch."""

import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from mmssl.engine.launch import leave_process_group
from mmssl.layers.sync_bn import SyncBatchNorm, convert_sync_batchnorm

BATCH = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
WEIGHTS = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def norm():
    module = nn.BatchNorm2d(3).double()
    with torch.no_grad():
        module.weight.copy_(torch.tensor([1.0, 2.0, -1.0]))
        module.bias.copy_(torch.tensor([0.5, 0.0, 1.0]))
    return module


def run(module, part):
    x = BATCH[part].clone().requires_grad_()
    out = module(x)
    (out * WEIGHTS[part]).sum().backward()
    return (
        out.detach(),
        x.grad,
        module.weight.grad,
        module.bias.grad,
        module.running_mean.clone(),
        module.running_var.clone(),
    )


def rank(number, folder):
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=number, world_size=2)
    module = nn.SyncBatchNorm.convert_sync_batchnorm(norm())
    convert_sync_batchnorm(module_list := nn.ModuleList([module]))
    assert type(module_list[0]) is SyncBatchNorm
    nn.parallel.DistributedDataParallel(module)  # which refuses torch's on the CPU
    torch.save(run(module, slice(3 * number, 3 * number + 3)), f'{folder}/{number}.pt')
    module.eval()
    plain = norm().eval()
    plain.load_state_dict(module.state_dict())
    assert torch.equal(module(BATCH), plain(BATCH))
    leave_process_group()


def test_two_processes_equal_a_single_process(tmp_path):
    multiprocessing.start_processes(rank, (str(tmp_path),), nprocs=2, start_method='fork')
    first, second = (torch.load(tmp_path / f'{number}.pt') for number in (0, 1))
    out, gradient, weight, bias, mean, variance = run(norm(), slice(None))
    torch.testing.assert_close(torch.cat([first[0], second[0]]), out, atol=1e-12, rtol=0)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), gradient, atol=1e-12, rtol=0)
    torch.testing.assert_close(first[2] + second[2], weight, atol=1e-12, rtol=0)
    torch.testing.assert_close(first[3] + second[3], bias, atol=1e-12, rtol=0)
    for part in (first, second):
        torch.testing.assert_close(part[4], mean, atol=1e-12, rtol=0)
        torch.testing.assert_close(part[5], variance, atol=1e-12, rtol=0)


def test_alone_it_is_batch_norm():
    ours = nn.SyncBatchNorm.convert_sync_batchnorm(norm())
    ours.__class__ = SyncBatchNorm
    for mine, plain in zip(run(ours, slice(None)), run(norm(), slice(None)), strict=True):
        assert torch.equal(mine, plain)
