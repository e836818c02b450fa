"""The fixture that starts two processes."""

import time

import pytest
import torch
from torch import distributed, multiprocessing, nn


def total_and_gradient(rank, scale):
    value = torch.tensor(rank + 1.0) * scale
    distributed.all_reduce(value)
    model = nn.Linear(2, 1, bias=False)
    nn.init.ones_(model.weight)
    parallel = nn.parallel.DistributedDataParallel(
        model
    )  # collected at the end: this must not hang the process
    parallel(torch.full((1, 2), rank + 1.0)).sum().backward()
    return value, model.weight.grad, distributed.get_world_size()


def fail_on_second(rank):
    if rank == 1:
        raise ValueError('the second rank fails')
    distributed.barrier()


def test_results_come_back_in_the_order_of_the_ranks(two_ranks, request):
    assert request.node.get_closest_marker('processes')
    for value, gradient, size in two_ranks(total_and_gradient, 10):
        assert value == 30 and size == 2
        assert gradient.tolist() == [[1.5, 1.5]]


def test_any_number_of_processes(two_ranks):
    results = two_ranks(total_and_gradient, 1, count=3)
    assert [(value.item(), size) for value, _, size in results] == [(6, 3)] * 3


def test_an_exception_is_raised_here_and_ends_the_other_process(two_ranks):
    with pytest.raises(multiprocessing.ProcessRaisedException, match='ValueError: the second rank fails'):
        two_ranks(fail_on_second)
    assert not multiprocessing.active_children()


def test_started_autograd_threads_do_not_matter(two_ranks, monkeypatch):
    """Where a fork of this process may not use autograd, the processes are spawned."""
    started = []
    start_processes = multiprocessing.start_processes

    def start(function, arguments, start_method, **others):
        started.append(start_method)
        if start_method == 'fork':
            raise multiprocessing.ProcessRaisedException('... fork-based multiprocessing ...', 0, 0)
        return start_processes(function, arguments, start_method='fork', **others)

    monkeypatch.setattr(multiprocessing, 'start_processes', start)
    assert len(two_ranks(total_and_gradient, 1)) == 2
    assert started[-1] == 'spawn'


def sleep_on_second(rank):
    if rank == 1:
        time.sleep(30)


def test_processes_that_do_not_end_are_ended(two_ranks):
    with pytest.raises(TimeoutError, match='after 1 seconds'):
        two_ranks(sleep_on_second, timeout=1)
    end = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < end:
        time.sleep(0.05)
    assert not multiprocessing.active_children()
