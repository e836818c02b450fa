"""``mmssl print-config``: a config with everything it inherits, or its difference from another."""

import argparse
import os
import shutil
import sys
from typing import Any, TextIO

from mmssl.commands.arguments import add_cfg_options, add_config

HELP = 'print a config with everything it inherits, or its difference from another config'
COLORS = {'+': '\033[32m', '-': '\033[31m', '~': '\033[33m'}
RESET = '\033[0m'
MIN_WIDTH = 40
MAX_WIDTH = 100
FILE_WIDTH = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument(
        '--diff',
        metavar='BASE',
        help='print only the difference from this config: + added, - removed, ~ changed',
    )
    add_cfg_options(parser, 'CONFIG')


def run(args: argparse.Namespace) -> None:
    """Print the config or the difference.

    Raises:
        FileNotFoundError: There is no such config; the message names the nearest.
        ValueError: A config cannot be read, or an option does not fit.
    """
    from mmssl.config.load import load_config
    from mmssl.config.text import to_python

    settings = load_config(args.config, args.cfg_options).to_dict()
    width = FILE_WIDTH  # fixed, so that redirected text is the same everywhere
    if sys.stdout.isatty():
        width = min(max(shutil.get_terminal_size().columns, MIN_WIDTH), MAX_WIDTH)
    if args.diff is None:
        print(to_python(settings, width), end='')
        return
    lines = difference(load_config(args.diff).to_dict(), settings, width)
    colored = has_colors(sys.stdout)
    for sign, line in lines:
        print(f'{COLORS[sign]}{line}{RESET}' if colored and sign in COLORS else line)
    if not lines:
        print(f'no difference between {args.diff} and {args.config}')


def has_colors(stream: TextIO) -> bool:
    """Return True for a terminal on which the user has not disabled colors (no-color.org)."""
    return stream.isatty() and not os.environ.get('NO_COLOR') and os.environ.get('TERM') != 'dumb'


def difference(old: Any, new: Any, width: int = FILE_WIDTH) -> list[tuple[str, str]]:
    """Return the difference of two configs as (sign, line) pairs.

    The settings that a run reads come first, then the variables that only the files use, such as
    ``train_pipeline``.
    """
    from mmssl.config.check import SETTINGS
    from mmssl.config.text import change_lines, changes

    settings: list[tuple[str, str]] = []
    variables: list[tuple[str, str]] = []
    for change in changes(old, new):
        is_setting = change.path.partition('.')[0] in SETTINGS
        (settings if is_setting else variables).extend(change_lines(change, width))
    if settings and variables:
        settings.append(('', '\nvariables of the files, which a run does not read by name:'))
    return settings + variables
