"""Gathers, shuffles and the queue over two gloo processes, against one process with the joined batch."""

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from mmssl.engine.launch import leave_process_group
from mmssl.layers.distributed import (
    common_permutation,
    gather,
    gather_with_gradient,
    mean_over_ranks,
    shuffle,
    sum_over_ranks,
    unshuffle,
    world,
)
from mmssl.layers.queue import FeatureQueue

BATCH = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
ORDER = torch.tensor([4, 0, 3, 5, 1, 2])


def net():
    torch.manual_seed(1)
    return nn.Linear(4, 3, dtype=torch.float64)


def contrast(own, everything, first):
    """A loss in which every sample meets every other one: the mean over this process's samples."""
    labels = torch.arange(first, first + len(own))
    return (
        nn.functional.cross_entropy(own @ everything.T, labels)
        + (everything.square().sum() * own.sin()).mean()
    )


def queue_of(batches):
    torch.manual_seed(2)
    queue = FeatureQueue(4, 9)
    for batch in batches:
        queue.enqueue(batch.float())
    return queue.queue, queue.queue_ptr


def rank(number, folder):
    torch.set_num_threads(1)
    dist.init_process_group('gloo', init_method=f'file://{folder}/meet', rank=number, world_size=2)
    mine = BATCH[3 * number : 3 * number + 3]
    assert world() == (number, 2)
    result = {
        'gather': gather(mine),
        'transposed': gather(mine.T.contiguous().T),
        'scalar': sum_over_ranks(torch.tensor(number + 1.0)),
        'mean': mean_over_ranks(mine),
        'untouched': mine.clone(),
    }
    images = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(number)).to(
        memory_format=torch.channels_last
    )
    result['channels last'] = gather(images)
    assert not gather(mine.clone().requires_grad_()).requires_grad

    model = net()
    parallel = nn.parallel.DistributedDataParallel(model)
    out = parallel(mine)
    loss = contrast(out, gather_with_gradient(out), 3 * number)
    loss.backward()
    result['loss'], result['gradients'] = loss.detach(), [parameter.grad for parameter in model.parameters()]

    torch.manual_seed(number)  # the ranks' generators differ
    result['permutation'] = common_permutation(50, 'cpu')
    part, order = shuffle(mine)
    assert sorted(order.tolist()) == list(range(6)) and torch.equal(
        part, BATCH[order[3 * number : 3 * number + 3]]
    )
    assert torch.equal(unshuffle(2 * part, order), 2 * mine)
    result['order'] = order
    part, same = shuffle(mine, ORDER)
    assert torch.equal(same, ORDER) and torch.equal(part, BATCH[ORDER][3 * number : 3 * number + 3])
    assert torch.equal(unshuffle(part, ORDER), mine)

    result['queue'] = queue_of([mine, 2 * mine])  # 12 features in 9 places
    torch.save(result, f'{folder}/{number}.pt')
    leave_process_group()


@pytest.fixture(scope='module')
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp('ranks')
    # a forked child needs no imports of its own; autograd cannot be forked where there is a GPU
    method = 'spawn' if torch.cuda.is_available() else 'fork'
    multiprocessing.start_processes(rank, (str(folder),), nprocs=2, start_method=method)
    return [torch.load(folder / f'{number}.pt') for number in (0, 1)]


def test_gathers_in_the_order_of_the_ranks(ranks):
    images = torch.cat(
        [torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(number)) for number in (0, 1)]
    )
    for number, result in enumerate(ranks):
        assert torch.equal(result['gather'], BATCH) and torch.equal(result['transposed'], BATCH)
        assert torch.equal(result['channels last'], images)
        assert result['scalar'] == 3
        torch.testing.assert_close(result['mean'], (BATCH[:3] + BATCH[3:]) / 2, atol=1e-15, rtol=0)
        assert torch.equal(result['untouched'], BATCH[3 * number : 3 * number + 3])


def test_gradient_is_that_of_the_joined_batch(ranks):
    """A gather without gradient would miss the gradient of the losses of other ranks."""
    model = net()
    out = model(BATCH)
    loss = contrast(out, out, 0)
    loss.backward()
    assert abs((ranks[0]['loss'] + ranks[1]['loss']) / 2 - loss) < 1e-12
    detached = net()
    out = detached(BATCH)
    contrast(out, out.detach(), 0).backward()
    for index, (parameter, partial) in enumerate(zip(model.parameters(), detached.parameters(), strict=True)):
        for result in ranks:
            torch.testing.assert_close(result['gradients'][index], parameter.grad, atol=1e-12, rtol=0)
        assert not torch.allclose(partial.grad, parameter.grad, atol=1e-3)


def test_draws_are_common(ranks):
    assert torch.equal(ranks[0]['permutation'], ranks[1]['permutation'])
    assert torch.equal(ranks[0]['order'], ranks[1]['order'])
    torch.manual_seed(0)
    assert torch.equal(ranks[0]['permutation'], torch.randperm(50))  # rank 0's generator


def test_queues_equal_those_of_a_single_process(ranks):
    queue, pointer = queue_of([BATCH, 2 * BATCH])
    for result in ranks:
        assert torch.equal(result['queue'][0], queue) and result['queue'][1] == pointer == 3


def test_alone_everything_is_the_identity():
    assert world() == (0, 1)
    batch = BATCH.clone().requires_grad_()
    assert torch.equal(gather(batch), BATCH) and not gather(batch).requires_grad
    assert gather_with_gradient(batch) is batch
    assert torch.equal(sum_over_ranks(batch), BATCH) and torch.equal(mean_over_ranks(batch), BATCH)
    assert sum_over_ranks(batch).data_ptr() != batch.data_ptr()
    part, order = shuffle(BATCH)
    assert torch.equal(part, BATCH[order]) and torch.equal(unshuffle(part, order), BATCH)
