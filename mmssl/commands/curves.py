"""``mmssl visualize curves``: training curves of several runs in one figure."""

import argparse
from typing import TYPE_CHECKING

from mmssl.commands.arguments import check_minimums, check_output_suffix, make_parent

if TYPE_CHECKING:
    from mmssl.visualization.runs import Run

SUFFIXES = ('.png', '.svg', '.pdf', '.jpg', '.webp')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the figure."""
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='work directories of the runs')
    parser.add_argument(
        '--keys',
        metavar='KEY,KEY,...',
        help='values to draw (default: the loss, and up to three metrics that all runs have)',
    )
    parser.add_argument('--names', metavar='NAME,NAME,...', help='names of the runs (default: their folders)')
    parser.add_argument(
        '--smooth',
        type=int,
        metavar='N',
        help='running mean over N logged values, with the values themselves drawn faintly; 0 for none '
        '(default: a thirtieth of all)',
    )
    parser.add_argument('--log', action='store_true', help='logarithmic scale')
    parser.add_argument('--out', required=True, metavar='FILE', help='figure to write: .png, .svg or .pdf')


def run(args: argparse.Namespace) -> None:
    """Draw the curves.

    Raises:
        FileNotFoundError, NotADirectoryError: A work directory does not exist.
        ValueError: A folder is not a run, no run has logged a key, or the names do not fit.
    """
    check_output_suffix(args.out, SUFFIXES, '.png, .svg or .pdf')
    check_minimums(args, smooth=0)
    from mmssl.visualization.curves import draw_curves, run_names, shared_keys
    from mmssl.visualization.runs import Run

    runs = [Run(folder) for folder in args.work_dirs]
    for each in runs:
        if not each.curves:
            raise ValueError(f'{each.folder} has no curves: nothing was logged in training')
    names = _split_list(args.names) or run_names([each.folder for each in runs])
    if len(names) != len(runs) or len(set(names)) < len(names):
        raise ValueError(f'--names {",".join(names)}: give {len(runs)} different names, one per run')
    keys = _split_list(args.keys) or shared_keys(runs)
    _check_keys(keys, runs)
    curves = {name: each.curves for name, each in zip(names, runs, strict=True)}
    figure = draw_curves(curves, keys, args.smooth, args.log)
    make_parent(args.out)
    figure.savefig(args.out)
    print(f'{args.out}: {", ".join(keys)} of {len(runs)} runs')


def _split_list(text: str | None) -> list[str]:
    return [part.strip() for part in (text or '').split(',') if part.strip()]


def _check_keys(keys: list[str], runs: 'list[Run]') -> None:
    from mmssl.hints import nearest

    known = list(dict.fromkeys(key for each in runs for key in each.curves))
    for key in keys:
        if key not in known:
            names = ', '.join(known[:8]) + (', ...' if len(known) > 8 else '')
            hint = nearest(key, known) or f'; there are {names}'
            raise ValueError(f'--keys {key}: no run has logged it{hint}')
