"""``mmssl report WORK_DIR``: a run as one HTML page."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmssl.visualization.runs import Run

HELP = 'write a run as one HTML page: curves, metrics, images, config, environment'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        'work_dir', metavar='WORK_DIR', help='work directory of a training run (resumed or not) or a test'
    )
    parser.add_argument('--out', metavar='FILE', help='page to write (default: WORK_DIR/report.html)')
    parser.add_argument(
        '--base',
        metavar='CONFIG',
        help='show the difference from this config (default: the shipped config of the same name)',
    )


def run(args: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: The folder is not the work directory of a run, or
            there is no such config.
    """
    from mmssl import __version__
    from mmssl.checkpoint import write_text
    from mmssl.commands.arguments import make_parent
    from mmssl.visualization.report import report_page
    from mmssl.visualization.runs import Run
    from mmssl.visualization.series import duration

    out = Path(args.out) if args.out else Path(args.work_dir) / 'report.html'
    if out.is_dir():
        raise IsADirectoryError(f'--out {out} is a directory; name a file in it')
    record = Run(args.work_dir)
    if not record.curves and not record.tests:
        raise ValueError(
            f'{args.work_dir} has no logged values: the run ended before its first line of log, or its '
            'vis_backends '
            "have no dict(type='LocalVisBackend')"
        )
    base, lines = _difference(record, args.base)
    make_parent(out)
    write_text(out, report_page(record, lines, base, __version__))
    time = f' in {duration(record.seconds)}' if record.seconds else ''
    tests = f', {len(record.tests)} tests' if record.tests else ''
    print(f'{out}: {len(record.curves)} curves, {record.last_iteration:,} iterations{time}{tests}')


def _difference(record: 'Run', base: str | None) -> tuple[str, list]:
    """Return the config to compare with, '' if there is none, and the lines of the difference."""
    from mmssl.commands.print_config import difference
    from mmssl.config.load import load_config
    from mmssl.config.paths import config_root

    settings = record.settings()
    if base is None:
        same_name = [
            path
            for path in config_root().rglob('*.py')
            if path.stem == record.config_name and '_base_' not in path.parts
        ]
        if len(same_name) == 1:
            base = same_name[0].relative_to(config_root()).as_posix()
    if base is None or not settings:
        return '', []
    return base, difference(load_config(base).to_dict(), settings)
