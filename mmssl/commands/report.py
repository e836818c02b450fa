"""``mmssl report WORK_DIR``: a run as one HTML page."""

import argparse

HELP = 'write a run as one HTML page: curves, metrics, pictures, config, environment'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument(
        'work_dir', metavar='WORK_DIR', help='work directory of a training, resumed or not, or of a test'
    )
    parser.add_argument('--out', metavar='FILE', help='the page; WORK_DIR/report.html by default')
    parser.add_argument(
        '--base',
        metavar='CONFIG',
        help='show what differs from this config; by default the shipped one of the same name',
    )


def run(args: argparse.Namespace) -> None:
    """Write the page.

    Raises:
        FileNotFoundError, NotADirectoryError, ValueError: no work directory of a run, which is named; or no
            such config.
    """
    from pathlib import Path

    from mmssl import __version__
    from mmssl.checkpoint import write_text
    from mmssl.visualization.page import duration, report_page
    from mmssl.visualization.runs import Run

    out = Path(args.out) if args.out else Path(args.work_dir) / 'report.html'
    if out.is_dir():
        raise IsADirectoryError(f'--out {out} is a directory; name a file in it')
    found = Run(args.work_dir)
    if not found.curves and not found.tests:
        raise ValueError(
            f'{args.work_dir} has no logged values: the run ended before its first line of log, or its vis_backends have no '
            "dict(type='LocalVisBackend')"
        )
    base, lines = _difference(found, args.base)
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    write_text(out, report_page(found, lines, base, __version__))
    print(
        f'{out}: {len(found.curves)} curves, {found.last:,} iterations'
        + (f' in {duration(found.seconds)}' if found.seconds else '')
        + (f', {len(found.tests)} tests' if found.tests else '')
    )


def _difference(run, base: str | None) -> tuple[str, list]:
    """The name of the config to compare with and the lines of what differs; '' where there is none."""
    from mmssl.config.paths import config_root
    from mmssl.config.text import change_lines

    settings = run.settings()
    if base is None:
        same = sorted(
            path
            for path in config_root().rglob('*.py')
            if path.stem == run.config_name and '_base_' not in path.parts
        )
        base = same[0].relative_to(config_root()).as_posix() if len(same) == 1 else None
    if base is None or not settings:
        return '', []
    from mmssl.commands.print_config import difference
    from mmssl.engine.launch import load_config

    return base, difference(load_config(base).to_dict(), settings, change_lines, 80)
