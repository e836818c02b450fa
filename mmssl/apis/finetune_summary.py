"""The results of a few-label curve: what pre-training gave, and what more labels would bring."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

from mmssl.checkpoint import write_json, write_text

TABLE, JSON, PICTURE = 'table.md', 'table.json', 'curve.png'
# the answers reach beyond the last point by this factor at most
MAX_EXTRAPOLATION = 10


class Metric(NamedTuple):
    """The metric of a curve.

    Attributes:
        name: Its name in tables.
        key: Its name in the logs of a run.
        factor: What makes it percent.
    """

    name: str
    key: str
    factor: float


METRICS = {
    'classify': Metric('top-1 accuracy', 'accuracy/top1', 1.0),
    'detect': Metric('AP50', 'coco/bbox_mAP_50', 100.0),
    'instance': Metric('mask AP50', 'coco/segm_mAP_50', 100.0),
    'semantic': Metric('mIoU', 'mIoU', 1.0),
    'sam-lora': Metric('IoU of masks from boxes', 'box_mIoU', 1.0),
}


class Score(NamedTuple):
    """The score of a run.

    Attributes:
        start: Name of its start.
        labels: Number of its training images.
        seed: Its seed.
        value: The metric in percent; None where it is not defined.
    """

    start: str
    labels: int
    seed: int
    value: float | None


class Row(NamedTuple):
    """Mean and spread of a start with a number of labels.

    Attributes:
        start: Name of the start.
        labels: Number of training images.
        values: Seed -> value in percent.
        mean: Mean over the seeds.
        std: Sample standard deviation over the seeds; None with one seed.
    """

    start: str
    labels: int
    values: dict[int, float]
    mean: float
    std: float | None


@dataclass
class LabelCurve:
    """A few-label curve.

    Attributes:
        recipe: A key of :data:`METRICS`.
        starts: Names of the starts; the first one is compared with the second one.
        scores: The scores of all runs.
    """

    recipe: str
    starts: list[str]
    scores: list[Score]

    @property
    def metric(self) -> Metric:
        """The metric."""
        return METRICS[self.recipe]

    @property
    def counts(self) -> list[int]:
        """The numbers of labels, ascending."""
        return sorted({score.labels for score in self.scores})

    @property
    def rows(self) -> list[Row]:
        """Mean and spread of every start and number of labels; those without a defined value are left out."""
        rows = []
        for start in self.starts:
            for count in self.counts:
                values = {
                    score.seed: score.value
                    for score in self.scores
                    if (score.start, score.labels) == (start, count) and score.value is not None
                }
                if values:
                    rows.append(Row(start, count, values, *_mean_and_std(list(values.values()))))
        return rows

    def points(self, start: str) -> list[tuple[int, float]]:
        """Return (number of labels, mean) of a start, ascending."""
        return [(row.labels, row.mean) for row in self.rows if row.start == start]

    def gains(self) -> list[dict[str, Any]]:
        """Return by how much the first start is ahead of the second one, in pairs of equal seeds.

        Returns:
            'labels', 'mean', 'std' (None with one seed) and 'equivalent', the number of labels with which the
            second start reaches the mean of the first one (None if it does not), per number of labels.
        """
        if len(self.starts) < 2:
            return []
        ours, theirs = ({row.labels: row for row in self.rows if row.start == name} for name in self.starts)
        gains = []
        for count in sorted(set(ours) & set(theirs)):
            pairs = [
                value - theirs[count].values[seed]
                for seed, value in ours[count].values.items()
                if seed in theirs[count].values
            ]
            if pairs:
                average, spread = _mean_and_std(pairs)
                equivalent = labels_for(self.points(self.starts[1]), ours[count].mean)
                gains.append(dict(labels=count, mean=average, std=spread, equivalent=equivalent))
        return gains

    def growth(self) -> dict[str, Any] | None:
        """Return what more labels bring at the end of the first start's curve.

        Returns:
            'labels' and 'from', the last two numbers of labels; 'per_doubling', the points that twice as many
            labels brought between them; 'certain', whether the difference is above the spread of the seeds at
            both; 'next', a dict of points -> number of labels in all, on the straight line through both over
            the logarithm of the number, at most ten times as many as there are; None with one number of
            labels.
        """
        rows = [row for row in self.rows if row.start == self.starts[0]]
        if len(rows) < 2:
            return None
        first, low, last, high = rows[-2].labels, rows[-2].mean, rows[-1].labels, rows[-1].mean
        slope = (high - low) / math.log2(last / first)
        certain = high - low > math.hypot(rows[-2].std or 0.0, rows[-1].std or 0.0)
        ahead = {}
        if slope > 0:
            for step in (1, 5):
                needed = last * 2 ** min(step / slope, 60)
                if needed <= MAX_EXTRAPOLATION * last and high + step <= 100:
                    ahead[step] = math.ceil(needed)
        return {
            'from': first,
            'labels': last,
            'per_doubling': slope,
            'certain': certain,
            'next': ahead,
        }


def _mean_and_std(values: Sequence[float]) -> tuple[float, float | None]:
    return mean(values), stdev(values) if len(values) > 1 else None


def labels_for(points: Sequence[tuple[int, float]], value: float) -> int | None:
    """Return the number of labels with which a curve first reaches a value.

    Straight lines over the logarithm of the number join the points.

    Args:
        points: (number of labels, value), ascending.
        value: Value to reach.

    Returns:
        The number, that of the first point if this is as good already; None if no point is.
    """
    for index, (count, reached) in enumerate(points):
        if reached >= value:
            if not index:
                return count
            before, low = points[index - 1]
            fraction = (value - low) / (reached - low)
            return round(before * (count / before) ** fraction)
    return None


def shown(value: float | None, spread: float | None = None, sign: str = '') -> str:
    """Format a value with its spread: '41.2 ± 1.3'."""
    if value is None:
        return '-'
    return f'{value:{sign}.1f}' + ('' if spread is None else f' ± {spread:.1f}')


def table_lines(curve: LabelCurve) -> list[str]:
    """Return the table in Markdown, a line each."""
    rows = {(row.start, row.labels): row for row in curve.rows}
    gains = {gain['labels']: gain for gain in curve.gains()}
    header = ['labels', *curve.starts, *(['gain', f'labels that {curve.starts[1]} needs'] if gains else [])]
    table = [header]
    for count in curve.counts:
        group = [rows.get((start, count)) for start in curve.starts]
        line = [f'{count:,}', *('-' if row is None else shown(row.mean, row.std) for row in group)]
        gain = gains.get(count)
        if gain:
            line += [shown(gain['mean'], gain['std'], '+'), _equivalent(gain['equivalent'], curve.counts[-1])]
        table.append(line + ['-'] * (len(header) - len(line)))
    widths = [max(len(line[column]) for line in table) for column in range(len(header))]
    text = [
        '| ' + ' | '.join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + ' |'
        for line in table
    ]
    return [text[0], '|' + '|'.join('-' * (width + 1) + ':' for width in widths) + '|', *text[1:]]


def _equivalent(count: int | None, most: int) -> str:
    return f'more than {most:,}' if count is None else f'{count:,}'


def answers(curve: LabelCurve) -> list[str]:
    """Return sentences: what pre-training gave, and how many more labels are needed."""
    gains = curve.gains()
    ends = gains[:1] + gains[1:][-1:]
    growth = curve.growth()
    return [_gain_text(curve, gain) for gain in ends] + ([_growth_text(curve, growth)] if growth else [])


def _gain_text(curve: LabelCurve, gain: dict[str, Any]) -> str:
    first, second = curve.starts[:2]
    text = (
        f'with {gain["labels"]:,} labels {first} has {shown(gain["mean"], gain["std"], "+")} points of '
        f'{curve.metric.name} over {second}'
    )
    if gain['mean'] <= 0:
        return text
    needed = gain['equivalent']
    reach = f'more than {curve.counts[-1]:,}' if needed is None else f'about {needed:,}'
    return f'{text}, which needs {reach} labels for as much'


def _growth_text(curve: LabelCurve, growth: dict[str, Any]) -> str:
    text = (
        f'from {growth["from"]:,} to {growth["labels"]:,} labels {curve.starts[0]} gained '
        f'{shown(growth["per_doubling"], sign="+")} points for each doubling'
    )
    if not growth['certain']:
        return f'{text}, no more than the spread of the seeds: more labels of this kind promise little'
    steps = [
        f'+{step} point{"" if step == 1 else "s"} at {count:,} labels ({count - growth["labels"]:,} more)'
        for step, count in growth['next'].items()
    ]
    if not steps:
        return text
    return f'{text}; a straight line gives {" and ".join(steps)}, and curves flatten: at least so many'


def write_summary(curve: LabelCurve, folder: Path) -> list[str]:
    """Write ``table.md``, ``table.json`` and ``curve.png``, and return the lines for the terminal."""
    from mmssl.visualization.files import write_figure

    seeds = sorted({score.seed for score in curve.scores})
    title = f'{curve.metric.name} in percent by number of labelled images; mean' + (
        f' ± standard deviation over seeds {", ".join(map(str, seeds))}'
        if len(seeds) > 1
        else f' of seed {seeds[0]}'
    )
    table, sentences = table_lines(curve), answers(curve)
    write_text(
        folder / TABLE, '\n'.join([f'{title}.', '', *table, '', *(f'- {each}.' for each in sentences), ''])
    )
    content = dict(
        metric=curve.metric.name,
        seeds=seeds,
        starts=curve.starts,
        rows=[row._asdict() for row in curve.rows],
        gains=curve.gains(),
        growth=curve.growth(),
        answers=sentences,
    )
    write_json(folder / JSON, content)
    write_figure(picture(curve), folder / PICTURE)
    files = ', '.join(str(folder / name) for name in (TABLE, JSON, PICTURE))
    return ['', title, *table, *sentences, f'written   {files}']


def picture(curve: LabelCurve) -> Any:
    """Draw the curve as a matplotlib figure, with the largest saving of labels, or else the gain, marked."""
    from mmssl.visualization.label_curve import CurvePoint, draw_label_curve

    points = {
        start: [
            CurvePoint(row.labels, row.mean, list(row.values.values()))
            for row in curve.rows
            if row.start == start
        ]
        for start in curve.starts
    }
    gains = curve.gains()
    first = (gains[0]['labels'], gains[0]['mean']) if gains else None
    savings = [
        (each['labels'], each['equivalent'], dict(curve.points(curve.starts[0]))[each['labels']])
        for each in gains
        if each['equivalent'] and each['equivalent'] > 1.2 * each['labels']
    ]
    best = max(savings, key=lambda each: each[1] / each[0], default=None)
    return draw_label_curve(points, curve.metric.name, first, best)
