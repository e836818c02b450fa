"""Help and errors of the command line, at the width of a phone and of a large screen."""

import argparse

import pytest

from mmssl import cli
from mmssl.commands.shells import described


def parsers():
    """(name, parser) of every command, of those below a command too."""
    for name in cli.COMMANDS:
        parser = cli.command_parser(name)
        yield name, parser
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                yield from ((f'{name} {choice}', below) for choice, below in action.choices.items())


@pytest.mark.parametrize('columns', [60, 120])
def test_lines_fit(columns, monkeypatch):
    monkeypatch.setenv('COLUMNS', str(columns))
    for name, parser in parsers():
        lines = parser.format_help().splitlines()
        assert max(map(len, lines)) <= columns, (name, max(lines, key=len))
        assert lines[0].startswith(f'usage: mmssl {name}')
    assert max(map(len, cli.overview(columns).splitlines())) <= columns


def test_usage_says_what_is_needed():
    assert cli.command_parser('train').format_usage() == 'usage: mmssl train CONFIG [options]\n'
    assert (
        cli.command_parser('knn').format_usage()
        == 'usage: mmssl knn CONFIG CHECKPOINT --data DIR [options]\n'
    )
    assert cli.command_parser('list').format_usage() == 'usage: mmssl list [PATTERN]\n'
    (curves,) = (parser for name, parser in parsers() if name == 'visualize curves')
    assert curves.format_usage() == 'usage: mmssl visualize curves WORK_DIR ... --out FILE [options]\n'


def test_every_argument_is_explained():
    bare = [
        (name, argument.options or argument.metavar)
        for name, (_, arguments) in described.commands().items()
        for argument in arguments
        if not argument.help and (argument.options or argument.type != 'choices')
    ]
    assert not bare


def test_wrong_words_name_the_nearest(capsys):
    for arguments, words in (
        (['visualize', 'curvs', 'x'], "did you mean 'curves'?"),
        (['train', 'x', '--resumee'], "unrecognized arguments: --resumee; did you mean '--resume'?"),
        (['visualize', 'curves', 'x', '--out', 'y', '--key_s', 'loss'], "did you mean '--keys'?"),
        (['check-data', 'x', '--split', 'vall'], "did you mean 'val'?"),
        (['knn', 'x'], 'required: checkpoint, --data'),
        (['knn', 'x', 'y', '--data', 'z', '--k', 'many'], "invalid int value: 'many'"),
    ):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        error = capsys.readouterr().err.splitlines()
        assert (
            end.value.code == 2 and words in error[0].replace('CHECKPOINT', 'checkpoint') and len(error) == 2
        ), error
        assert error[1].endswith('--help shows the arguments)')


def test_overview_has_its_sections():
    text = cli.overview(80)
    assert all(f'\n{heading}:\n    {name}' in text for name, heading in cli.HEADINGS.items())


def test_help_as_a_command(capsys):
    assert cli.main(['help']) == 0 and capsys.readouterr().out.startswith('usage: mmssl COMMAND')
    with pytest.raises(SystemExit):
        cli.main(['help', 'visualize', 'curves'])
    assert capsys.readouterr().out.startswith('usage: mmssl visualize curves WORK_DIR')
    assert cli.main(['help', 'trian']) == 2 and "did you mean 'train'" in capsys.readouterr().err
