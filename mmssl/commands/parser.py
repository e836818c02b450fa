"""The argument parser of the commands: readable help, and errors that suggest the nearest right name."""

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterable
from typing import Any

from mmssl.commands.default_models import with_default_model
from mmssl.commands.table import DEFAULT_MODELS, command_module
from mmssl.hints import nearest

MAX_COLUMNS = 110
_NO_BREAK = '\xa0'


def terminal_width() -> int:
    """Return the columns to write in: those of the terminal, but no more than are easy to read."""
    return min(shutil.get_terminal_size().columns, MAX_COLUMNS)


class HelpFormatter(argparse.HelpFormatter):
    """Formatter whose usage line shows the required arguments and sums the others up as ``[options]``."""

    def __init__(self, prog: str):
        width = terminal_width() - 2
        super().__init__(prog, max_help_position=28 if width > 80 else 22, width=width)

    def _format_usage(self, usage, actions, groups, prefix) -> str:
        if usage is not None:
            return super()._format_usage(usage, actions, groups, prefix)
        begin = f'{"usage: " if prefix is None else prefix}{self._prog} '
        words = self._required_words(actions)
        optional = [action for action in actions if action.option_strings and not action.required]
        if any(action.dest != 'help' for action in optional):
            words.append('[options]')
        lines = textwrap.wrap(
            ' '.join(word.replace(' ', _NO_BREAK) for word in words),
            self._width,
            initial_indent=begin,
            subsequent_indent=' ' * min(len(begin), 24),
            break_on_hyphens=False,
            break_long_words=False,
        )
        return '\n'.join(lines or [begin.rstrip()]).replace(_NO_BREAK, ' ') + '\n\n'

    def _required_words(self, actions: Iterable[argparse.Action]) -> list[str]:
        positional = [self._value_name(action) for action in actions if not action.option_strings]
        required = [
            f'{action.option_strings[-1]} {self._value_name(action)}'
            for action in actions
            if action.option_strings and action.required
        ]
        return [word for word in [*positional, *required] if word]

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return self._value_name(action)
        value = '' if action.nargs == 0 else f' {self._value_name(action)}'
        return ', '.join(action.option_strings) + value

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

    @staticmethod
    def _value_name(action: argparse.Action) -> str:
        """Return the name of an argument's value: its metavar, its choices, or its name in capitals."""
        if isinstance(action.metavar, tuple):
            return ' '.join(action.metavar)
        if action.metavar:
            name = action.metavar
        elif action.choices:
            name = '{' + ','.join(map(str, action.choices)) + '}'
        else:
            name = action.dest.upper()
        if action.nargs in ('+', '*', argparse.PARSER):
            name += ' ...'
        return f'[{name}]' if action.nargs in ('?', '*') else name


class CommandParser(argparse.ArgumentParser):
    """Parser that reports a wrong argument in one line, with the nearest right one.

    Args:
        default_model: Model of the package for arguments that name none; None if one must be named.
        **kwargs: Passed on to ``argparse.ArgumentParser``.
    """

    def __init__(self, default_model: str | None = None, **kwargs: Any):
        kwargs.setdefault('formatter_class', HelpFormatter)
        super().__init__(**kwargs)
        self._positionals.title = 'arguments'
        self.default_model = default_model

    def parse_known_args(self, args=None, namespace=None):
        """Parse as argparse does; CONFIG and CHECKPOINT may be left out if there is a default model."""
        if args is not None and self.default_model:
            takes_images = any(action.dest == 'images' for action in self._actions)
            args = with_default_model(args, self.default_model, takes_images)
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        """Print the error and exit with status 2."""
        text = f'{self.prog}: error: {message}{self._suggestion(message)}'
        self.exit(2, f'{text}\n({self.prog} --help shows the arguments)\n')

    def _suggestion(self, message: str) -> str:
        choice = re.search(r"invalid choice: '?(.+?)'? \(choose from (.*)\)", message)
        if choice:
            return nearest(choice.group(1), re.findall(r"[^\s',]+", choice.group(2)))
        unknown = re.match(r'unrecognized arguments: (--[^\s=]+)', message)
        return nearest(unknown.group(1), self.option_names()) if unknown else ''

    def option_names(self) -> list[str]:
        """Return the options that begin with two dashes, including those of subparsers."""
        names = [name for name in self._option_string_actions if name.startswith('--')]
        for parser in subparsers(self).values():
            names += parser.option_names()
        return names


def subparsers(parser: argparse.ArgumentParser) -> dict[str, CommandParser]:
    """Return the subparsers of a parser by name, such as those of ``mmssl visualize``."""
    return {
        name: subparser
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name, subparser in action.choices.items()
    }


def command_parser(name: str) -> CommandParser:
    """Create the parser of a command."""
    module = command_module(name)
    description = getattr(module, 'DESCRIPTION', None) or sentence(module.HELP)
    model = DEFAULT_MODELS.get(name)
    if model:
        description += f' Without CONFIG and CHECKPOINT: {model}, a small model in the package.'
    parser = CommandParser(model, prog=f'mmssl {name}', description=description)
    module.add_arguments(parser)
    return parser


def sentence(text: str) -> str:
    """Return a line of help as a sentence: with a capital letter and a full stop."""
    return f'{text[:1].upper()}{text[1:].rstrip(".")}.'
