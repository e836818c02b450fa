"""Training curves of several runs in one figure."""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from mmssl.visualization.runs import Run
from mmssl.visualization.series import SMOOTH_FROM, Points, running_mean

COLORS = ('#3b6fd4', '#e07b00', '#d64550', '#1f9e89', '#7c4dbd', '#c2408f', '#6b8e23', '#0d8ca8')
STYLES = ('-', '--', ':', '-.')
TEXT_COLOR, GRID_COLOR = '#68707c', '#dfe3e8'
COLUMNS = 3
MARKERS_BELOW = 30


def run_names(folders: Sequence[Path]) -> list[str]:
    """Return a distinct name per run, made of as few trailing parts of its path as possible."""
    parts = [folder.resolve().parts for folder in folders]
    # a common last part says nothing: a/run and b/run become a and b
    while len(parts) > 1 and min(map(len, parts)) > 1 and len({path[-1] for path in parts}) == 1:
        parts = [path[:-1] for path in parts]
    for count in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f'{folder} ({index})' for index, folder in enumerate(folders, 1)]


def shared_keys(runs: Sequence[Run]) -> list[str]:
    """Return the loss and up to three metrics that all runs have, or else the first key of the first run."""
    keys = ['loss'] if all('loss' in run.curves for run in runs) else []
    keys += [key for key in runs[0].main_metrics() if all(key in run.curves for run in runs)][:3]
    return keys or [next(iter(runs[0].curves))]


def draw_curves(
    runs: Mapping[str, Mapping[str, Points]],
    keys: Sequence[str],
    smooth: int | None = None,
    logarithmic: bool = False,
):
    """Draw one plot per key with one line per run.

    Args:
        runs: Name -> key -> (iteration, value).
        keys: Keys to draw; a run without a key has no line in its plot.
        smooth: Number of values in a running mean, 0 for none; by default a thirtieth of the values of curves
            with 60 or more.
        logarithmic: Use a logarithmic scale for the values.

    Returns:
        A ``matplotlib.figure.Figure``; ``.savefig(path)`` writes it.
    """
    if find_spec('matplotlib') is None:
        raise ImportError('a figure of curves needs matplotlib: pip install matplotlib')
    from matplotlib.figure import Figure

    columns = 2 if len(keys) == 4 else min(len(keys), COLUMNS)
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(max(6.4, 4.6 * columns), 3.6 * rows), dpi=150, layout='constrained')
    plots = list(figure.subplots(rows, columns, squeeze=False).flat)
    lines = {}
    for axes, key in zip(plots, keys, strict=False):
        for order, (name, curves) in enumerate(runs.items()):
            if key in curves:
                style = dict(
                    color=COLORS[order % len(COLORS)], linestyle=STYLES[order // len(COLORS) % len(STYLES)]
                )
                window = _default_window(key, curves[key]) if smooth is None else smooth
                lines[name] = _draw_curve(axes, curves[key], window, style)
        _style_axes(axes, key, logarithmic)
    for axes in plots[len(keys) :]:
        axes.set_axis_off()
    legend_columns = max(1, min(len(lines), 3 * columns // 2))
    figure.legend(
        lines.values(), lines, loc='outside lower left', ncols=legend_columns, fontsize=9, frameon=False
    )
    return figure


def _default_window(key: str, points: Points) -> int:
    return len(points) // 30 if len(points) >= SMOOTH_FROM and not key.endswith('lr') else 0


def _draw_curve(axes, points: Points, window: int, style: dict):
    """Draw a curve, behind its running mean if ``window`` is above 1, and return the line for the legend."""
    xs, ys = (list(values) for values in zip(*points, strict=True))
    if window > 1:
        axes.plot(xs, ys, linewidth=0.8, alpha=0.25, **style)
        ys = running_mean(ys, window)
    marker = 'o' if sum(map(math.isfinite, ys)) < MARKERS_BELOW else None
    return axes.plot(xs, ys, linewidth=1.8, marker=marker, markersize=4, **style)[0]


def _style_axes(axes, title: str, logarithmic: bool) -> None:
    from matplotlib.ticker import EngFormatter

    axes.set_title(title, loc='left', fontsize=11, fontweight='bold')
    axes.set_xlabel('iteration', fontsize=9, color=TEXT_COLOR)
    axes.xaxis.set_major_formatter(EngFormatter(sep=''))
    axes.tick_params(labelsize=9, colors=TEXT_COLOR, length=0)
    axes.grid(axis='y', color=GRID_COLOR, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    if logarithmic:
        axes.set_yscale('log')
