"""Line charts as SVG: no script, colors from the page's style sheet, readable on a phone."""

import math
from collections.abc import Callable, Mapping
from html import escape

from mmssl.visualization.series import (
    SMOOTH_FROM,
    Points,
    nice_ticks,
    running_mean,
    short_number,
    thinned,
)

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 14, 12, 44
COLORS = 8
Project = Callable[[float, float], tuple[float, float]]


def line_chart(series: Mapping[str, Points], label: str = 'iteration', smooth: bool = True) -> str:
    """Draw curves over iterations as an ``<svg>`` element; classes ``c0`` to ``c7`` set their colors.

    Args:
        series: Name -> (x, y) in the order of x; a y that is not finite leaves a gap.
        label: Label of the x axis.
        smooth: Draw running means over long curves, with the values themselves faint behind them.

    Returns:
        The element; '' if there is no finite value.
    """
    finite = [point for points in series.values() for point in points if math.isfinite(point[1])]
    if not finite:
        return ''
    xs, ys = [point[0] for point in finite], [point[1] for point in finite]
    ys = _without_outliers(ys) if smooth else ys
    ticks = nice_ticks(min(ys), max(ys))
    x_min, x_max = min(xs), max(xs)
    x_max = x_max if x_max > x_min else x_min + 1

    def project(x: float, y: float) -> tuple[float, float]:
        fraction = (min(max(y, ticks[0]), ticks[-1]) - ticks[0]) / (ticks[-1] - ticks[0])
        across = LEFT + (WIDTH - LEFT - RIGHT) * (x - x_min) / (x_max - x_min)
        return across, HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * fraction

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(", ".join(series))}">']
    for tick in ticks:
        y = project(x_min, tick)[1]
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short_number(tick)}</text>'
        )
    for tick in nice_ticks(x_min, x_max):
        if x_min <= tick <= x_max:
            x = project(tick, ticks[0])[0]
            anchor = 'end' if x > WIDTH - 40 else 'middle'
            position = f'x="{x:.1f}" y="{HEIGHT - BOTTOM + 19}" text-anchor="{anchor}"'
            parts.append(f'<text {position}>{short_number(tick)}</text>')
    parts.append(
        f'<text class="axis" x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{escape(label)}</text>'
    )
    for index, (name, points) in enumerate(series.items()):
        parts.append(_curve(points, project, f'c{index % COLORS}', name, smooth))
    return ''.join(parts) + '</svg>'


def _without_outliers(values: list[float]) -> list[float]:
    """Return the values that set the scale, so that one extreme first step does not flatten the rest."""
    if len(values) < SMOOTH_FROM:
        return values
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 100], ordered[-1 - len(ordered) // 100]
    margin = 3 * (high - low) or 1
    return [value for value in values if low - margin <= value <= high + margin]


def _curve(points: Points, project: Project, color: str, name: str, smooth: bool) -> str:
    """Draw one curve: a path if it is long, with a circle per point if it is short."""
    points = thinned(points)
    if len(points) < SMOOTH_FROM:
        return _path(points, project, color) + _circles(points, project, color, name)
    if not smooth:
        return _path(points, project, color)
    means = running_mean([y for _, y in points], max(5, len(points) // 30))
    smoothed = [(x, mean) for (x, _), mean in zip(points, means, strict=True)]
    return _path(points, project, f'{color} raw') + _path(smoothed, project, color)


def _path(points: Points, project: Project, classes: str) -> str:
    commands, drawing = [], False
    for x, y in points:
        if math.isfinite(y):
            across, down = project(x, y)
            commands.append(f'{"L" if drawing else "M"}{across:.1f} {down:.1f}')
        drawing = math.isfinite(y)
    return f'<path class="{classes}" d="{"".join(commands)}"/>'


def _circles(points: Points, project: Project, color: str, name: str) -> str:
    circles = []
    for x, y in points:
        if math.isfinite(y):
            across, down = project(x, y)
            circles.append(
                f'<circle class="{color}" cx="{across:.1f}" cy="{down:.1f}" r="3">'
                f'<title>{escape(name)} {short_number(y)} at {short_number(x)}</title></circle>'
            )
    return ''.join(circles)
