"""A stopped rank ends the job within the timeout, by name; a slow one does not."""

import os
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from mmengine.config import Config

from mmssl.engine import launch

PROGRAM = """
import os, signal, sys, time
import torch.distributed as dist
from mmssl.engine.rank_watch import watched_ranks
dist.init_process_group('gloo')
rank = dist.get_rank()
with watched_ranks(4):
    dist.barrier()
    if sys.argv[1] == 'slow' and rank == 1:
        time.sleep(6)
    if sys.argv[1] == f'stop{rank}':
        print('stopping', flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
    dist.barrier()
print('done', flush=True)
"""


def start(case):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    ranks = [
        subprocess.Popen(
            [sys.executable, '-c', PROGRAM, case],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={
                **os.environ,
                'RANK': str(rank),
                'WORLD_SIZE': '2',
                'MASTER_ADDR': '127.0.0.1',
                'MASTER_PORT': str(port),
                'OMP_NUM_THREADS': '1',
                'CUDA_VISIBLE_DEVICES': '',
            },
        )
        for rank in range(2)
    ]
    return ranks


@pytest.mark.processes
@pytest.mark.parametrize('stopped', [0, 1])
def test_a_stopped_rank_is_named(stopped):
    ranks = start(f'stop{stopped}')
    try:
        assert 'stopping' in next(line for line in ranks[stopped].stdout if 'stopping' in line)
        begin = time.monotonic()
        output, _ = ranks[1 - stopped].communicate(timeout=60)
        assert time.monotonic() - begin < 15
        assert ranks[1 - stopped].returncode == 1 and 'done' not in output
        assert f'rank {stopped}' in output and 'env_cfg.dist_cfg.timeout=4' in output, output
        if stopped == 1:
            assert f'(process {ranks[1].pid} on {socket.gethostname()})' in output
    finally:
        for rank in ranks:
            rank.send_signal(signal.SIGKILL)
            rank.wait()


@pytest.mark.processes
def test_a_slow_rank_is_waited_for():
    for rank in start('slow'):
        output, _ = rank.communicate(timeout=60)
        assert rank.returncode == 0 and 'done' in output, output


@pytest.mark.parametrize(('timeout', 'expected'), [(None, 600), (90, 90)])
def test_the_timeout_of_distributed_runs(timeout, expected):
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(backend='gloo'))))
    if timeout is not None:
        cfg.env_cfg.dist_cfg.timeout = timeout
    launch._set_timeout(cfg)
    assert cfg.env_cfg.dist_cfg.timeout == expected
    single = SimpleNamespace(launcher='none')
    assert launch._set_timeout(single) == []


@pytest.mark.parametrize('timeout', [0, -1, True, '600'])
def test_a_timeout_that_is_none_is_refused(timeout):
    cfg = Config(dict(launcher='pytorch', env_cfg=dict(dist_cfg=dict(timeout=timeout))))
    with pytest.raises(ValueError, match=r'env_cfg\.dist_cfg\.timeout=.* must be a number of seconds'):
        launch._set_timeout(cfg)
