"""Ranks agree on a signal after the same step, without a collective of the default group at every step."""

import time

import pytest
from torch import distributed

from mmssl.engine import stop
from mmssl.engine.signals import SignalWatch
from mmssl.engine.stop import SignalExchange


def agree(rank, steps, seconds, received, begin):
    """The step after which this rank knows of the signal that rank 1 gets in step ``received``."""
    watch = SignalWatch()
    stop.current_watch = lambda: watch
    exchanges = []
    original = distributed.all_reduce
    distributed.all_reduce = lambda *args, **kwargs: exchanges.append(1) or original(*args, **kwargs)
    exchange = SignalExchange()
    for step in range(begin + 1, begin + steps + 1):
        time.sleep(seconds * (1 + rank))
        if rank == 1 and step == received:
            watch.signum = 15
        signum = exchange.after_step(step, last=step == begin + steps)
        if signum:
            return step, signum, len(exchanges)
    return None, 0, len(exchanges)


@pytest.mark.parametrize('begin', [0, 7000])
def test_a_slow_run_stops_within_two_steps(two_ranks, monkeypatch, begin):
    monkeypatch.setattr(stop, 'SECONDS', 0.01)
    first, second = two_ranks(agree, 12, 0.02, begin + 5, begin)
    assert first == second and first[1] == 15 and begin + 5 <= first[0] <= begin + 7


def test_a_fast_run_exchanges_seldom_and_stops_at_the_same_step(two_ranks):
    first, second = two_ranks(agree, 300, 0.0, 120, 0)
    assert first == second and first[1] == 15
    assert 120 <= first[0] <= 120 + 2 * stop.MOST_STEPS and first[2] < 20


def test_a_signal_in_the_last_step_is_known_after_it(two_ranks):
    assert [result[:2] for result in two_ranks(agree, 100, 0.0, 100, 0)] == [(100, 15)] * 2


def test_one_process_knows_at_once_and_without_a_watch_nothing_is_known(monkeypatch):
    watch = SignalWatch()
    monkeypatch.setattr(stop, 'current_watch', lambda: watch)
    exchange = SignalExchange()
    assert exchange.after_step(1, last=False) == exchange.now() == 0
    watch.signum = 2
    assert exchange.after_step(2, last=False) == exchange.now() == 2
    monkeypatch.setattr(stop, 'current_watch', lambda: None)
    assert exchange.after_step(3, last=True) == exchange.now() == 0
