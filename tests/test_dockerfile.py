"""The Dockerfile: what it copies and installs exists, and what it does not copy stays out of the image."""

import configparser
import re

import pytest

from mmssl.commands.table import COMMANDS


@pytest.fixture(scope='module')
def instructions(repo_root):
    """(instruction, its words) of every line, continuations joined."""
    text = (repo_root / 'Dockerfile').read_text().replace('\\\n', ' ')
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith('#')]
    return [(name, rest.split()) for name, _, rest in (line.partition(' ') for line in lines)]


def words_of(instructions, name):
    return [words for instruction, words in instructions if instruction == name]


def test_paths_exist_and_reach_the_builder(repo_root, instructions):
    copied = [source for *sources, _ in words_of(instructions, 'COPY') for source in sources]
    assert {'mmssl', 'configs', 'tools', 'setup.cfg', 'constraints.txt'} <= set(copied)
    ignored = (repo_root / '.dockerignore').read_text().split('\n')
    for source in copied:
        assert (repo_root / source).exists(), f'{source} is copied and does not exist'
        assert f'!{source}' in ignored, f'{source} is copied and .dockerignore leaves it out'
    kept = {line[1:] for line in ignored if line.startswith('!')}
    assert ignored[1] == '*' and kept == set(copied), '.dockerignore keeps what nothing copies'


def test_links_of_the_package_lead_to_what_is_copied(repo_root, instructions):
    copied = {source for *sources, _ in words_of(instructions, 'COPY') for source in sources}
    for link in (repo_root / 'mmssl/.mim').iterdir():
        assert link.resolve().relative_to(repo_root).as_posix() in copied


def test_extras_exist(repo_root, instructions):
    config = configparser.ConfigParser()
    config.read(repo_root / 'setup.cfg')
    installed = re.findall(r"'\.\[([\w,]+)\]'", ' '.join(map(' '.join, words_of(instructions, 'RUN'))))
    assert len(installed) == 1
    assert set(installed[0].split(',')) <= set(config['options.extras_require'])


def test_arguments_are_used_after_the_from_that_resets_them(instructions):
    names = [name for name, _ in instructions]
    assert names[0] == 'ARG' and names[1] == 'FROM'
    declared = [words[0].partition('=') for words in words_of(instructions, 'ARG')]
    assert [(name, default) for name, _, default in declared] == [('PYTHON', '3.11'), ('TORCH', 'cpu')]
    after = next(index for index, (name, words) in enumerate(instructions) if words[:1] == ['TORCH=cpu'])
    used = [index for index, (_, words) in enumerate(instructions) if '${TORCH}' in ' '.join(words)]
    assert used and min(used) > after > 1


def test_commands_of_the_header_exist(repo_root):
    text = (repo_root / 'Dockerfile').read_text()
    commands = re.findall(r'^#   docker run .* mmssl (\S+)', text, re.M)
    assert commands and set(commands) <= set(COMMANDS)
