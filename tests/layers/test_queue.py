"""The queue of negatives against a list."""

import pytest
import torch

from mmssl.layers.queue import FeatureQueue
from mmssl.layers.saved_counters import SavedCounters


def features(count, first=0):
    """Features whose every entry is their number."""
    return torch.arange(first, first + count, dtype=torch.float32)[:, None].expand(-1, 3) + 100.0


def test_starts_with_unit_vectors():
    torch.manual_seed(0)
    queue = FeatureQueue(3, 7)
    assert queue.queue.shape == (3, 7) and queue.queue_ptr == 0
    torch.testing.assert_close(queue.queue.norm(dim=0), torch.ones(7))
    assert len(queue.queue.unique(dim=1).T) == 7


@pytest.mark.parametrize(
    ('length', 'batches'),
    [(6, (2, 2, 2, 2)), (7, (3, 3, 3, 3, 3)), (5, (5, 5)), (4, (1, 3, 2, 4, 1)), (1, (1, 1))],
)
def test_the_oldest_go_first_also_around_the_end(length, batches):
    queue = FeatureQueue(3, length)
    slots, position, count = queue.queue.T.tolist(), 0, 0
    for size in batches:
        batch = features(size, count)
        queue.enqueue(batch)
        for row in batch.tolist():
            slots[position] = row
            position = (position + 1) % length
        count += size
        assert queue.queue.T.tolist() == slots and queue.queue_ptr == position


def test_takes_the_dtype_of_the_queue_and_no_gradient():
    queue = FeatureQueue(3, 4)
    batch = features(2).to(torch.bfloat16).requires_grad_()
    queue.enqueue(batch)
    assert queue.queue.dtype == torch.float32 and not queue.queue.requires_grad and queue.queue[0, 1] == 101


def test_negatives_stay_as_they_were():
    queue = FeatureQueue(3, 4)
    before = queue.negatives()
    original = before.clone()
    queue.enqueue(features(4))
    assert torch.equal(before, original) and not torch.equal(queue.negatives(), original)


def test_pointer_and_features_are_in_the_state_dict():
    queue, other = FeatureQueue(3, 4), FeatureQueue(3, 4)
    queue.enqueue(features(3))
    state = queue.state_dict()
    assert state['queue_ptr'].dtype == torch.int64 and state['queue_ptr'].shape == (1,)  # as in MoCo's files
    other.load_state_dict(state)
    assert torch.equal(other.queue, queue.queue) and other.queue_ptr == 3
    for each in (queue, other):
        each.enqueue(features(2, 3))
    assert torch.equal(other.queue, queue.queue) and other.queue_ptr == queue.queue_ptr == 1


def test_impossible_lengths_are_refused():
    with pytest.raises(ValueError, match='length=0 of a queue is not a positive number of features'):
        FeatureQueue(3, 0)
    with pytest.raises(
        ValueError,
        match='the queue has 4 places and the batch of all processes 5 features; use a longer queue',
    ):
        FeatureQueue(3, 4).enqueue(features(5))


class Counted(SavedCounters):
    COUNTERS = ('steps', 'epochs')

    def __init__(self):
        super().__init__()
        self.steps, self.epochs = 4, 5
        self.weight = torch.nn.Parameter(torch.zeros(1))


def test_counters_are_saved_loaded_and_may_be_missing():
    model, other = torch.nn.Sequential(Counted()), torch.nn.Sequential(Counted())
    model[0].steps = 9
    state = model.state_dict()
    assert set(state) == {'0.weight', '0.steps', '0.epochs'}
    other.load_state_dict(state)
    assert (other[0].steps, other[0].epochs) == (9, 5) and type(other[0].steps) is int
    result = other.load_state_dict(
        {'0.weight': torch.ones(1), '0.epochs': torch.tensor(7)}
    )  # a scalar counts too
    assert not result.missing_keys and (other[0].steps, other[0].epochs) == (9, 7)
    with pytest.raises(RuntimeError, match='Unexpected key.*0.step'):
        other.load_state_dict({**state, '0.step': torch.tensor([1])})
    with pytest.raises(RuntimeError, match='Missing key.*0.weight'):
        other.load_state_dict({'0.steps': torch.tensor([1])})
    model[0].steps = 11
    assert state['0.steps'].tolist() == [9]
