"""Curves as SVG for a page: no script, colours from its style sheet, readable on a phone."""

import math
from collections.abc import Mapping, Sequence
from html import escape

from mmssl.visualization.runs import smoothed

Points = Sequence[tuple[float, float]]
WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 12, 44
COLOURS = 8
# more are not told apart on a screen
MOST_POINTS = 700
SMOOTH_FROM = 60


def nice_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values from below ``low`` to above ``high``, about ``count`` of them."""
    if not high > low:
        high, low = high + (abs(high) or 1) * 0.5, low - (abs(low) or 1) * 0.5
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [number * step for number in range(first, last + 1)]


def short(value: float) -> str:
    """A number for an axis or a table: four digits, thousands as k."""
    if not math.isfinite(value):
        return str(value)
    if value and (abs(value) < 1e-3 or abs(value) >= 1e7):
        digits, exponent = f'{value:.2e}'.split('e')
        return f'{float(digits):g}e{int(exponent)}'
    if abs(value) >= 10000:
        return f'{value / 1000:.4g}k'
    return f'{value:.4g}'


def thinned(points: Points, most: int = MOST_POINTS) -> list[tuple[float, float]]:
    """At most about ``most`` points: of every run of neighbours the least and the largest, so that peaks stay."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(2 * len(points) / most)
    kept = []
    for begin in range(0, len(points), size):
        group = [point for point in points[begin : begin + size] if math.isfinite(point[1])]
        if group:
            kept += sorted({min(group, key=lambda point: point[1]), max(group, key=lambda point: point[1])})
    return kept


def line_chart(series: Mapping[str, Points], label: str = 'iteration', smooth: bool = True) -> str:
    """Curves over iterations as an ``<svg>``; classes ``c0`` to ``c7`` colour them.

    Args:
        series: name to (x, y) in order of x; a y that is not finite leaves a gap.
        label: of the x axis.
        smooth: draw running means over long curves, the values themselves faint.

    Returns:
        the element; '' where there is no finite value.
    """
    finite = [point for points in series.values() for point in points if math.isfinite(point[1])]
    if not finite:
        return ''
    xs, ys = [point[0] for point in finite], [point[1] for point in finite]
    ys = _without_outliers(ys) if smooth else ys
    ticks = nice_ticks(min(ys), max(ys))
    left, right = min(xs), max(xs)
    right = right if right > left else left + 1

    def place(x: float, y: float) -> tuple[float, float]:
        share = (min(max(y, ticks[0]), ticks[-1]) - ticks[0]) / (ticks[-1] - ticks[0])
        return LEFT + (WIDTH - LEFT - RIGHT) * (x - left) / (right - left), HEIGHT - BOTTOM - (
            HEIGHT - TOP - BOTTOM
        ) * share

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(", ".join(series))}">']
    for tick in ticks:
        y = place(left, tick)[1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>'
        )
    for tick in nice_ticks(left, right):
        if left <= tick <= right:
            x = place(tick, ticks[0])[0]
            anchor = 'end' if x > WIDTH - 40 else 'middle'
            parts.append(
                f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="{anchor}">{short(tick)}</text>'
            )
    parts.append(
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{escape(label)}</text>'
    )
    for number, (name, points) in enumerate(series.items()):
        parts.append(_line(points, place, f'c{number % COLOURS}', name, smooth))
    return ''.join(parts) + '</svg>'


def _without_outliers(values: list[float]) -> list[float]:
    """Values that set the scale: one wild first step shall not flatten the rest."""
    if len(values) < SMOOTH_FROM:
        return values
    order = sorted(values)
    low, high = order[len(order) // 100], order[-1 - len(order) // 100]
    reach = 3 * (high - low) or 1
    return [value for value in values if low - reach <= value <= high + reach]


def _line(points: Points, place, colour: str, name: str, smooth: bool) -> str:
    points = thinned(points)
    long = len(points) >= SMOOTH_FROM
    lines = []
    if long and smooth:
        lines.append((points, ' raw'))
        values = smoothed([value for _, value in points], max(5, len(points) // 30))
        points = [(x, value) for (x, _), value in zip(points, values, strict=True)]
    lines.append((points, ''))
    out = []
    for line, kind in lines:
        steps, drawing = [], False
        for x, y in line:
            if math.isfinite(y):
                steps.append(f'{"L" if drawing else "M"}{"{:.1f} {:.1f}".format(*place(x, y))}')
            drawing = math.isfinite(y)
        out.append(f'<path class="{colour}{kind}" d="{"".join(steps)}"/>')
    if not long:
        for x, y in points:
            if math.isfinite(y):
                across, down = place(x, y)
                out.append(
                    f'<circle class="{colour}" cx="{across:.1f}" cy="{down:.1f}" r="3">'
                    f'<title>{escape(name)} {short(y)} at {short(x)}</title></circle>'
                )
    return ''.join(out)
