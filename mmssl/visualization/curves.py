"""Training curves of several runs side by side."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmssl.visualization.runs import Run, smoothed

COLOURS = ('#3b6fd4', '#e07b00', '#d64550', '#1f9e89', '#7c4dbd', '#c2408f', '#6b8e23', '#0d8ca8')
STYLES = ('-', '--', ':', '-.')
SMOOTH_FROM = 60
COLUMNS = 3


def run_names(folders: Sequence[Path]) -> list[str]:
    """A name a run: as few last parts of its path as tell all runs apart."""
    parts = [folder.resolve().parts for folder in folders]
    while (
        len(parts) > 1 and min(map(len, parts)) > 1 and len({path[-1] for path in parts}) == 1
    ):  # a/run and b/run are a and b
        parts = [path[:-1] for path in parts]
    for count in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(path[-count:]) for path in parts]
        if len(set(names)) == len(names):
            return names
    return [f'{folder} ({number})' for number, folder in enumerate(folders, 1)]


def shared_keys(runs: Sequence[Run]) -> list[str]:
    """The loss, and up to three metrics that every run has; what the first run has logged where there is neither."""
    from mmssl.visualization.page import chief_metrics

    keys = ['loss'] if all('loss' in run.curves for run in runs) else []
    keys += [key for key in chief_metrics(runs[0]) if all(key in run.curves for run in runs)][:3]
    return keys or [next(iter(runs[0].curves))]


def draw_curves(
    runs: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]],
    keys: Sequence[str],
    smooth: int | None = None,
    logarithmic: bool = False,
):
    """One plot a key, one line a run.

    Args:
        runs: name to key to (iteration, value).
        keys: what to draw; a run that lacks one has no line there.
        smooth: values in a running mean, 0 for none; by default a thirtieth of a curve of 60 or more.
        logarithmic: scale of the values.

    Returns:
        a ``matplotlib.figure.Figure``; ``.savefig(path)`` writes it.
    """
    from importlib.util import find_spec

    if find_spec('matplotlib') is None:
        raise ImportError('a picture of curves needs matplotlib: pip install matplotlib')
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    columns = 2 if len(keys) == 4 else min(len(keys), COLUMNS)
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(max(6.4, 4.6 * columns), 3.6 * rows), dpi=150, layout='constrained')
    plots = figure.subplots(rows, columns, squeeze=False)
    lines = {}
    for number, axes in enumerate(plots.flat):
        if number >= len(keys):
            axes.set_axis_off()
            continue
        key = keys[number]
        for order, (name, curves) in enumerate(runs.items()):
            if key not in curves:
                continue
            xs, ys = zip(*curves[key], strict=True)
            style = dict(
                color=COLOURS[order % len(COLOURS)], linestyle=STYLES[order // len(COLOURS) % len(STYLES)]
            )
            window = (
                smooth
                if smooth is not None
                else len(ys) // 30
                if len(ys) >= SMOOTH_FROM and not key.endswith('lr')
                else 0
            )
            if window > 1:
                axes.plot(xs, ys, linewidth=0.8, alpha=0.25, **style)
                ys = tuple(smoothed(list(ys), window))
            few = sum(map(math.isfinite, ys)) < 30
            (lines[name],) = axes.plot(
                xs, ys, linewidth=1.8, marker='o' if few else None, markersize=4, **style
            )
        axes.set_title(key, loc='left', fontsize=11, fontweight='bold')
        axes.set_xlabel('iteration', fontsize=9, color='#68707c')
        axes.xaxis.set_major_formatter(EngFormatter(sep=''))
        axes.tick_params(labelsize=9, colors='#68707c', length=0)
        axes.grid(axis='y', color='#dfe3e8', linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[:].set_visible(False)
        if logarithmic:
            axes.set_yscale('log')
    figure.legend(
        lines.values(),
        lines,
        loc='outside lower left',
        ncols=max(1, min(len(lines), 3 * columns // 2)),
        fontsize=9,
        frameon=False,
    )
    return figure
