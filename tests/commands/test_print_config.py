"""``mmssl print-config``: the text gives the config again, and differences are whole and readable."""

import pytest

from mmssl.cli import main
from mmssl.commands import print_config as command
from mmssl.config.load import load_config
from mmssl.config.text import MISSING, Change, changes, to_python

CONFIGS = ('smoke/mae.py', 'smoke/rfcn.py', 'smoke/gcn.py', 'smoke/sam.py')


def values_of(text):
    names = {}
    exec(
        compile(text, 'printed', 'exec'),
        {'__builtins__': {'dict': dict, 'float': float, 'set': set, 'range': range}},
        names,
    )
    return names


@pytest.mark.parametrize('width', [40, 80, 120])
def test_printed_values_are_the_same_again(width):
    settings = dict(
        a=1,
        b=[0.1, -2e-9, float('inf')],
        c=(1,),
        d=(),
        e={'k.l': None, 3: True, 'class': b'x'},
        f="it's \n 'two'",
        g=set(),
        h=[dict(type='A' * 30, x=(1, 2)), dict(type='B', y=[[1, 2, 3]] * 9)],
        i=[],
        j={'x'},
        k=dict(long=list(range(60))),
        m={},
        n=({'a b': ['c' * 50, 'd' * 50]},),
    )
    text = to_python(settings, width)
    again = values_of(text)
    assert again == settings
    assert all(type(again[name]) is type(settings[name]) for name in settings)
    if width >= 80:
        assert max(map(len, text.splitlines())) <= width


def test_classes_become_their_import_path():
    assert values_of(to_python(dict(type=Change, run=main))) == dict(
        type='mmssl.config.text.Change', run='mmssl.cli.main'
    )


@pytest.mark.parametrize('name', CONFIGS)
def test_whole_config_is_valid_python(name, capsys):
    assert main(['print-config', name]) == 0
    out = capsys.readouterr().out
    assert values_of(out) == load_config(name).to_dict()
    assert max(map(len, out.splitlines())) <= 80


def test_changes_by_path():
    old = dict(
        a=1,
        b=dict(c=2, d=[1, 2]),
        gone=(1,),
        pipe=[dict(type='Load'), dict(type='Flip', prob=0.5), dict(type='Pack')],
    )
    new = dict(
        a=1.0,
        b=dict(c=3, d=(1, 2)),
        pipe=[dict(type='Load'), dict(type='Crop'), dict(type='Flip', prob=0.2)],
        more=True,
    )
    assert list(changes(old, new)) == [
        Change('b.c', 2, 3),
        Change('b.d', [1, 2], (1, 2)),
        Change('gone', (1,), MISSING),
        Change('pipe.1', MISSING, dict(type='Crop')),
        Change('pipe.2.prob', 0.5, 0.2),
        Change('pipe.2', dict(type='Pack'), MISSING),
        Change('more', MISSING, True),
    ]
    assert not list(changes(old, old))


def test_difference_as_printed(tmp_path, capsys):
    (tmp_path / 'base.py').write_text("model = dict(type='M', depth=18, old=[1])\nlr = 1\n")
    (tmp_path / 'child.py').write_text(
        "_base_ = 'base.py'\nmodel = dict(depth=50, old=None, names=['a' * 20] * 4)\n"
    )
    names = [str(tmp_path / name) for name in ('child.py', 'base.py')]
    assert (
        main(['print-config', names[0], '--diff', names[1], '--cfg-options', 'lr=2', 'model.extra.deep=3'])
        == 0
    )
    assert (
        capsys.readouterr().out
        == f"""\
~ model.depth: 18 -> 50
~ model.old: [1] -> None
+ model.names = [
      '{'a' * 20}', '{'a' * 20}', '{'a' * 20}',
      '{'a' * 20}'
  ]
+ model.extra = dict(deep=3)

variables of the files, which a run does not read by name:
~ lr: 1 -> 2
"""
    )
    assert main(['print-config', names[1], '--diff', names[1]]) == 0
    assert capsys.readouterr().out == f'no difference between {names[1]} and {names[1]}\n'


class Terminal:
    def isatty(self):
        return True


def test_colours_are_for_terminals(monkeypatch, capsys):
    monkeypatch.delenv('NO_COLOR', raising=False)
    monkeypatch.setenv('TERM', 'xterm')
    assert command.has_colors(Terminal())
    monkeypatch.setenv('NO_COLOR', '1')
    assert not command.has_colors(Terminal())
    main(['print-config', 'smoke/rfcn-deform.py', '--diff', 'smoke/rfcn.py'])
    out = capsys.readouterr().out
    assert '\033' not in out and '+ model.roi_head.bbox_head.deformable = True\n' in out


@pytest.mark.parametrize('arguments', [['smoke/rfcm.py'], ['smoke/gcn.py', '--diff', 'smoke/rfcm.py']])
def test_typo_suggests_the_nearest(arguments, capsys):
    assert main(['print-config', *arguments]) == 1
    assert (
        capsys.readouterr()
        .err.splitlines()[0]
        .endswith("config smoke/rfcm.py does not exist; did you mean 'smoke/rfcn.py'?")
    )
