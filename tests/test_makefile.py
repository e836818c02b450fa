"""The Makefile's .venv, which is created once, reused, updated and repaired; .ci/run.

A shell script stands in for Python and pip.
"""

import os
import shutil
import subprocess
import time

import pytest

# answers the version check from its file name, makes a venv that holds itself, and logs pip; pip fails while
# `fail` lies beside the log
FAKE = """#!/bin/sh
case "$*" in
    *version_info*) case "$0" in *python3.9) exit 1;; *) exit 0;; esac;;
    --version) echo "Python ($0)";;
    "-m venv .venv") echo venv >> log; mkdir -p .venv/bin; cp "$0" .venv/bin/python;;
    "-m pip "*) echo "$*" >> log; if [ -e fail ]; then exit 1; fi;;
    *) echo "$*" >> log;;
esac
"""

pytestmark = pytest.mark.skipif(shutil.which('make') is None, reason='make is not installed')


@pytest.fixture
def clone(tmp_path, repo_root):
    """A folder with the Makefile, the files it depends on, and the stand-in as two versions of Python."""
    folder = tmp_path / 'clone'
    (folder / 'bin').mkdir(parents=True)
    for name in ('Makefile', 'setup.cfg', 'pyproject.toml', 'constraints.txt'):
        shutil.copy(repo_root / name, folder)
    for name in ('python3.11', 'python3.9'):
        (folder / 'bin' / name).write_text(FAKE)
        (folder / 'bin' / name).chmod(0o755)
    return folder


def make(clone, *arguments, python='bin/python3.11'):
    own = ('MAKE', 'MFLAGS', 'ARGS', 'WORKERS')
    env = {key: value for key, value in os.environ.items() if not key.startswith(own)}
    return subprocess.run(
        ['make', *arguments, f'PYTHON={python}'],
        capture_output=True,
        text=True,
        cwd=clone,
        env=env,
        timeout=60,
    )


def log_of(clone):
    path = clone / 'log'
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return lines


INSTALL = '-m pip install -e .[all,test] -c constraints.txt'


def test_first_target_makes_the_environment_and_the_next_reuses_it(clone):
    assert make(clone, 'lint').returncode == 0
    assert log_of(clone) == ['venv', INSTALL, '-m ruff check .', '-m ruff format --check .', '-m mypy']
    assert make(clone, 'test', 'ARGS=-k mae', 'WORKERS=3').returncode == 0
    assert log_of(clone) == ['-m pytest -n 3 --dist loadfile -k mae']
    assert make(clone, 'demo').returncode == 0
    assert log_of(clone) == ['tools/demo.py']


def test_changed_requirements_are_installed_in_place(clone):
    make(clone, 'install')
    log_of(clone)
    later = time.time() + 5
    os.utime(clone / 'constraints.txt', (later, later))
    (clone / '.venv' / 'mine').touch()
    assert make(clone, 'install').returncode == 0
    assert log_of(clone) == [INSTALL]
    assert (clone / '.venv' / 'mine').exists()


@pytest.mark.parametrize('when', ['first', 'update'])
def test_interrupted_install_is_made_anew(clone, when):
    if when == 'update':
        make(clone, 'install')
        later = time.time() - 5
        os.utime(clone / '.venv' / '.installed', (later, later))
        os.utime(clone / 'setup.cfg')
    (clone / 'fail').touch()
    assert make(clone, 'install').returncode != 0
    (clone / '.venv' / 'half').touch()
    (clone / 'fail').unlink()
    log_of(clone)
    assert make(clone, 'lint').returncode == 0
    assert log_of(clone) == ['venv', INSTALL, '-m ruff check .', '-m ruff format --check .', '-m mypy']
    assert not (clone / '.venv' / 'half').exists()
    assert not (clone / '.venv' / '.installing').exists()


def test_environment_without_a_working_python_is_made_anew(clone):
    make(clone, 'install')
    log_of(clone)
    (clone / '.venv' / 'bin' / 'python').unlink()
    (clone / '.venv' / '.installed').unlink()
    assert make(clone, 'install').returncode == 0
    assert log_of(clone) == ['venv', INSTALL]


def test_python_too_old_is_named(clone):
    done = make(clone, 'install', python='bin/python3.9')
    assert done.returncode != 0
    assert 'PYTHON=bin/python3.9' in done.stderr and '3.10, 3.11 or 3.12' in done.stderr
    assert not (clone / '.venv').exists()


def test_help_needs_no_environment(clone):
    done = make(clone, 'help')
    assert all(
        f'make {target}' in done.stdout
        for target in ('demo', 'test', 'coverage', 'lint', 'docs', 'install', 'clean')
    )
    assert log_of(clone) == []


def test_settings_do_not_reach_the_makes_that_a_program_starts(clone):
    make(clone, 'install')
    log_of(clone)
    (clone / '.venv/bin/python').write_text(
        '#!/bin/sh\necho "$*" >> log; if [ -z "$INNER" ]; then INNER=1 make test; fi\n'
    )
    assert make(clone, 'test', 'ARGS=-rs', 'WORKERS=7').returncode == 0
    assert log_of(clone) == ['-m pytest -n 7 --dist loadfile -rs', '-m pytest -n 2 --dist loadfile']


@pytest.mark.parametrize('shared', [True, False])
def test_ci_lints_tests_and_builds_the_docs_with_the_shared_data(tmp_path, repo_root, shared):
    folder = tmp_path / 'clone'
    (folder / '.ci').mkdir(parents=True)
    shutil.copy(repo_root / '.ci' / 'run', folder / '.ci')
    if shared:
        (tmp_path / 'shared').mkdir()
    program = tmp_path / 'bin' / 'make'
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$1" "$PWD" "${MMSSL_DATA:-none}" "${PIP_FIND_LINKS:-none}"\n')
    program.chmod(0o755)
    env = {key: value for key, value in os.environ.items() if key not in ('MMSSL_DATA', 'PIP_FIND_LINKS')}
    done = subprocess.run(
        [folder / '.ci' / 'run'],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**env, 'PATH': f'{program.parent}{os.pathsep}{env["PATH"]}'},
    )
    expected = f'{tmp_path}/shared/data {tmp_path}/shared/wheels' if shared else 'none none'
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f'{target} {folder} {expected}' for target in ('lint', 'test', 'docs')
    ]
