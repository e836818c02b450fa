"""Notebooks: cells compile, commands are taken by their parsers, no outputs, links lead somewhere.

``python tools/trials/notebooks.py`` runs them, which takes minutes.
"""

import ast
import json
import re
import shlex
from pathlib import Path

import pytest

from mmssl.cli import COMMANDS, command_parser
from mmssl.config.load import find_config

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / 'docs/notebooks'
BOOKS = sorted(path.stem for path in FOLDER.glob('*.ipynb'))


def cells(name, kind):
    content = json.loads((FOLDER / f'{name}.ipynb').read_text(encoding='utf-8'))
    return [cell for cell in content['cells'] if cell['cell_type'] == kind]


def lines(name):
    return [line for cell in cells(name, 'code') for line in ''.join(cell['source']).splitlines()]


def test_there_is_a_notebook_for_each_way_in():
    assert {'pretrain', 'few_label_curve', 'sam_on_own_images', 'label_loop'} <= set(BOOKS)


@pytest.mark.parametrize('name', BOOKS)
def test_cells_compile_and_import_what_exists(name):
    code = '\n'.join(line for line in lines(name) if not line.startswith('!'))
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('mmssl'):
            module = __import__(node.module, fromlist=['_'])
            for alias in node.names:
                assert hasattr(module, alias.name), f'{name}: {node.module} has no {alias.name}'


@pytest.mark.parametrize('name', BOOKS)
def test_commands_are_what_the_parsers_take(name):
    commands = [shlex.split(line[1:]) for line in lines(name) if line.startswith('!')]
    assert commands
    for program, command, *arguments in commands:
        assert program == 'mmssl' and command in COMMANDS
        args = command_parser(command).parse_args(arguments)
        for config in filter(None, (getattr(args, 'config', None), getattr(args, 'backbone_config', None))):
            assert find_config(config).is_file()


@pytest.mark.parametrize('name', BOOKS)
def test_no_outputs_no_machine_and_no_dead_links(name):
    for cell in cells(name, 'code'):
        assert not cell['outputs'] and cell['execution_count'] is None, f'{name}: has outputs'
    text = (FOLDER / f'{name}.ipynb').read_text(encoding='utf-8')
    assert not re.search(r'(?<![\w.])/(home|tmp|root|work|Users)/', text)
    for target in re.findall(r'\]\(([^)\s]+)\)', text):
        if not target.startswith('http'):
            assert (FOLDER / target).exists(), f'{name}: {target} does not exist'
