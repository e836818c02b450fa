"""What a run changes in its config and its work directory."""

import argparse
import logging
import shutil
import warnings

import pytest
import torch

from mmssl.config.load import load_config
from mmssl.engine import launch
from mmssl.engine.work_dir import silent_log_errors, work_dir_transaction, write_traceback


def arguments(**changes):
    settings = dict(data=None, work_dir='run', launcher='none', local_rank=0)
    return argparse.Namespace(**{**settings, **changes})


@pytest.fixture
def cfg(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    monkeypatch.setattr(launch, 'make_missing_demo_data', lambda cfg: None)
    return load_config('smoke/mae.py')


def test_additions_are_reported(cfg, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    cfg.default_hooks = dict(checkpoint=dict(type='CheckpointHook'))
    cfg.custom_hooks = [dict(type='mmssl.SanityHook')]
    added = launch.prepare(cfg, arguments(), 'smoke/mae.py')
    assert added == [
        'pin_memory=False (no GPU)',
        "backend='gloo' (no GPU)",
        'mmssl.CheckpointHook',
        'mmssl.NonFiniteHook',
        'mmssl.BadFilesHook',
    ]
    assert [hook['type'] for hook in cfg.custom_hooks] == [
        'mmssl.SanityHook',
        'mmssl.NonFiniteHook',
        'mmssl.BadFilesHook',
    ]
    assert cfg.default_hooks.checkpoint.type == 'mmssl.CheckpointHook' and cfg.work_dir == 'run'


def test_what_the_config_sets_is_not_an_addition(cfg, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    cfg.default_hooks = dict(checkpoint=dict(type='Mine'))
    cfg.custom_hooks = [dict(type=guard) for guard in launch.GUARDS]
    assert launch.prepare(cfg, arguments(), 'smoke/mae.py') == []


def test_additions_are_in_the_log(warm_cli, with_demo, tmp_path):
    options = ['--cfg-options', 'train_cfg.max_iters=1']
    done = warm_cli('train', 'smoke/mae.py', '--work-dir', 'run', *options, cwd=with_demo(tmp_path))
    assert done.returncode == 0, done.stderr
    (log,) = (tmp_path / 'run').glob('*/*.log')
    assert log.read_text().count('mmssl added: ') == 1 and 'mmssl added' not in done.stdout + done.stderr


class Runner:
    rank = 0

    def __init__(self, started):
        self.started = started


@pytest.mark.parametrize(('started', 'kept'), [(False, False), (True, True)])
def test_files_of_a_run_that_has_not_started_are_removed(tmp_path, started, kept):
    root = tmp_path / 'a/b'
    with pytest.raises(ValueError, match='no step'):  # noqa: SIM117
        with work_dir_transaction(str(root)) as transaction:
            transaction.runner = Runner(started)
            root.mkdir(parents=True)
            (root / 'log.txt').touch()
            raise ValueError('no step')
    assert transaction.started is started
    assert (root / 'log.txt').exists() is kept and (tmp_path / 'a').exists() is kept


def test_older_files_stay(tmp_path):
    (tmp_path / 'old.pth').touch()
    with pytest.raises(ValueError), work_dir_transaction(str(tmp_path)):
        (tmp_path / 'new.log').touch()
        raise ValueError
    assert [path.name for path in tmp_path.iterdir()] == ['old.pth']


def test_errors_of_logs_are_silent_during_a_run_only():
    assert logging.raiseExceptions
    with silent_log_errors():
        assert not logging.raiseExceptions
    assert logging.raiseExceptions


def test_traceback_of_a_rank(tmp_path, monkeypatch):
    monkeypatch.setenv('RANK', '3')
    path = write_traceback(ValueError('odd'), tmp_path)
    assert path.name == 'error_rank3.txt' and 'ValueError: odd' in path.read_text()
    assert write_traceback(ValueError('odd'), tmp_path / 'nowhere') is None


def test_former_names_still_work():
    with pytest.warns(DeprecationWarning, match='use mmssl.config.load.load_config'):
        assert launch.load_config is load_config
    with pytest.raises(AttributeError, match='no_such_name'):
        _ = launch.no_such_name
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert launch.prepare


@pytest.mark.parametrize(
    ('launcher', 'variable', 'makes'),
    [
        ('slurm', 'SLURM_PROCID', {'0': True, '3': False}),
        ('mpi', 'OMPI_COMM_WORLD_RANK', {'0': True, '1': False}),
        ('pytorch', 'RANK', {'0': True, '1': False}),
        ('none', 'SLURM_PROCID', {'3': True}),  # a job step without a launcher is a run of one process
    ],
)
def test_one_rank_makes_the_demo_data(launcher, variable, makes, monkeypatch, tmp_path):
    """The others wait for it, whatever starts them."""
    import mmssl.data.demo

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        launch.time, 'sleep', lambda seconds: (tmp_path / 'data/demo/imagenet').mkdir(parents=True)
    )
    made = []
    monkeypatch.setattr(mmssl.data.demo, 'make_demo_data', made.append)
    for rank, expected in makes.items():
        for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'):
            monkeypatch.setenv(name, '')  # the function sets RANK: without this, nothing would remove it
            monkeypatch.delenv(name)
        monkeypatch.setenv(variable, rank)
        made.clear()
        shutil.rmtree(tmp_path / 'data', ignore_errors=True)
        launch._name_rank(launcher)
        launch.make_missing_demo_data(load_config('smoke/mae.py'))
        assert made == ['data/demo'] * expected


@pytest.mark.parametrize(
    ('launcher', 'backend', 'gpus', 'expected'),
    [
        ('pytorch', 'nccl', True, {'device_id': torch.device('cuda', 3)}),
        ('slurm', 'nccl', True, {'device_id': torch.device('cuda', 1)}),
        ('pytorch', 'gloo', True, {}),
        ('pytorch', 'nccl', False, {}),
        ('mpi', 'nccl', True, {}),
    ],
)
def test_the_process_group_is_bound_to_the_gpu_of_the_rank(launcher, backend, gpus, expected, monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: gpus)
    monkeypatch.setenv('LOCAL_RANK', '3')
    monkeypatch.setenv('SLURM_LOCALID', '1')
    assert launch.device_settings(launcher, backend) == expected
