"""``mmssl visualize curves``: training curves of several runs in one picture."""

import argparse

SUFFIXES = ('.png', '.svg', '.pdf', '.jpg', '.webp')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the picture."""
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='work directories of the runs')
    parser.add_argument(
        '--keys',
        metavar='KEY,KEY,...',
        help='what to draw (default: the loss, and up to three metrics that all runs have)',
    )
    parser.add_argument('--names', metavar='NAME,NAME,...', help='names of the runs (default: their folders)')
    parser.add_argument(
        '--smooth',
        type=int,
        metavar='N',
        help='draw running means over N logged values, the values themselves faint; 0 for none (default: a thirtieth)',
    )
    parser.add_argument('--log', action='store_true', help='logarithmic values')
    parser.add_argument('--out', required=True, metavar='FILE', help='picture to write: .png, .svg or .pdf')


def run(args: argparse.Namespace) -> None:
    """Draw.

    Raises:
        FileNotFoundError, NotADirectoryError: no such work directory.
        ValueError: a folder of no run, a key that no run has logged, or names that do not fit.
    """
    from pathlib import Path

    from mmssl.visualization.curves import draw_curves, run_names, shared_keys
    from mmssl.visualization.runs import Run

    if Path(args.out).suffix.lower() not in SUFFIXES:
        raise ValueError(f'--out {args.out}: give a name that ends in .png, .svg or .pdf')
    if (args.smooth or 0) < 0:
        raise ValueError(f'--smooth {args.smooth} must be at least 0')
    runs = [Run(folder) for folder in args.work_dirs]
    for found in runs:
        if not found.curves:
            raise ValueError(f'{found.folder} has no curves: nothing was logged in training')
    names = _listed(args.names) or run_names([found.folder for found in runs])
    if len(names) != len(runs) or len(set(names)) < len(names):
        raise ValueError(f'--names {",".join(names)}: give {len(runs)} different names, one a run')
    keys = _listed(args.keys) or shared_keys(runs)
    _check(keys, runs)
    figure = draw_curves(
        {name: found.curves for name, found in zip(names, runs, strict=True)}, keys, args.smooth, args.log
    )
    Path(args.out).absolute().parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.out)
    print(f'{args.out}: {", ".join(keys)} of {len(runs)} runs')


def _listed(text: str | None) -> list[str]:
    return [part.strip() for part in (text or '').split(',') if part.strip()]


def _check(keys: list[str], runs) -> None:
    from mmssl.hints import nearest

    known = list(dict.fromkeys(key for found in runs for key in found.curves))
    for key in keys:
        if key not in known:
            listed = ', '.join(known[:8]) + (', ...' if len(known) > 8 else '')
            raise ValueError(
                f'--keys {key}: no run has logged it{nearest(key, known) or f"; there are {listed}"}'
            )
