"""The command line: ``mmssl COMMAND ...``. Every file in tools/ is a thin call into the same commands."""

import argparse
import contextlib
import importlib
import os
import sys
import textwrap
import warnings

from mmssl import __version__
from mmssl.commands.parser import CommandParser, command_parser, terminal_width
from mmssl.commands.table import COMMANDS, COMPUTING, HEADINGS, command_module
from mmssl.errors import UserError
from mmssl.hints import nearest

__all__ = ['COMMANDS', 'HEADINGS', 'command_parser', 'main', 'overview']

# raised for bad input or for a run that cannot continue; anything else is a bug and keeps its traceback
USER_ERRORS = (UserError, ValueError, TypeError, KeyError, OSError, ImportError)


def main(argv: list[str] | None = None, command: str | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; ``sys.argv[1:]`` if None.
        command: Name of the command, for programs that are a single command (tools/train.py); None reads it
            from ``argv``.

    Returns:
        The exit status: 0 for success, 1 if the command failed, 2 for wrong arguments.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if command is None:
        command, argv = _split_command(argv)
    if command is None:
        return _print_overview(argv)
    if command not in COMMANDS:
        hint = nearest(command, COMMANDS) or f'; one of {", ".join(COMMANDS)}'
        print(f'mmssl: error: no command {command!r}{hint}', file=sys.stderr)
        return 2
    args = command_parser(command).parse_args(argv)
    # printed by mmdet, and wrong: pycocotools computes the metrics
    warnings.filterwarnings('ignore', 'faster_coco_eval is not installed')
    try:
        with _fast_products(command):
            return int(command_module(command).run(args) or 0)
    except USER_ERRORS as error:
        if os.environ.get('MMSSL_DEBUG'):
            raise
        print(f'mmssl {command}: error: {_message(error)}', file=sys.stderr)
        print('(MMSSL_DEBUG=1 shows the traceback)', file=sys.stderr)
        return 1


def _split_command(argv: list[str]) -> tuple[str | None, list[str]]:
    """Split the arguments into the command (None for the overview) and the rest."""
    if not argv or argv[0].startswith('-'):
        return None, argv
    command, *rest = argv
    if command != 'help':  # `mmssl help COMMAND`, like git
        return command, rest
    if not rest:
        return None, ['--help']
    return rest[0], [*rest[1:], '--help']


def _fast_products(command: str) -> contextlib.AbstractContextManager:
    """Return the context of the faster matrix products, for commands that run a network."""
    if command not in COMPUTING:
        return contextlib.nullcontext()
    return importlib.import_module('mmssl.ops.fast.linear').enabled()


def _message(error: Exception) -> str:
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if isinstance(error, ModuleNotFoundError) and 'install' not in message:
        message += '; `mmssl doctor` says what is missing and how to get it'
    return message


def _print_overview(argv: list[str]) -> int:
    parser = CommandParser(prog='mmssl', usage='mmssl COMMAND ...', add_help=False)
    parser.add_argument('-h', '--help', action='store_true', help=argparse.SUPPRESS)
    parser.add_argument('--version', action='version', version=f'mmssl {__version__}')
    args = parser.parse_args(argv)
    try:
        print(overview(terminal_width()), flush=True)
    except BrokenPipeError:  # `mmssl --help | head`; Python would complain once more while it ends
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0 if args.help else 2


def overview(width: int) -> str:
    """Return the text of ``mmssl --help``, ``width`` columns wide."""

    def fill(text: str, first: str = '', following: str = '') -> str:
        return textwrap.fill(
            text, width, initial_indent=first, subsequent_indent=following, break_on_hyphens=False
        )

    column = 6 + max(map(len, COMMANDS))
    parts = [
        'usage: mmssl COMMAND ...',
        '',
        fill('Self-supervised pre-training, detection, segmentation and prompting on OpenMMLab.'),
    ]
    for name in COMMANDS:
        if name in HEADINGS:
            parts += ['', f'{HEADINGS[name]}:']
        parts.append(fill(command_module(name).HELP, f'    {name}'.ljust(column), ' ' * column))
    parts += [
        '',
        fill('`mmssl COMMAND --help` shows the arguments of a command, `mmssl --version` the version.'),
        fill('`mmssl completion bash` (or zsh, fish) prints a script that completes commands and options.'),
        fill('MMSSL_DEBUG=1 shows the traceback of an error.'),
    ]
    return '\n'.join(parts)


if __name__ == '__main__':
    sys.exit(main())
