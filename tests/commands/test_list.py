"""``mmssl list``: configs, scopes read without running them, metafiles, patterns."""

import argparse

import pytest

from mmssl.commands import list as command
from mmssl.commands.shells import described
from mmssl.config import catalogue, paths


@pytest.fixture
def tree(tmp_path):
    """A root with two methods, one of them with a metafile, and a base that says the host."""
    configs = tmp_path / 'configs'
    (configs / '_base_').mkdir(parents=True)
    (configs / 'mae' / 'benchmarks').mkdir(parents=True)
    (configs / 'other').mkdir()
    (configs / '_base_' / 'runtime.py').write_text("default_scope = 'mmpretrain'\n")
    (configs / 'mae' / 'mae_tiny.py').write_text("_base_ = ['../_base_/runtime.py']\n")
    (configs / 'mae' / 'benchmarks' / 'probe.py').write_text(
        "_base_ = '../mae_tiny.py'\nx = [i for i in range(3)]\n"
    )
    (configs / 'other' / 'own.py').write_text("_base_ = ['../_base_/runtime.py']\ndefault_scope = 'mmdet'\n")
    (configs / 'other' / 'none.py').write_text("_base_ = ['mmseg::x/y.py']\n")
    (configs / 'mae' / 'metafile.yml').write_text(
        'Collections:\n  - Name: MAE\n    Paper: {Title: Masked Autoencoders, URL: u}\n'
        'Models:\n  - {Name: mae_tiny, In Collection: MAE, Config: configs/mae/mae_tiny.py, Metadata: '
        '{Parameters: 1250000}}\n'
    )
    return tmp_path


def test_configs_have_method_host_and_paper(tree):
    assert command.find_configs(tree) == [
        ['mae/benchmarks/probe.py', 'mae', '', 'mmpretrain', ''],
        ['mae/mae_tiny.py', 'MAE', '1.25 M', 'mmpretrain', 'Masked Autoencoders'],
        ['other/none.py', 'other', '', '', ''],
        ['other/own.py', 'other', '', 'mmdet', ''],
    ]


def test_scope_of_a_config_that_includes_itself_ends(tmp_path):
    (tmp_path / 'loop.py').write_text("_base_ = 'loop.py'\n")
    assert catalogue.read_scope(tmp_path / 'loop.py') is None


def test_broken_metafile_names_the_file(tree):
    broken = tree / 'configs' / 'mae' / 'metafile.yml'
    broken.write_text('Models: [')
    with pytest.raises(ValueError, match='metafile.yml is no valid YAML'):
        command.find_configs(tree)


@pytest.mark.parametrize(
    ('name', 'pattern', 'expected'),
    [
        ('mae/mae_vit-b.py', None, True),
        ('mae/mae_vit-b.py', 'VIT', True),
        ('mae/mae_vit-b.py', 'mae/*', True),
        ('mae/mae_vit-b.py', '*_vit-?.py', True),
        ('mae/mae_vit-b.py', 'vit-?', False),
        ('mae/mae_vit-b.py', 'beit', False),
    ],
)
def test_patterns(name, pattern, expected):
    assert catalogue.matches(name, pattern) is expected


def test_columns_are_aligned():
    assert command.table(['A', 'LONG'], [['xyz', 'b'], ['', 'c']]) == 'A    LONG\nxyz  b\n     c'


def test_columns_fit_the_terminal():
    rows = [['x' * 20, 'b', 'word ' * 10]]
    assert (
        command.table(['A', 'B', 'C'], rows, 50).splitlines()[1]
        == 'x' * 20 + '  b  word word word word wo...'
    )
    assert command.table(['A', 'B', 'C'], rows, 30).splitlines() == ['A' + ' ' * 21 + 'B', 'x' * 20 + '  b']
    assert command.table(['A', 'B', 'C'], rows, 10).splitlines() == ['A', 'x' * 20]
    assert (
        command.table(['A', 'B', 'C'], rows).splitlines()[1] == 'x' * 20 + '  b  ' + ('word ' * 10).rstrip()
    )


def test_configs_below_their_methods(tree):
    assert command.config_table(command.find_configs(tree)[1:], 40).splitlines() == [
        '  CONFIG           PARAMS',
        'MAE [mmpretrain]: Masked Autoencoders',
        '  mae/mae_tiny.py  1.25 M',
        'other',
        '  other/none.py',
        'other [mmdet]',
        '  other/own.py',
    ]


def test_parameters_in_millions():
    assert [command.millions(value) for value in (None, 765_000, 86_600_000, 1_280_000_000)] == [
        '',
        '0.765 M',
        '86.6 M',
        '1,280 M',
    ]


def test_a_host_that_is_missing_is_told():
    assert [command.availability(host) for host in ('', 'argparse', 'mmnone')] == [
        '',
        'argparse',
        'mmnone (not installed)',
    ]


def test_lists_what_the_package_brings(warm_cli, tmp_path):
    done = warm_cli('list', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert 'faster_coco_eval' not in done.stderr
    lines = done.stdout.splitlines()
    assert [line for line in lines if line.startswith('mmssl.MAEViT ')]
    assert max(map(len, lines)) <= 100
    shown = {line.split()[0] for line in lines if '.py ' in line or line.endswith('.py')}
    types = {line.split()[0] for line in lines if line.startswith('mmssl.')}
    assert types <= {
        *described.registered_names(),
        'mmssl.OptimWrapper',
    }  # a shell completes what is listed; the one is mmengine's, taken over
    on_disk = {
        path.relative_to(paths.config_root()).as_posix()
        for path in paths.config_root().rglob('*.py')
        if '_base_' not in path.parts and catalogue.alias_target(path) is None
    }
    assert shown == on_disk


def test_pattern_keeps_only_what_fits(capsys):
    command.run(argparse.Namespace(pattern='mmssl.MAEV*'))
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ['TYPE', 'mmssl.MAEViT']


def test_nothing_fits_suggests_the_nearest():
    with pytest.raises(
        ValueError, match="no config and no type matches 'mmssl.MAEVit2'; did you mean 'mmssl.MAEViT'"
    ):
        command.run(argparse.Namespace(pattern='mmssl.MAEVit2'))
