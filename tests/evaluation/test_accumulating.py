"""Sums over the samples of a dataset, whatever the sampler of the ranks."""

import pytest
from mmengine.logging import MMLogger

from mmssl.evaluation.accumulating import AccumulatingMetric, padded_ranks


class Count(AccumulatingMetric):
    def compute_sum(self, total):
        return total

    def process(self, data_batch, data_samples):
        pass


def evaluate(rank, shares, size, named=True):
    metric = Count()
    for index in shares[rank]:
        metric.add(dict(sum=10**index), dict(img_path=f'{index}.jpg') if named else None)
    try:
        return metric.evaluate(size)['sum']
    except ValueError as error:
        return str(error)


CASES = [
    ([[0, 2, 4], [1, 3, 0]], 5, 11111),  # as DefaultSampler
    ([[3, 1, 0], [4, 2, 3]], 5, 11111),  # shuffled
    ([[0, 2, 4], [1, 3]], 5, 11111),  # not padded
    ([[0, 1, 2], [3, 4]], 5, 11111),  # a part each
    ([[0, 1], [2, 3, 4]], 5, 11111),
    ([[0], [0]], 1, 1),
    ([[0, 1, 2], [3, 4, 4]], 5, 'sampler'),  # a part each, padded by the last
    ([[0, 1, 2], [2, 3, 4]], 5, 'sampler'),
    ([[0, 1, 2, 3], [4, 0, 1, 2]], 5, 'sampler'),
    ([[0, 1, 2], [0, 1, 2]], 3, 'sampler'),  # all samples on each rank
]


def evaluate_all(rank):
    return [evaluate(rank, shares, size) for shares, size, _ in CASES]


def test_samples_are_counted_once_or_the_sampler_is_refused(two_ranks):
    first, second = two_ranks(evaluate_all)
    assert first == second
    for (shares, _, expected), result in zip(CASES, first, strict=True):
        if expected == 'sampler':
            assert "set sampler=dict(type='DefaultSampler', shuffle=False)" in result, shares
        else:
            assert result == expected, shares


@pytest.mark.parametrize('shares', [[[0, 1, 2, 3, 3]], [[0, 1, 2, 0, 1, 2]]], ids=str)
def test_one_process_whose_sampler_repeats_is_refused(shares):
    assert 'it is not known which of them are repeated' in evaluate(0, shares, 4)


def test_a_part_of_the_samples_is_told(monkeypatch):
    messages = []
    monkeypatch.setattr(MMLogger.get_current_instance(), 'warning', messages.append)
    assert evaluate(0, [[0, 2]], 5) == 101
    assert messages == ['2 of the 5 samples were evaluated; the scores are of these']


def test_ranks_that_are_padded():
    names = [[(f'{rank}',), (f'{rank}',)] for rank in range(4)]
    assert list(padded_ranks([1, 1, 1, 1], names, 4)) == []
    names[3] = [('0',), ('0',)]
    assert list(padded_ranks([1, 1, 1, 1], names, 3)) == [3]
    names[2:] = [[('0',), ('0',)], [('1',), ('1',)]]
    assert list(padded_ranks([1, 1, 1, 1], names, 2)) == [2, 3]
