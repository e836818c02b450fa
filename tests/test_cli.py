"""The command line as a person types it."""

import re
import subprocess
import sys
import time
import types

import pytest

from mmssl import __version__
from mmssl.cli import COMMANDS, main


def test_overview_names_every_command_and_imports_no_torch(run_cli):
    started = time.perf_counter()
    done = run_cli('--help')
    took = time.perf_counter() - started
    assert done.returncode == 0, done.stderr
    assert re.findall(r'^    ([a-z-]+)(?:\s|$)', done.stdout, re.MULTILINE) == list(COMMANDS)
    # torch alone takes several seconds; generous, because the machine may be busy
    assert took < 2


def test_help_of_everything_leaves_torch_and_the_hosts_alone(repo_root):
    script = (
        'import contextlib, io, sys\n'
        'from mmssl import cli\n'
        'for name in cli.COMMANDS:\n'
        '    out = io.StringIO()\n'
        '    try:\n'
        '        with contextlib.redirect_stdout(out): cli.main([name, "--help"])\n'
        '    except SystemExit as end:\n'
        '        assert end.code == 0, (name, end.code)\n'
        '    assert out.getvalue().startswith(f"usage: mmssl {name}"), (name, out.getvalue())\n'
        'heavy = {"torch", "torchvision", "mmengine", "mmcv", "mmpretrain", "mmdet", "mmseg"} & '
        'set(sys.modules)\n'
        'assert not heavy, heavy\n'
    )
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, cwd=repo_root)
    assert done.returncode == 0, done.stderr


def test_import_is_light(repo_root):
    script = (
        'import sys, time; started = time.perf_counter(); import mmssl; took = time.perf_counter() - '
        'started; '
        'print(took, "torch" in sys.modules, "numpy" in sys.modules)'
    )
    runs = [
        subprocess.run(
            [sys.executable, '-c', script], capture_output=True, text=True, cwd=repo_root, check=True
        ).stdout.split()
        for _ in range(3)
    ]
    assert all(run[1:] == ['False', 'False'] for run in runs)
    assert min(float(run[0]) for run in runs) < 0.2


def test_no_command_shows_the_overview_and_fails(run_cli):
    done = run_cli()
    assert done.returncode == 2
    assert 'COMMAND' in done.stdout


def test_version(run_cli):
    done = run_cli('--version')
    assert (done.returncode, done.stdout.strip()) == (0, f'mmssl {__version__}')


@pytest.mark.parametrize(
    ('typed', 'near'), [('trian', 'train'), ('docter', 'doctor'), ('lst', 'list'), ('demo_data', 'demo-data')]
)
def test_unknown_command_suggests_the_nearest(run_cli, typed, near):
    done = run_cli(typed)
    assert done.returncode == 2
    assert done.stderr.strip() == f'mmssl: error: no command {typed!r}; did you mean {near!r}?'


def test_unknown_command_without_a_near_one_lists_all(run_cli):
    done = run_cli('qqqqqq')
    assert done.returncode == 2
    assert all(name in done.stderr for name in COMMANDS)
    assert 'did you mean' not in done.stderr


def raising(error):
    """A command that raises ``error``."""
    module = types.ModuleType('mmssl.commands.raising')

    def run(args):
        raise error

    module.HELP, module.add_arguments, module.run = 'fails', lambda parser: None, run
    return module


@pytest.mark.parametrize(
    'error', [ValueError('mask_ratio is 2'), KeyError('no key mask_ration'), FileNotFoundError('no a.py')]
)
def test_bad_input_is_one_line_and_the_traceback_on_request(monkeypatch, capsys, error):
    monkeypatch.setitem(sys.modules, 'mmssl.commands.raising', raising(error))
    monkeypatch.setitem(COMMANDS, 'raising', 'mmssl.commands.raising')
    monkeypatch.delenv('MMSSL_DEBUG', raising=False)
    assert main(['raising']) == 1
    assert capsys.readouterr().err.splitlines()[0] == f'mmssl raising: error: {error.args[0]}'
    monkeypatch.setenv('MMSSL_DEBUG', '1')
    with pytest.raises(type(error)):
        main(['raising'])


def test_fault_of_ours_keeps_its_traceback(monkeypatch):
    monkeypatch.setitem(sys.modules, 'mmssl.commands.raising', raising(AssertionError('a bug')))
    monkeypatch.setitem(COMMANDS, 'raising', 'mmssl.commands.raising')
    with pytest.raises(AssertionError, match='a bug'):
        main(['raising'])


def test_a_reader_that_leaves_gets_no_traceback(repo_root):
    """As `mmssl --help | head -1`."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'mmssl.cli', '--help'],
        cwd=repo_root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == '' and process.wait(30) == 0
