"""The learning rate against the released formula."""

import math

import pytest
import torch

from mmssl.engine.schedules import CosineWeightDecay, WarmupCosineLR


def run(steps, lrs=(1.0,), scales=None, **kwargs):
    groups = [
        {'params': [torch.nn.Parameter(torch.zeros(1))], 'lr': lr, **({'lr_scale': scale} if scale else {})}
        for lr, scale in zip(lrs, scales or [None] * len(lrs), strict=True)
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = WarmupCosineLR.build_iter_from_epoch(optimizer, by_epoch=True, **kwargs)
    rates = []
    for _ in range(steps):
        rates.append([group['lr'] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return rates


def released(epoch, lr, warmup, epochs, low):
    """util/lr_sched.py of the official code, by its formula."""
    if epoch < warmup:
        return lr * epoch / warmup
    return low + (lr - low) * 0.5 * (1 + math.cos(math.pi * (epoch - warmup) / (epochs - warmup)))


def test_every_iteration_has_the_released_rate():
    length, epochs, warmup, low = 7, 5, 2, 0.01
    rates = run(
        length * epochs,
        lrs=(1.0, 0.25),
        scales=(1.0, 0.25),
        warmup=warmup,
        end=epochs,
        epoch_length=length,
        eta_min=low,
    )
    for step, (head, stem) in enumerate(rates):
        assert head == pytest.approx(released(step / length, 1.0, warmup, epochs, low), abs=1e-12)
        assert stem == pytest.approx(0.25 * released(step / length, 1.0, warmup, epochs, low), abs=1e-12)
    assert rates[0] == [0.0, 0.0]


def test_it_stays_at_the_end():
    rates = run(12, warmup=0, end=2, epoch_length=4, eta_min=0.125)
    assert rates[0] == [1.0] and [rate for (rate,) in rates[8:]] == [0.125] * 4


def test_it_resumes_from_its_state():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = WarmupCosineLR(optimizer, warmup=2, end=6, by_epoch=False)
    expected = []
    for step in range(6):
        if step == 3:
            state = schedule.state_dict()
        expected.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        schedule.step()
    other = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    resumed = WarmupCosineLR(other, warmup=2, end=6, by_epoch=False)
    resumed.load_state_dict(state)
    got = []
    for _ in range(2):
        other.step()
        resumed.step()
        got.append(other.param_groups[0]['lr'])
    assert got == expected[4:]


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'warmup': 5, 'end': 5}, 'less than end 5'),
        ({'warmup': -1, 'end': 5}, 'at least 0'),
        ({'warmup': 1, 'end': 5, 'begin': 2}, 'begin must be 0'),
    ],
)
def test_wrong_lengths_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        WarmupCosineLR(
            torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0), by_epoch=False, **options
        )


def test_weight_decay_rises_unless_it_is_zero():
    groups = [
        {'params': [torch.nn.Parameter(torch.zeros(1))], 'weight_decay': decay} for decay in (0.04, 0.0, 0.02)
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    schedule = CosineWeightDecay.build_iter_from_epoch(
        optimizer, final=0.4, end=3, by_epoch=True, epoch_length=5
    )
    for step in range(20):
        expected = 0.4 + (0.04 - 0.4) * 0.5 * (1 + math.cos(math.pi * min(step, 15) / 15))
        assert [group['weight_decay'] for group in optimizer.param_groups] == pytest.approx(
            [expected, 0.0, expected / 2], abs=1e-12
        )
        optimizer.step()
        schedule.step()
    with pytest.raises(ValueError, match='final=-1'):
        CosineWeightDecay(optimizer, final=-1, end=3)
