"""``mmssl score``: scores of predictions in files against the truth in files, without a model or a config."""

import argparse
import json
from collections.abc import Mapping
from typing import Any

from mmssl.commands.arguments import check_minimums

HELP = 'score predictions in files against the truth: no model, no config'
TASKS = ('semantic', 'detect', 'instance', 'classify')
TITLES = {
    'pixel_accuracy': 'PA',
    'mean_pixel_accuracy': 'MPA',
    'mean_iou': 'mIoU',
    'frequency_weighted_iou': 'FWIoU',
    'boundary_iou': 'boundary IoU',
    'mean_accuracy': 'mean class accuracy',
    'mean_f1': 'mean F1',
    'iou': 'IoU',
    'ap': 'AP',
    'ap50': 'AP50',
    'ap75': 'AP75',
    'f1': 'F1',
}
# numbers that are counts, not shares
COUNTS = ('objects', 'images')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('truth', metavar='TRUTH', help='folder or file of the true labels')
    parser.add_argument(
        'prediction', metavar='PREDICTION', help='folder or file of the predictions, in any format'
    )
    parser.add_argument(
        '--task', required=True, choices=TASKS, metavar='TASK', help='semantic, detect, instance or classify'
    )
    parser.add_argument(
        '--split', choices=('train', 'val', 'test'), help='score this part of the truth only (default: all)'
    )
    parser.add_argument(
        '--ignore', type=int, metavar='N', help='value of label maps that is not counted (default: 255)'
    )
    parser.add_argument(
        '--num-classes', type=int, metavar='N', help='classes of label maps without a table of classes'
    )
    parser.add_argument(
        '--resamples',
        type=int,
        default=1000,
        metavar='N',
        help='resamples of the images for the 95 %% intervals (default: 1000)',
    )
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='seed of the resamples (default: 0)')
    parser.add_argument('--json', action='store_true', help='print JSON, with scores from 0 to 1')


def run(args: argparse.Namespace) -> None:
    """Score the predictions and print a table, or JSON.

    Raises:
        FileNotFoundError: There is no such file or folder.
        ValueError: The labels cannot be compared; the message names the file.
    """
    check_minimums(args, resamples=1, num_classes=1, seed=0)
    from mmssl.apis.score import score

    result = score(
        args.truth,
        args.prediction,
        args.task,
        args.ignore,
        args.num_classes,
        args.resamples,
        args.seed,
        args.split,
    )
    print(json.dumps(result, indent=2, ensure_ascii=False) if args.json else table(result))


def table(result: Mapping[str, Any]) -> str:
    """Return the scores as text, in percent with their intervals, then those of each class."""
    rows = [
        (TITLES.get(name, name.replace('_', ' ')), *_columns(value, result['interval'].get(name)))
        for name, value in result.items()
        if name not in ('per_class', 'interval', 'images', 'notes')
    ]
    lines = [f'{result["images"]} images; 95 % intervals by bootstrap over images, in %', '']
    lines += _aligned([('', 'score', 'interval'), *rows])
    if result['per_class']:
        lines += ['', *_aligned(_class_rows(result['per_class']))]
    lines += [f'note: {note}' for note in result['notes']]
    return '\n'.join(lines)


def _class_rows(per_class: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    first = next(iter(per_class.values()))
    scores = [name for name in first if name != 'interval']
    intervals = list(first['interval'])
    header = ['class', *(TITLES.get(name, name.replace('_', ' ')) for name in scores)]
    rows = [(*header, *(f'interval of {TITLES.get(name, name)}' for name in intervals))]
    for name, values in per_class.items():
        columns = [str(values[score]) if score in COUNTS else _percent(values[score]) for score in scores]
        rows.append((name, *columns, *(_interval(values['interval'].get(each)) for each in intervals)))
    return rows


def _columns(value: float | None, interval: list | None) -> tuple[str, str]:
    return _percent(value), _interval(interval)


def _percent(value: float | None) -> str:
    return '-' if value is None else f'{100 * value:.2f}'


def _interval(interval: list | None) -> str:
    return '-' if not interval or None in interval else f'{100 * interval[0]:.2f} to {100 * interval[1]:.2f}'


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return [
        '  '.join(
            text.ljust(width) if index == 0 else text.rjust(width)
            for index, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
