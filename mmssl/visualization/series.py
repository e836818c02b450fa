"""Numbers over iterations: running means, thinning, best values, and how they are written."""

import math
from collections.abc import Sequence

# (iteration, value) pairs in the order of iterations
Points = Sequence[tuple[float, float]]
# more points cannot be distinguished on a screen
MAX_POINTS = 700
SMOOTH_FROM = 60


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Average ``window`` neighboring values around each value; values that are not finite are left out."""
    half = window // 2
    means = []
    for index in range(len(values)):
        neighbors = values[max(0, index - half) : index + half + 1]
        finite = [value for value in neighbors if math.isfinite(value)]
        means.append(sum(finite) / len(finite) if finite else math.nan)
    return means


def thinned(points: Points, limit: int = MAX_POINTS) -> list[tuple[float, float]]:
    """Reduce a curve to about ``limit`` points, the minimum and maximum of each group of neighbors."""
    if len(points) <= limit:
        return list(points)
    group_size = math.ceil(2 * len(points) / limit)
    result: list[tuple[float, float]] = []
    for start in range(0, len(points), group_size):
        group = [point for point in points[start : start + group_size] if math.isfinite(point[1])]
        if group:
            lowest = min(group, key=lambda point: point[1])
            highest = max(group, key=lambda point: point[1])
            result += sorted({lowest, highest})
    return result


def is_lower_better(key: str) -> bool:
    """Return True for metrics of which smaller values are better."""
    name = key.rpartition('/')[2].lower()
    if any(word in name for word in ('loss', 'error', 'perplexity')):
        return True
    return name.startswith(('noc@', 'nof@'))  # number of clicks; number of failed images


def best_point(key: str, points: Points) -> tuple[float, float]:
    """Return the (iteration, value) with the best value of a metric."""
    choose = min if is_lower_better(key) else max
    comparable = [point for point in points if not math.isnan(point[1])]
    return choose(comparable or points, key=lambda point: point[1])


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return about ``count`` round values, from at most ``low`` to at least ``high``."""
    if not high > low:
        high, low = high + (abs(high) or 1) * 0.5, low - (abs(low) or 1) * 0.5
    raw_step = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw_step))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw_step * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def short_number(value: float) -> str:
    """Format a number for an axis or a table: four digits, thousands as k."""
    if not math.isfinite(value):
        return str(value)
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):
        digits, exponent = f'{value:.2e}'.split('e')
        return f'{float(digits):g}e{int(exponent)}'
    if abs(value) >= 10000:
        return f'{value / 1000:.4g}k'
    return f'{value:.4g}'


def duration(seconds: float) -> str:
    """Format a duration, such as '41 min', '2 h 03 min', '3 d 4 h'."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    if minutes < 60:
        return f'{minutes} min'
    if minutes < 48 * 60:
        return f'{minutes // 60} h {minutes % 60:02d} min'
    return f'{minutes // 1440} d {minutes % 1440 // 60} h'
