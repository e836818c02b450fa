"""Few-label curves: a metric over the number of labelled images, from two starts."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import NamedTuple

from mmssl.visualization.curves import COLORS, GRID_COLOR, TEXT_COLOR


class CurvePoint(NamedTuple):
    """A point of a few-label curve.

    Attributes:
        labels: Number of labelled images.
        mean: Mean over the seeds.
        values: Value of every seed.
    """

    labels: int
    mean: float
    values: Sequence[float]


def draw_label_curve(
    curves: Mapping[str, Sequence[CurvePoint]],
    metric: str,
    gain: tuple[int, float] | None = None,
    saving: tuple[int, int, float] | None = None,
):
    """Draw a line per start with the seeds as dots and their range as a band.

    Args:
        curves: Name of the start -> points, ascending.
        metric: Name of the metric, for the title.
        gain: (number of labels, difference of the first two starts), marked by a vertical line.
        saving: (number of labels, number with which the second start reaches as much, value), marked by an
            arrow.

    Returns:
        A ``matplotlib.figure.Figure``; :func:`mmssl.visualization.files.write_figure` writes it.
    """
    if find_spec('matplotlib') is None:
        raise ImportError('a figure of a few-label curve needs matplotlib: pip install matplotlib')
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), dpi=150, layout='constrained')
    axes = figure.subplots()
    counts = sorted({point.labels for points in curves.values() for point in points})
    axes.set_xscale('log', base=2)
    for (name, points), color in zip(curves.items(), COLORS, strict=False):
        _draw_start(axes, name, points, color)
    means = [{point.labels: point.mean for point in points} for points in curves.values()]
    if gain is not None and len(means) > 1:
        _mark_gain(axes, gain, means[0][gain[0]], means[1][gain[0]])
    if saving is not None:
        _mark_saving(axes, saving)
    axes.set_xticks(counts, [f'{count:,}' for count in counts])
    axes.minorticks_off()
    axes.margins(x=0.06, y=0.12)
    axes.set_title(f'{metric} in percent', loc='left', fontsize=11, fontweight='bold')
    axes.set_xlabel('labelled images', fontsize=9, color=TEXT_COLOR)
    axes.tick_params(labelsize=9, colors=TEXT_COLOR, length=0)
    axes.grid(axis='y', color=GRID_COLOR, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    figure.legend(loc='outside lower left', ncols=len(curves), fontsize=9, frameon=False)
    return figure


def _draw_start(axes, name: str, points: Sequence[CurvePoint], color: str) -> None:
    xs = [point.labels for point in points]
    if any(len(point.values) > 1 for point in points):
        lows, highs = ([pick(point.values) for point in points] for pick in (min, max))
        axes.fill_between(xs, lows, highs, color=color, alpha=0.15, linewidth=0)
        for point in points:
            axes.plot(
                [point.labels] * len(point.values), point.values, '.', color=color, alpha=0.5, markersize=4
            )
    axes.plot(
        xs, [point.mean for point in points], color=color, linewidth=1.8, marker='o', markersize=4, label=name
    )


def _mark_gain(axes, gain: tuple[int, float], high: float, low: float) -> None:
    count, difference = gain
    axes.plot([count, count], [low, high], color=TEXT_COLOR, linewidth=1.0, linestyle=':')
    axes.annotate(
        f'{difference:+.1f}',
        (count, (low + high) / 2),
        xytext=(5, 0),
        textcoords='offset points',
        fontsize=9,
        color=TEXT_COLOR,
        va='center',
    )


def _mark_saving(axes, saving: tuple[int, int, float]) -> None:
    count, equivalent, value = saving
    axes.annotate(
        '',
        (equivalent, value),
        xytext=(count, value),
        arrowprops=dict(arrowstyle='->', color=TEXT_COLOR, linewidth=1.0),
    )
    axes.annotate(
        f'{equivalent / count:.1f} times the labels',
        ((count * equivalent) ** 0.5, value),
        xytext=(0, -5),
        textcoords='offset points',
        fontsize=9,
        color=TEXT_COLOR,
        ha='center',
        va='top',
    )
