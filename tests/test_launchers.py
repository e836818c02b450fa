"""tools/dist_*.sh and slurm_*.sh: what they run, with which arguments, from paths with spaces."""

import os
import shutil
import subprocess
import sys

import pytest

# one write a line, so that the lines of two processes do not mix
ECHO = (
    'import os, sys\n'
    'text = " | ".join([os.environ.get("RANK", "-"), os.environ.get("WORLD_SIZE", "-"), *sys.argv[1:]])\n'
    'os.write(1, (text + chr(10)).encode())\n'
)


@pytest.fixture
def tools(repo_root, tmp_path):
    """The launchers in a folder with a space, beside a train.py and test.py that print their arguments."""
    folder = tmp_path / 'my project' / 'tools'
    folder.mkdir(parents=True)
    for script in (repo_root / 'tools').glob('*.sh'):
        shutil.copy(script, folder)
    for name in ('train.py', 'test.py'):
        (folder / name).write_text(ECHO)
    return folder


@pytest.fixture
def fake(tmp_path):
    """A program that prints its arguments, one a line, under the names python and srun."""
    folder = tmp_path / 'bin'
    folder.mkdir()
    for name in ('python', 'srun'):
        (folder / name).write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        (folder / name).chmod(0o755)
    return folder


def launch(script, *arguments, path=None, **env):
    clean = {
        key: value
        for key, value in os.environ.items()
        if key
        not in (
            'NNODES',
            'NODE_RANK',
            'MASTER_ADDR',
            'PORT',
            'PYTHON',
            'GPUS',
            'GPUS_PER_NODE',
            'CPUS_PER_TASK',
            'SRUN_ARGS',
        )
    }
    if path:
        clean['PATH'] = f'{path}{os.pathsep}{clean["PATH"]}'
    return subprocess.run(
        [str(script), *arguments], capture_output=True, text=True, env={**clean, **env}, timeout=120
    )


@pytest.mark.parametrize(
    ('script', 'given'),
    [('dist_train.sh', 1), ('dist_test.sh', 2), ('slurm_train.sh', 2), ('slurm_test.sh', 3)],
)
def test_too_few_arguments_show_the_usage(tools, script, given):
    for count in range(given + 1):
        done = launch(tools / script, *['x'] * count)
        assert done.returncode == 2
        assert done.stderr.startswith('usage: ') and script in done.stderr
        assert done.stdout == ''


def test_dist_train_defaults(tools, fake):
    done = launch(tools / 'dist_train.sh', 'my config.py', '4', path=fake)
    assert done.stdout.splitlines() == [
        '-m',
        'torch.distributed.run',
        '--nnodes=1',
        '--node_rank=0',
        '--master_addr=127.0.0.1',
        '--master_port=29500',
        '--nproc_per_node=4',
        '--max_restarts=0',
        f'{tools}/train.py',
        'my config.py',
        '--launcher',
        'pytorch',
    ]


def test_dist_test_honours_the_environment(tools, fake):
    done = launch(
        tools / 'dist_test.sh',
        'c.py',
        'a b.pth',
        '2',
        '--work-dir',
        'x y',
        path='/nowhere',
        PYTHON=str(fake / 'python'),
        NNODES='3',
        NODE_RANK='2',
        MASTER_ADDR='10.0.0.1',
        PORT='1234',
    )
    assert done.stdout.splitlines() == [
        '-m',
        'torch.distributed.run',
        '--nnodes=3',
        '--node_rank=2',
        '--master_addr=10.0.0.1',
        '--master_port=1234',
        '--nproc_per_node=2',
        f'{tools}/test.py',
        'c.py',
        'a b.pth',
        '--launcher',
        'pytorch',
        '--work-dir',
        'x y',
    ]


def test_dist_train_starts_two_processes(tools):
    done = launch(
        tools / 'dist_train.sh', 'my config.py', '2', '--seed', '1 2', PYTHON=sys.executable, PORT='29613'
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        f'{rank} | 2 | my config.py | --launcher | pytorch | --seed | 1 2' for rank in (0, 1)
    ]


def test_dist_train_fails_with_its_processes(tools):
    (tools / 'train.py').write_text('raise SystemExit(3)\n')
    assert launch(tools / 'dist_train.sh', 'c.py', '1', PYTHON=sys.executable, PORT='29614').returncode != 0


def test_slurm_train_defaults(tools, fake):
    done = launch(tools / 'slurm_train.sh', 'gpu', 'my job', 'my config.py', '--amp', path=fake)
    assert done.stdout.splitlines() == [
        '--partition=gpu',
        '--job-name=my job',
        '--gres=gpu:8',
        '--ntasks=8',
        '--ntasks-per-node=8',
        '--cpus-per-task=5',
        '--kill-on-bad-exit=1',
        'python',
        '-u',
        f'{tools}/train.py',
        'my config.py',
        '--launcher',
        'slurm',
        '--amp',
    ]


def test_slurm_test_honours_the_environment(tools, fake):
    done = launch(
        tools / 'slurm_test.sh',
        'gpu',
        'job',
        'c.py',
        'a b.pth',
        path=fake,
        GPUS='2',
        CPUS_PER_TASK='9',
        PYTHON='/opt/my python',
        SRUN_ARGS='--quotatype=auto --time=1:00',
    )
    assert done.stdout.splitlines() == [
        '--partition=gpu',
        '--job-name=job',
        '--gres=gpu:2',
        '--ntasks=2',
        '--ntasks-per-node=2',
        '--cpus-per-task=9',
        '--kill-on-bad-exit=1',
        '--quotatype=auto',
        '--time=1:00',
        '/opt/my python',
        '-u',
        f'{tools}/test.py',
        'c.py',
        'a b.pth',
        '--launcher',
        'slurm',
    ]
