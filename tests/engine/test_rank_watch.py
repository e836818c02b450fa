"""A stopped rank ends the job within the timeout, by name; a slow one does not."""

import os
import signal
import socket
import sys
import time
import traceback
from types import SimpleNamespace

import pytest
from mmengine.config import Config
from torch import distributed

from mmssl.engine import launch
from mmssl.engine.rank_watch import watched_ranks

TIMEOUT = 3


def run(rank, case):
    """Meet at a barrier, then stop or wait on one rank, then meet again."""
    with watched_ranks(TIMEOUT):
        distributed.barrier()
        if case == 'slow' and rank == 1:
            time.sleep(TIMEOUT + 1)
        if case == f'stop{rank}':
            print('stopping', flush=True)
            os.kill(os.getpid(), signal.SIGSTOP)
        distributed.barrier()
    print('done', flush=True)


class Rank:
    """A rank in a fork of this process, with its output in a file."""

    def __init__(self, rank, case, port, folder):
        self.output = folder / f'rank{rank}.txt'
        self.status = None
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            output = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, 'w', closefd=False) for number in (1, 2))
            os.environ.update(RANK=str(rank), WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=port)
            distributed.init_process_group('gloo')
            run(rank, case)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    @property
    def text(self):
        """All it has written."""
        return self.output.read_text() if self.output.exists() else ''

    def wait(self, seconds=60):
        """Return its exit code; fail if it is still running then."""
        deadline = time.monotonic() + seconds
        while self.status is None:
            assert time.monotonic() < deadline, self.text
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.status = os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        return self.status

    def kill(self):
        """End it, stopped or not."""
        if self.status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


@pytest.fixture
def start(tmp_path):
    """``start(case)`` starts two ranks, which end with the test."""
    ranks = []

    def start(case):
        with socket.socket() as free:
            free.bind(('127.0.0.1', 0))
            port = str(free.getsockname()[1])
        ranks.extend(Rank(rank, case, port, tmp_path) for rank in range(2))
        return ranks

    yield start
    for rank in ranks:
        rank.kill()


@pytest.mark.processes
@pytest.mark.parametrize('stopped', [0, 1])
def test_a_stopped_rank_is_named(stopped, start):
    ranks = start(f'stop{stopped}')
    deadline = time.monotonic() + 60
    while 'stopping' not in ranks[stopped].text:
        assert time.monotonic() < deadline, ranks[stopped].text
        time.sleep(0.01)
    begin = time.monotonic()
    other = ranks[1 - stopped]
    assert other.wait() == 1 and time.monotonic() - begin < 15
    assert 'done' not in other.text
    assert f'rank {stopped}' in other.text and f'env_cfg.dist_cfg.timeout={TIMEOUT}' in other.text, other.text
    if stopped == 1:
        assert f'(process {ranks[1].pid} on {socket.gethostname()})' in other.text


@pytest.mark.processes
def test_a_slow_rank_is_waited_for(start):
    for rank in start('slow'):
        assert rank.wait() == 0 and 'done' in rank.text, rank.text


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
