"""The command line: ``mmssl COMMAND ...``. Every file in tools/ is a thin call into the same commands.

A command is a module under ``mmssl/commands`` with ``HELP`` (one line), ``add_arguments(parser)`` and ``run(args) -> int | None``.
Heavy imports (torch, the toolboxes) belong inside ``run``, so that ``mmssl --help`` answers at once.
"""

import argparse
import contextlib
import importlib
import os
import re
import shutil
import sys
import textwrap

from mmssl import __version__
from mmssl.errors import UserError
from mmssl.hints import nearest

# command -> module; in the order in which `mmssl --help` shows them
COMMANDS = {
    'train': 'mmssl.commands.train',
    'test': 'mmssl.commands.test',
    'knn': 'mmssl.commands.knn',
    'linear': 'mmssl.commands.linear',
    'attention': 'mmssl.commands.attention',
    'reconstruct': 'mmssl.commands.reconstruct',
    'embedding': 'mmssl.commands.embedding',
    'visualize': 'mmssl.commands.visualize',
    'segment': 'mmssl.commands.segment',
    'annotate': 'mmssl.commands.annotate',
    'demo': 'mmssl.commands.demo',
    'tokenizer': 'mmssl.commands.tokenizer',
    'convert': 'mmssl.commands.convert',
    'export': 'mmssl.commands.export',
    'list': 'mmssl.commands.list',
    'print-config': 'mmssl.commands.print_config',
    'check-data': 'mmssl.commands.check_data',
    'report': 'mmssl.commands.report',
    'demo-data': 'mmssl.commands.demo_data',
    'doctor': 'mmssl.commands.doctor',
    'completion': 'mmssl.commands.completion',
}
# commands that run a network; their matrix products on the CPU take the faster of torch's two libraries
COMPUTING = {
    'train',
    'test',
    'knn',
    'linear',
    'attention',
    'reconstruct',
    'embedding',
    'segment',
    'annotate',
    'demo',
    'tokenizer',
}
MOST_COLUMNS = 110
# the headings of `mmssl --help`, each before its first command
HEADINGS = {
    'train': 'train and measure',
    'attention': 'look',
    'segment': 'prompt',
    'tokenizer': 'weights',
    'list': 'configs, data, runs',
}

# what a command raises for bad input or a run that cannot go on; anything else is a fault of ours and keeps
# its traceback
USER_ERRORS = (UserError, ValueError, TypeError, KeyError, OSError, ImportError)


class HelpFormatter(argparse.HelpFormatter):
    """argparse's, no wider than a person reads, with what has to be given first and the options in one word."""

    def __init__(self, prog: str):
        width = min(shutil.get_terminal_size().columns, MOST_COLUMNS) - 2
        super().__init__(prog, max_help_position=28 if width > 80 else 22, width=width)

    def _format_usage(self, usage, actions, groups, prefix) -> str:
        if usage is not None:
            return super()._format_usage(usage, actions, groups, prefix)
        words = [self._values(action) for action in actions if not action.option_strings]
        words += [
            f'{action.option_strings[-1]} {self._values(action)}'
            for action in actions
            if action.option_strings and action.required
        ]
        words += ['[options]'] * any(
            action.option_strings and not action.required and action.dest != 'help' for action in actions
        )
        words = [word for word in words if word]
        begin = f'{"usage: " if prefix is None else prefix}{self._prog} '
        nothing = chr(160)  # a word is not broken
        lines = textwrap.wrap(
            ' '.join(word.replace(' ', nothing) for word in words),
            self._width,
            initial_indent=begin,
            subsequent_indent=' ' * min(len(begin), 24),
            break_on_hyphens=False,
            break_long_words=False,
        )
        return '\n'.join(lines or [begin.rstrip()]).replace(nothing, ' ') + '\n\n'

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return self._values(action)
        return ', '.join(action.option_strings) + (f' {self._values(action)}' if action.nargs != 0 else '')

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(' '.join(text.split()), width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return textwrap.fill(
            ' '.join(text.split()),
            width,
            initial_indent=indent,
            subsequent_indent=indent,
            break_on_hyphens=False,
        )

    def _values(self, action: argparse.Action) -> str:
        """What stands for the value of an argument."""
        if isinstance(action.metavar, tuple):
            return ' '.join(action.metavar)
        word = action.metavar or (
            '{' + ','.join(map(str, action.choices)) + '}' if action.choices else action.dest.upper()
        )
        word += ' ...' if action.nargs in ('+', '*', argparse.PARSER) else ''
        return f'[{word}]' if action.nargs in ('?', '*') else word


class CommandParser(argparse.ArgumentParser):
    """argparse's, with wrong arguments told in one line that names the nearest right one."""

    def __init__(self, *args, formatter_class=HelpFormatter, **kwargs):
        super().__init__(*args, **dict(kwargs, formatter_class=formatter_class))

    def error(self, message: str):
        """End with status 2."""
        self.exit(
            2,
            f'{self.prog}: error: {message}{self._near(message)}\n({self.prog} --help shows the arguments)\n',
        )

    def _near(self, message: str) -> str:
        choice = re.search(r"invalid choice: '?(.+?)'? \(choose from (.*)\)", message)
        unknown = re.match(r'unrecognized arguments: (--[^\s=]+)', message)
        if choice:
            return nearest(choice.group(1), re.findall(r"[^\s',]+", choice.group(2)))
        return nearest(unknown.group(1), self.option_names()) if unknown else ''

    def option_names(self) -> list[str]:
        """Those that begin with two dashes, of the parsers below too."""
        names = [name for name in self._option_string_actions if name.startswith('--')]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                names += [name for parser in action.choices.values() for name in parser.option_names()]
        return names


def command_parser(name: str) -> CommandParser:
    """The parser of a command; imports nothing heavy."""
    module = importlib.import_module(COMMANDS[name])
    parser = CommandParser(prog=f'mmssl {name}', description=getattr(module, 'DESCRIPTION', module.HELP))
    module.add_arguments(parser)
    return parser


def main(argv: list[str] | None = None, command: str | None = None) -> int:
    """Run one command.

    Args:
        argv: arguments after the program's name; ``sys.argv[1:]`` when None.
        command: name of the command, for tools/*.py that are one command; None reads it from ``argv``.

    Returns:
        the exit status: 0 done, 1 the command failed, 2 the arguments are wrong.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if command is None:
        if argv and not argv[0].startswith('-'):
            command, argv = argv[0], argv[1:]
            if command == 'help':  # as `git help COMMAND`
                command, argv = (argv[0], [*argv[1:], '--help']) if argv else ('', ['--help'])
            if not command:
                return _overview(argv)
        else:
            return _overview(argv)
    if command not in COMMANDS:
        print(
            f'mmssl: error: no command {command!r}{nearest(command, COMMANDS) or "; one of " + ", ".join(COMMANDS)}',
            file=sys.stderr,
        )
        return 2
    module = importlib.import_module(COMMANDS[command])
    args = command_parser(command).parse_args(argv)
    try:
        with _fast_products(command):
            return int(module.run(args) or 0)
    except Exception as error:
        known = isinstance(error, USER_ERRORS)
        if os.environ.get('MMSSL_DEBUG') or not known:
            raise
        message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        if isinstance(error, ModuleNotFoundError) and 'install' not in message:
            message += '; `mmssl doctor` says what is missing and how to get it'
        print(f'mmssl {command}: error: {message}\n(MMSSL_DEBUG=1 shows the traceback)', file=sys.stderr)
        return 1


def _fast_products(command: str) -> contextlib.AbstractContextManager:
    if command not in COMPUTING:
        return contextlib.nullcontext()
    from mmssl.ops.fast.linear import enabled

    return enabled()


def _overview(argv: list[str]) -> int:
    parser = CommandParser(prog='mmssl', usage='mmssl COMMAND ...', add_help=False)
    parser.add_argument('-h', '--help', action='store_true')
    parser.add_argument('--version', action='version', version=f'mmssl {__version__}')
    args = parser.parse_args(argv)
    print(overview(min(shutil.get_terminal_size().columns, MOST_COLUMNS)))
    return 0 if args.help else 2


def overview(width: int) -> str:
    """What ``mmssl --help`` prints, ``width`` columns wide."""

    def lines(text: str, first: str = '', rest: str = '') -> str:
        return textwrap.fill(
            text, width, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False
        )

    column = 6 + max(map(len, COMMANDS))
    parts = [
        'usage: mmssl COMMAND ...',
        '',
        lines('Self-supervised pre-training, detection, segmentation and prompting on OpenMMLab.'),
    ]
    for name, module in COMMANDS.items():
        if name in HEADINGS:
            parts += ['', f'{HEADINGS[name]}:']
        parts.append(lines(importlib.import_module(module).HELP, f'    {name}'.ljust(column), ' ' * column))
    parts += [
        '',
        lines(
            'mmssl COMMAND --help shows the arguments of a command, mmssl --version the version. With MMSSL_DEBUG=1 an error '
            'keeps its traceback. `mmssl completion bash` (or zsh, fish) prints what completes commands, options and configs.'
        ),
    ]
    return '\n'.join(parts)


if __name__ == '__main__':
    sys.exit(main())
