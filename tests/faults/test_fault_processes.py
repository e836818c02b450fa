"""Killed runs go on bit for bit, and a dead worker or rank ends the run in time, in all four systems."""

import os
import random
import re
import shutil
import signal
import time
from collections import deque

import pytest
import torch

from mmssl.checkpoint import find_resume_checkpoint, load_file

pytestmark = pytest.mark.slow
SYSTEMS = ('mae', 'rfcn', 'gcn', 'sam')
SHORT = [
    '--cfg-options',
    'train_dataloader.batch_size=2',
    'train_cfg.max_iters=6',
    'default_hooks.checkpoint.interval=3',
]
KILLS = 50


def kill_after(iteration, signum=signal.SIGKILL, rank=None):
    """For ``at('after_train_iter', ...)``."""
    return lambda runner: (
        runner.iter + 1 == iteration and rank in (None, runner.rank) and os.kill(os.getpid(), signum)
    )


def weights(path):
    return load_file(path)['state_dict']


def same_weights(first, second):
    first, second = weights(first), weights(second)
    return first.keys() == second.keys() and all(
        torch.equal(value, second[name]) for name, value in first.items()
    )


def train(start, demo_folder, system, work_dir, *options, arguments=(), **settings):
    return start(
        'train',
        f'configs/smoke/{system}.py',
        '--work-dir',
        work_dir,
        *arguments,
        *SHORT,
        *options,
        cwd=demo_folder,
        **settings,
    )


def test_killed_fifty_times_while_saving(start, demo_folder, losses, monkeypatch):
    """A real run's hook writes checkpoints, keeping one, until it is killed and the next process goes on."""
    from mmssl.config.load import load_config
    from mmssl.engine.runner import Runner

    monkeypatch.chdir(demo_folder)
    work_dir = demo_folder / 'run'
    first = train(start, demo_folder, 'mae', work_dir, 'default_hooks.checkpoint.max_keep_ckpts=1')
    assert first.wait() == 0, first.text[-2000:]
    runner = Runner.from_cfg(load_config(str(next(work_dir.glob('*.py')))))
    runner._resume = True
    hook = next(hook for hook in runner.hooks if type(hook).__name__ == 'CheckpointHook')
    with monkeypatch.context() as patch:
        patch.setattr(type(runner.build_train_loop(runner._train_loop)), 'run', lambda loop: None)
        runner.train()
    hook.before_train(runner)
    for _ in range(2):  # the first formats the config
        began = time.monotonic()
        hook._save_checkpoint_with_step(runner, 7, dict(epoch=0, iter=7))
        saving = time.monotonic() - began
    generator, step, unreadable, interrupted = random.Random(0), 7, 0, 0
    for _ in range(KILLS):
        pid = os.fork()
        if pid == 0:
            hook.keep_ckpt_ids = deque([step])
            while True:
                step += 1
                hook._save_checkpoint_with_step(runner, step, dict(epoch=0, iter=step))
        time.sleep(generator.uniform(0, 3 * saving))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        path = find_resume_checkpoint(work_dir)
        try:
            checkpoint = load_file(path)
            assert checkpoint['meta']['iter'] >= step and checkpoint['optimizer']['state']
            step = checkpoint['meta']['iter']
        except ValueError:
            unreadable += 1
        interrupted += bool(list(work_dir.glob('.*tmp')))
        for path in work_dir.glob('.*tmp'):
            path.unlink()
    print(
        f'{KILLS} kills, {interrupted} of them in the middle of a file, '
        f'{step - 7} checkpoints written, {unreadable} unreadable'
    )
    assert unreadable == 0 and interrupted > KILLS // 5 and step > 10
    resumed = train(
        start, demo_folder, 'mae', work_dir, f'train_cfg.max_iters={step + 1}', arguments=['--resume']
    )
    assert resumed.wait() == 0 and step + 1 in losses(work_dir), (step, resumed.text[-600:])


@pytest.mark.parametrize(
    'system, before, after', [('mae', 2, 2), ('rfcn', 0, 2), ('gcn', 2, 0), ('sam', 0, 2)]
)
def test_killed_and_gone_on_with_is_the_same_bit_for_bit(
    system, before, after, start, at, demo_folder, losses
):
    """Any number of workers before and after; the uninterrupted run has the number of after.

    The data have their full path, with the folder's unusual name.
    """
    whole = train(start, demo_folder, system, 'whole', f'train_dataloader.num_workers={after}')
    killed = train(
        start,
        demo_folder,
        system,
        'läufe/1',
        f'train_dataloader.num_workers={before}',
        prepare=at('after_train_iter', kill_after(5)),
    )
    assert whole.wait() == 0 and killed.wait() == -signal.SIGKILL, killed.text[-2000:]
    expected, work_dir = losses(demo_folder / 'whole'), demo_folder / 'läufe/1'
    assert len(expected) == 6 and losses(work_dir) == {
        step: expected[step] for step in range(1, 6)
    }  # the same seed twice
    assert (work_dir / 'last_checkpoint').read_text() == 'iter_3.pth'
    data = demo_folder / 'data/demo' / ('imagenet' if system == 'mae' else 'scenes')
    resumed = train(
        start,
        demo_folder,
        system,
        work_dir,
        f'train_dataloader.num_workers={after}',
        arguments=['--resume', '--data', data],
    )
    assert resumed.wait() == 0, resumed.text[-2000:]
    assert losses(work_dir) == expected and same_weights(
        demo_folder / 'whole/iter_6.pth', work_dir / 'iter_6.pth'
    )
    if system != 'mae':
        test = start(
            'test',
            f'configs/smoke/{system}.py',
            'läufe/1/iter_6.pth',
            '--data',
            data,
            '--work-dir',
            'läufe/test',
            cwd=demo_folder,
        )
        assert test.wait() == 0, test.text[-2000:]


@pytest.mark.parametrize('system', ['mae', 'rfcn'])
def test_two_ranks_and_another_number_of_them(system, start, demo_folder, losses):
    whole = train(start, demo_folder, system, 'whole', ranks=2)
    assert whole.wait() == [0, 0], whole.text[-3000:]
    jobs = []
    for ranks in (2, 1):
        work_dir = demo_folder / str(ranks)
        work_dir.mkdir()
        (work_dir / 'iter_3.pth').write_bytes((demo_folder / 'whole/iter_3.pth').read_bytes())
        (work_dir / 'last_checkpoint').write_text('iter_3.pth')
        jobs.append(train(start, demo_folder, system, str(ranks), arguments=['--resume'], ranks=ranks))
    assert jobs[0].wait() == [0, 0] and jobs[1].wait() == 0, jobs[0].text[-2000:] + jobs[1].text[-2000:]
    expected = losses(demo_folder / 'whole')
    assert losses(demo_folder / '2') == {step: expected[step] for step in (4, 5, 6)}
    assert same_weights(demo_folder / 'whole/iter_6.pth', demo_folder / '2/iter_6.pth')
    assert (
        jobs[1].text.count(
            'written with batch size 2 on 2 rank(s), this run has 2 on 1: it continues at the same place'
        )
        == 1
    )
    assert sorted(losses(demo_folder / '1')) == [4, 5, 6]


def test_damaged_newest_checkpoint(start, demo_folder):
    first = train(start, demo_folder, 'mae', 'whole')
    assert first.wait() == 0
    content = (demo_folder / 'whole/iter_6.pth').read_bytes()
    resumed = {}
    for damage, left in (('truncated', content[: len(content) // 2]), ('empty', b''), ('missing', None)):
        shutil.copytree(demo_folder / 'whole', demo_folder / damage)
        newest = demo_folder / damage / 'iter_6.pth'
        newest.unlink() if left is None else newest.write_bytes(left)
        resumed[damage] = train(start, demo_folder, 'mae', damage, arguments=['--resume'])
    for damage, job in resumed.items():
        assert job.wait() == 0, job.text[-2000:]
        assert job.text.count('going on from iter_3.pth, the newest checkpoint') == 1, damage
        assert same_weights(demo_folder / damage / 'iter_6.pth', demo_folder / 'whole/iter_6.pth')


@pytest.mark.parametrize('system', SYSTEMS)
def test_a_killed_worker_is_named_with_its_file(system, start, demo_folder):
    def prepare():
        from mmssl.engine.workers import WorkerBoard

        begin = WorkerBoard.begin

        def killed(board, worker, index):
            begin(board, worker, index)
            if worker == 1 and os.path.exists('now'):
                os.kill(os.getpid(), signal.SIGKILL)

        WorkerBoard.begin = killed

    job = train(
        start,
        demo_folder,
        system,
        'run',
        'train_dataloader.num_workers=2',
        'train_cfg.max_iters=100000',
        prepare=prepare,
    )
    job.wait_for(lambda: (demo_folder / 'run/iter_3.pth').exists())
    (demo_folder / 'now').touch()
    killed = time.monotonic()
    assert job.wait(60) == 1
    print(f'{system}: ended after {time.monotonic() - killed:.2f} s')
    # the other worker may stumble over the end of the run
    assert len(job.errors) == 1 and 'Traceback' not in job.text.partition('error: ')[0], job.text[-3000:]
    assert re.search(
        r'error: worker 1 of the data loader \(process \d+\) (was killed \(Killed\)|died) '
        r'while it read .*\.jpg\. .*--resume',
        job.errors[0],
    ), job.errors


def test_a_worker_killed_from_outside(start, demo_folder, losses):
    job = train(
        start, demo_folder, 'mae', 'run', 'train_dataloader.num_workers=2', 'train_cfg.max_iters=100000'
    )
    job.wait_for(lambda: len(losses(demo_folder / 'run')) >= 2)
    victim = job.children()[0]
    os.kill(victim, signal.SIGKILL)
    assert job.wait(60) == 1
    assert re.search(
        rf'worker 0 of the data loader \(process {victim}\) (was killed \(Killed\)|died) '
        r'(while it|after it had) read .*\.jpg',
        job.errors[0],
    ), job.text[-2000:]


@pytest.mark.parametrize('system', ['mae', 'rfcn'])
def test_a_worker_that_fails_is_named_with_its_file(system, start, demo_folder):
    def prepare():
        from mmengine.dataset import Compose

        call = Compose.__call__

        def failing(compose, data):
            result = call(compose, data)
            worker = torch.utils.data.get_worker_info()
            if worker is not None and worker.id == 1:
                raise AttributeError('no such attribute')
            return result

        Compose.__call__ = failing

    job = train(start, demo_folder, system, 'run', 'train_dataloader.num_workers=2', prepare=prepare)
    assert job.wait(60) == 1
    assert len(job.errors) == 1 and 'Traceback' not in job.text, job.text[-3000:]
    assert re.search(
        r'\.jpg: AttributeError: no such attribute \(.*\) \(in worker 1 of the data loader\)', job.errors[0]
    ), job.errors


@pytest.mark.parametrize('who', ['rank', 'worker'])
def test_a_rank_that_dies_takes_the_other_with_it(who, start, at, demo_folder, losses):
    """Nobody but the ranks themselves looks after them here."""
    if who == 'rank':
        job = train(
            start, demo_folder, 'mae', 'run', ranks=2, prepare=at('after_train_iter', kill_after(3, rank=1))
        )
        job.wait_for(lambda: len(losses(demo_folder / 'run')) >= 2 or job.poll())
    else:
        job = train(
            start,
            demo_folder,
            'mae',
            'run',
            'train_dataloader.num_workers=2',
            'train_cfg.max_iters=100000',
            ranks=2,
        )
        job.wait_for(lambda: len(losses(demo_folder / 'run')) >= 2)
        os.kill(job.children(rank=1)[0], signal.SIGKILL)
    killed = time.monotonic()
    statuses = job.wait(60)
    print(f'{who}: all ended after {time.monotonic() - killed:.2f} s')
    assert statuses == [1, -signal.SIGKILL if who == 'rank' else 1], job.text[-3000:]
    assert any('another process of this job has ended' in line for line in job.errors), job.text[-3000:]


@pytest.mark.parametrize('system', SYSTEMS)
def test_deterministic_algorithms(system, start, demo_folder, losses):
    """torch refuses what it cannot do in the same order twice; on the CPU there is nothing of that kind."""
    job = train(start, demo_folder, system, 'run', 'randomness.deterministic=True', 'train_cfg.max_iters=2')
    assert job.wait() == 0 and len(losses(demo_folder / 'run')) == 2, job.text[-2000:]
