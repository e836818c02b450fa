"""The commands and their arguments, described for completion scripts. Imports nothing heavy."""

import argparse
import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from mmssl.commands.parser import command_parser
from mmssl.commands.table import COMMANDS, command_module

CONFIG_NAMES = ('config', 'base', 'diff')
FILE_NAMES = ('checkpoint', 'src', 'dst', 'out')
FILE_WORDS = ('FILE', 'PNG', 'PATH', 'IMAGE', 'CHECKPOINT', 'SRC', 'DST')


class Argument(NamedTuple):
    """An argument of a command.

    ``type`` is 'flag', 'config', 'name', 'dir', 'file', 'none' or 'choices'; ``many`` is True if it takes
    several values.
    """

    options: tuple[str, ...]
    type: str
    choices: tuple[str, ...]
    help: str
    metavar: str
    many: bool


class Command(NamedTuple):
    """A command with its line of help and its arguments."""

    help: str
    arguments: list[Argument]

    @property
    def positional(self) -> list[Argument]:
        """The arguments without a dash."""
        return [argument for argument in self.arguments if not argument.options]


def commands() -> dict[str, Command]:
    """Describe all commands, including subcommands such as 'visualize curves'.

    The choices of the first argument of 'visualize' are its subcommands.
    """
    described = {}
    for name in COMMANDS:
        parser = command_parser(name)
        described[name] = Command(command_module(name).HELP, list(_arguments(parser)))
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for choice in action._choices_actions:
                    arguments = list(_arguments(action.choices[choice.dest]))
                    described[f'{name} {choice.dest}'] = Command(choice.help or '', arguments)
    return described


def _arguments(parser: argparse.ArgumentParser) -> Iterator[Argument]:
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        text = action.help or ''
        if '%(' in text:
            text = text % {'default': action.default}
        metavar = action.metavar or action.dest.upper()
        if not isinstance(metavar, str):
            metavar = metavar[0]
        choices = tuple(map(str, action.choices or ()))
        if action.dest == 'family':  # of convert, which lists them in its help: importing them imports torch
            choices = tuple(word for word in re.findall(r'[a-z][a-z0-9-]+', text) if word != 'or')
        many = action.nargs in ('+', '*') or (isinstance(action.nargs, int) and action.nargs > 1)
        value_type = 'choices' if choices else _value_type(action, metavar)
        yield Argument(tuple(action.option_strings), value_type, choices, text, metavar, many)


def _value_type(action: argparse.Action, metavar: str) -> str:
    if action.nargs == 0:
        return 'flag'
    if action.dest in CONFIG_NAMES:
        return 'config'
    if action.dest == 'pattern':
        return 'name'
    if 'DIR' in metavar or action.dest.endswith('_dir'):
        return 'dir'
    if metavar in FILE_WORDS or action.dest in FILE_NAMES:
        return 'file'
    return 'none'


def registered_names() -> list[str]:
    """Return the registered types, read from the source because importing them takes seconds."""
    from mmssl.config.paths import PACKAGE

    names: set[str] = set()
    for path in PACKAGE.rglob('*.py'):
        text = path.read_text(encoding='utf-8')
        if '.mim' not in path.relative_to(PACKAGE).parts and 'register_module' in text:
            names.update(_registered_in(ast.parse(text)))
    return sorted(f'mmssl.{name}' for name in names)


def _registered_in(module: ast.Module) -> Iterator[str]:
    """Yield the names of the classes and functions with a ``register_module`` decorator."""
    for node in ast.walk(module):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            calls = [call for call in node.decorator_list if isinstance(call, ast.Call)]
            if any(getattr(call.func, 'attr', '') == 'register_module' for call in calls):
                yield node.name
