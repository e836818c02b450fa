"""``mmssl print-config``: a config with all that it inherits, or what it changes."""

import argparse

HELP = 'print a config with all that it inherits, or what differs from another one'
COLOURS = {'+': '\033[32m', '-': '\033[31m', '~': '\033[33m'}
WIDTHS = 40, 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument('config', help='path of a config, or its name below configs/')
    parser.add_argument(
        '--diff', metavar='BASE', help='only what differs from this config: + added, - removed, ~ changed'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override settings of CONFIG'
    )


def run(args: argparse.Namespace) -> None:
    """Print.

    Raises:
        FileNotFoundError: no such config; names the nearest.
        ValueError: a config that cannot be read, or an option that does not fit.
    """
    import shutil
    import sys

    from mmssl.config.text import change_lines, to_python
    from mmssl.engine import launch

    cfg = launch.load_config(args.config, args.cfg_options).to_dict()
    # as narrow as the terminal, but the same everywhere where the text goes into a file
    width = min(max(shutil.get_terminal_size().columns, WIDTHS[0]), WIDTHS[1]) if sys.stdout.isatty() else 80
    if args.diff is None:
        print(to_python(cfg, width), end='')
        return
    lines = difference(launch.load_config(args.diff).to_dict(), cfg, change_lines, width)
    colours = coloured(sys.stdout)
    for sign, line in lines:
        print(f'{COLOURS[sign]}{line}\033[0m' if colours and sign in COLOURS else line)
    if not lines:
        print(f'no difference between {args.diff} and {args.config}')


def coloured(stream) -> bool:
    """Whether a stream is a terminal that wants colours (no-color.org)."""
    import os

    return stream.isatty() and not os.environ.get('NO_COLOR') and os.environ.get('TERM') != 'dumb'


def difference(old: dict, new: dict, change_lines, width: int) -> list[tuple[str, str]]:
    """(sign, line) pairs: what a run reads first, then variables that only the file itself uses, as ``train_pipeline``."""
    from mmssl.config.text import changes
    from mmssl.engine import launch

    parts: list[list[tuple[str, str]]] = [[], []]
    for change in changes(old, new):
        parts[change.path.partition('.')[0] not in launch.SETTINGS] += change_lines(change, width)
    if all(parts):
        parts[1].insert(0, ('', '\nvariables of the files, which a run does not read by name:'))
    return parts[0] + parts[1]
