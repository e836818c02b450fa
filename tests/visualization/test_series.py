"""Numbers over iterations and how they are written."""

import math

from mmssl.visualization.series import duration, nice_ticks, running_mean, short_number, thinned


def test_ticks_and_numbers():
    assert nice_ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert nice_ticks(0.1, 0.32)[0] <= 0.1 and nice_ticks(0.1, 0.32)[-1] >= 0.32
    assert nice_ticks(3, 3)[0] < 3 < nice_ticks(3, 3)[-1]
    texts = [short_number(value) for value in (0, 0.00015, -2e-5, 12.3456, 1234, 56789, 3e9, math.nan)]
    assert texts == ['0', '1.5e-4', '-2e-5', '12.35', '1234', '56.79k', '3e9', 'nan']
    assert [duration(seconds) for seconds in (12, 1318, 7380, 300000)] == [
        '12 s',
        '22 min',
        '2 h 03 min',
        '3 d 11 h',
    ]


def test_thinned_curves_keep_their_peaks():
    points = [(step, 100.0 if step == 777 else math.sin(step)) for step in range(5000)]
    thin = thinned(points)
    assert len(thin) <= 720 and (777, 100.0) in thin and thin == sorted(thin)


def test_running_means():
    assert running_mean([1.0, 2.0, 3.0, 6.0], 3) == [1.5, 2.0, 11 / 3, 4.5]
    assert running_mean([1.0, math.nan, 3.0], 3) == [1.0, 2.0, 3.0]
