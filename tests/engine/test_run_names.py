"""Runs of one process that start in the same second: each has its own folder, logger and scope."""

import time
from unittest import mock

from mmengine.config import Config
from torch import nn

from mmssl.engine.runner import Runner


def runner(work_dir, scope):
    return Runner(
        nn.Linear(1, 1),
        str(work_dir),
        cfg=Config(dict(model=dict(type='Linear'))),
        default_scope=scope,
        experiment_name='run',
        launcher='none',
        log_level='ERROR',
        default_hooks={},
    )


def test_two_runs_of_one_second_share_nothing(tmp_path):
    now = time.time()
    with mock.patch('time.time', lambda: now):
        first, second = runner(tmp_path / 'a', 'mmdet'), runner(tmp_path / 'b', 'mmseg')
    assert second.timestamp == f'{first.timestamp}_2'
    assert first.logger is not second.logger and first.visualizer is not second.visualizer
    assert second.default_scope.scope_name == 'mmseg'
    second.visualizer.add_scalar('loss', 1.0)
    assert list((tmp_path / 'b').rglob('*.json')) and not list((tmp_path / 'a').rglob('*.json'))
