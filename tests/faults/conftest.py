"""Processes for the trials of kills, signals and full disks: forks of this one, with all imports done."""

import gc
import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import finished_runs
import pytest

from mmssl.cli import main


class Job:
    """``mmssl COMMAND ...`` in a process of its own.

    Args:
        arguments: of the command line.
        cwd: its folder.
        prepare: called in the process before the command.
        ranks: number of processes; more than one find each other as those of torchrun do, and nobody ends the
            others when one fails.
    """

    def __init__(self, arguments, cwd, env=None, prepare=None, ranks=1, port=None):
        self.output = Path(cwd) / f'output-{time.monotonic_ns()}.txt'
        self.started = time.monotonic()
        self.statuses = {}
        arguments = list(map(str, arguments))
        if ranks > 1:
            arguments[1:1] = ['--launcher', 'pytorch']
        self.pids = [
            self._fork(arguments, cwd, {**(env or {}), **self._ranks(rank, ranks, port)}, prepare)
            for rank in range(ranks)
        ]

    @staticmethod
    def _ranks(rank, ranks, port):
        names = dict(
            RANK=rank,
            LOCAL_RANK=rank,
            WORLD_SIZE=ranks,
            LOCAL_WORLD_SIZE=ranks,
            MASTER_ADDR='127.0.0.1',
            MASTER_PORT=port,
        )
        return {name: str(value) for name, value in names.items()} if ranks > 1 else {}

    def _fork(self, arguments, cwd, env, prepare):
        pid = os.fork()
        if pid:
            return pid
        status = 1
        try:
            os.setpgid(0, 0)
            finished_runs.forget()
            output = os.open(self.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(output, 1)
            os.dup2(output, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, 'w', buffering=1, closefd=False) for number in (1, 2))
            os.chdir(cwd)
            for name, value in env.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
            for signum in (signal.SIGTERM, signal.SIGINT):
                signal.signal(
                    signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL
                )
            if prepare is not None:
                prepare()
            status = main(arguments)
        except SystemExit as error:
            status = error.code
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            sys.stdout.flush()
            os._exit(status)

    def send(self, signum, rank=0):
        """A signal to one process."""
        os.kill(self.pids[rank], signum)

    def children(self, rank=0):
        """Processes of one of its own, such as workers of data loaders, oldest first."""
        tasks = Path(f'/proc/{self.pids[rank]}/task')
        return [
            int(pid) for task in sorted(tasks.iterdir()) for pid in (task / 'children').read_text().split()
        ]

    def poll(self):
        """Whether all have ended."""
        for rank, pid in enumerate(self.pids):
            if rank not in self.statuses:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self.statuses[rank] = os.waitstatus_to_exitcode(status)
        return len(self.statuses) == len(self.pids)

    def wait(self, seconds=90):
        """Wait for all; return their statuses, or that of a single process. A hanging one is killed."""
        deadline = time.monotonic() + seconds
        while not self.poll():
            if time.monotonic() > deadline:
                self.kill()
                pytest.fail(f'still there after {seconds} s: {self.text[-2000:]}')
            time.sleep(0.01)
        return (
            self.statuses[0]
            if len(self.pids) == 1
            else [self.statuses[rank] for rank in range(len(self.pids))]
        )

    def kill(self):
        """End those that are still there, with the processes they have started."""
        if not self.poll():
            for rank, pid in enumerate(self.pids):
                if rank not in self.statuses:
                    os.killpg(pid, signal.SIGKILL)
                    self.statuses[rank] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    @property
    def text(self):
        """All it has said."""
        return self.output.read_text(errors='replace') if self.output.exists() else ''

    @property
    def errors(self):
        """Its lines of error."""
        return [line for line in self.text.splitlines() if 'error: ' in line]

    def wait_for(self, condition, seconds=60):
        """Wait until ``condition()`` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert not self.poll(), f'ended with {self.statuses}: {self.text[-3000:]}'
            assert time.monotonic() < deadline, self.text[-3000:]
            time.sleep(0.005)


@pytest.fixture(scope='session')
def toolboxes():
    """The slow imports, once for all forks."""
    for name in ('mmdet', 'mmseg', 'mmpretrain'):
        pytest.importorskip(name)
        importlib.import_module(f'{name}.datasets')
        importlib.import_module(f'{name}.models')
    import torch

    torch.set_num_threads(1)
    gc.freeze()
    from yapf.yapflib import yapf_api

    plain, known = yapf_api.FormatCode, {}

    def format_code(text, **options):
        key = (text, repr(options))
        if key not in known:
            known[key] = plain(text, **options)
        return known[key]

    # mmengine formats the same config once a log and once a checkpoint, for a second each time
    yapf_api.FormatCode = format_code
    yield
    yapf_api.FormatCode = plain


@pytest.fixture
def start(toolboxes):
    """``start('train', config, ..., cwd=folder)`` starts a :class:`Job`, which ends with the test."""
    jobs = []

    def start(*arguments, **options):
        if options.get('ranks', 1) > 1:
            import socket

            with socket.socket() as server:
                server.bind(('127.0.0.1', 0))
                options['port'] = server.getsockname()[1]
        jobs.append(Job(arguments, **options))
        return jobs[-1]

    yield start
    for job in jobs:
        job.kill()


@pytest.fixture
def demo_folder(with_demo, tmp_path):
    """A folder with the demo data, whose name has spaces, an umlaut and Chinese in it."""
    folder = tmp_path / 'mein Ordner $ä 图'
    folder.mkdir()
    return with_demo(folder)


@pytest.fixture(scope='session')
def at():
    """``at(point, action)`` for a Job's ``prepare``: ``action(runner)`` follows the hooks of a point."""

    def at(point, action):
        def prepare():
            from mmssl.engine.runner import Runner

            call_hook = Runner.call_hook

            def acting(runner, fn_name, **kwargs):
                call_hook(runner, fn_name, **kwargs)
                if fn_name == point:
                    action(runner)

            Runner.call_hook = acting

        return prepare

    return at


@pytest.fixture(scope='session')
def losses():
    """``losses(work_dir)``: loss of every iteration that the run's logs hold."""

    def losses(work_dir):
        by_step = {}
        for path in sorted(Path(work_dir).glob('*/vis_data/*.json')):
            for line in path.read_text().splitlines():
                entry = json.loads(line)
                if 'loss' in entry:
                    by_step[entry['step']] = entry['loss']
        return by_step

    return losses
