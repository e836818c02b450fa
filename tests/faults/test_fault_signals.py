"""SIGTERM and SIGINT to real runs: saved, left in time, and gone on with as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from mmssl.engine.signals import current_watch, watched_signals

pytestmark = pytest.mark.slow
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
SMALL = ['--cfg-options', 'train_dataloader.batch_size=2']
# saves only when it is told to
LONG = [*SMALL, 'default_hooks.checkpoint.interval=100000', 'train_cfg.max_iters=100000']
VALIDATING = """
_base_ = 'mmssl::smoke/gcn.py'
custom_hooks = [dict(type='EMAHook', momentum=0.3)]
train_dataloader = dict(batch_size=2)
train_cfg = dict(max_iters=4, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=100))
"""

BY_EPOCH = """
_base_ = 'mmssl::smoke/mae.py'
train_dataloader = dict(
    batch_size=2,
    dataset=dict(indices=10),
    sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True),
)
train_cfg = dict(_delete_=True, by_epoch=True, max_epochs=1)
default_hooks = dict(checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=1))
log_processor = dict(by_epoch=True)
"""


def load(path):
    return torch.load(path, weights_only=True)


def same_weights(first, second):
    first, second = load(first), load(second)
    return all(
        torch.equal(value, second['state_dict'][name]) for name, value in first['state_dict'].items()
    ) and all(
        torch.equal(value, second['ema_state_dict'][name])
        for name, value in first.get('ema_state_dict', {}).items()
    )


def own_signal(signum):
    return lambda runner: os.kill(os.getpid(), signum)


@pytest.mark.parametrize(
    'system, workers, signum',
    [
        ('mae', 2, signal.SIGINT),
        ('rfcn', 0, signal.SIGTERM),
        ('gcn', 2, signal.SIGTERM),
        ('sam', 0, signal.SIGINT),
    ],
)
def test_saved_and_gone(system, workers, signum, start, demo_folder, losses):
    work_dir = demo_folder / system
    job = start(
        'train',
        f'configs/smoke/{system}.py',
        '--work-dir',
        work_dir,
        *LONG,
        f'train_dataloader.num_workers={workers}',
        cwd=demo_folder,
    )
    job.wait_for(lambda: len(losses(work_dir)) >= 2)
    sent = time.monotonic()
    for pid in [*job.children(), job.pids[0]]:  # terminals and batch systems signal every process
        os.kill(pid, signum)
    assert job.wait(30) == CODES[signum], job.text[-2000:]
    print(f'{system}: left after {time.monotonic() - sent:.2f} s')
    last = max(losses(work_dir))
    assert (work_dir / 'last_checkpoint').read_text() == f'iter_{last}.pth'
    assert (
        job.text.count(f'stopped by {signum.name} after iteration {last}: saved in') == 1
        and 'Traceback' not in job.text
    )
    assert load(work_dir / f'iter_{last}.pth')['meta']['iter'] == last


def test_as_people_start_it(with_demo, tmp_path, losses, repo_root):
    """A fresh interpreter, and one without a home."""
    with_demo(tmp_path)
    process = subprocess.Popen(
        [sys.executable, '-m', 'mmssl.cli', 'train', 'configs/smoke/mae.py', '--work-dir', 'run', *LONG],
        cwd=tmp_path,
        env={**os.environ, 'PYTHONPATH': str(repo_root), 'HOME': '/no/such/home'},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while len(losses(tmp_path / 'run')) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 143 and 'SIGTERM: saving after this step' in errors
    assert (tmp_path / 'run' / (tmp_path / 'run/last_checkpoint').read_text()).is_file()


def test_while_validating(start, at, demo_folder, losses):
    """The weights are those of training, not their average, and the resumed run validates first."""
    (demo_folder / 'c.py').write_text(VALIDATING)
    whole = start('train', 'c.py', '--work-dir', 'whole', cwd=demo_folder)
    stopped = start(
        'train',
        'c.py',
        '--work-dir',
        'parts',
        cwd=demo_folder,
        prepare=at('before_val_iter', own_signal(signal.SIGTERM)),
    )
    assert whole.wait() == 0 and stopped.wait(30) == 143, whole.text[-2000:] + stopped.text[-2000:]
    assert 'stopped by SIGTERM after iteration 2: saved in' in stopped.text
    resumed = start('train', 'c.py', '--work-dir', 'parts', '--resume', cwd=demo_folder)
    assert resumed.wait() == 0, resumed.text[-2000:]

    def scores(name):
        lines = [
            json.loads(line)
            for path in sorted((demo_folder / name).glob('*/vis_data/*.json'))
            if path.name != 'scalars.json'
            for line in path.read_text().splitlines()
        ]
        return [(line['step'], line['mIoU']) for line in lines if 'mIoU' in line]

    assert losses(demo_folder / 'whole') == losses(demo_folder / 'parts')
    assert scores('whole') == scores('parts') and [step for step, _ in scores('parts')] == [2, 4]
    assert same_weights(demo_folder / 'whole/iter_4.pth', demo_folder / 'parts/iter_4.pth')


def test_before_the_first_step_nothing_is_left(start, at, demo_folder):
    for point in ('before_run', 'before_train_iter'):
        job = start(
            'train',
            'configs/smoke/mae.py',
            '--work-dir',
            'runs/one',
            *SMALL,
            cwd=demo_folder,
            prepare=at(point, own_signal(signal.SIGINT)),
        )
        assert (
            job.wait(30) == 130
            and 'before its first step: nothing to save' in job.text
            and 'Traceback' not in job.text
        )
        assert not (demo_folder / 'runs').exists()


def test_a_second_signal_ends_it_at_once(start, demo_folder):
    """Also where the step does not end: an endless wait stands in for it.

    RANK without a launcher is what some clusters set: the second signal is nobody's echo.
    """

    def wait_in_second_step():
        from mmssl.engine.runner import Runner

        call_hook = Runner.call_hook

        def waiting(runner, fn_name, **kwargs):
            call_hook(runner, fn_name, **kwargs)
            if fn_name == 'before_train_iter' and runner.iter == 1:
                (demo_folder / 'in the step').touch()
                time.sleep(600)

        Runner.call_hook = waiting

    job = start(
        'train',
        'configs/smoke/mae.py',
        '--work-dir',
        'run',
        *LONG,
        cwd=demo_folder,
        env={'RANK': '0'},
        prepare=wait_in_second_step,
    )
    job.wait_for((demo_folder / 'in the step').exists)
    job.send(signal.SIGTERM)
    job.wait_for(lambda: 'saving after this step' in job.text)
    sent = time.monotonic()
    job.send(signal.SIGTERM)
    assert job.wait(30) == 143 and time.monotonic() - sent < 2
    assert not list((demo_folder / 'run').glob('*.pth'))


def code_after(signals, launched, stderr=2):
    """Exit code of a process that receives signals, with pauses in seconds between; None if it stays."""
    ready, set_ready = os.pipe()
    pid = os.fork()
    if not pid:
        os.dup2(stderr, 2)
        with watched_signals(launched):
            current_watch().immediate = False
            os.write(set_ready, b'.')
            while True:
                time.sleep(0.1)
    assert os.read(ready, 1)
    for each in signals:
        if isinstance(each, float):
            time.sleep(each)
        else:
            os.kill(pid, each)
            time.sleep(0.1)  # two of a kind that are pending at once are one
    deadline = time.monotonic() + 0.5
    ended = status = 0
    while not ended and time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.01)
    if not ended:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status) if ended else None


@pytest.mark.parametrize(
    'launched, signals, code',
    [
        (False, [signal.SIGTERM], None),
        (False, [signal.SIGTERM, signal.SIGTERM], 143),
        (True, [signal.SIGTERM, signal.SIGTERM], None),
        (True, [signal.SIGTERM, signal.SIGTERM, signal.SIGTERM], 143),
        (True, [signal.SIGTERM, signal.SIGINT], 130),
        (True, [signal.SIGTERM, 1.0, signal.SIGTERM], 143),
    ],
)
def test_a_launcher_forwards_a_signal_once(launched, signals, code):
    """The same signal within a second is its echo; a third, another or a later one ends the process."""
    assert code_after(signals, launched) == code


def test_a_full_pipe_holds_nothing_up():
    """The error stream goes to a program that has stopped reading."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(write, bytes(4096))
    os.set_blocking(write, True)
    assert code_after([signal.SIGTERM, signal.SIGTERM], launched=False, stderr=write) == 143
    os.close(read)
    os.close(write)


def test_an_epoch_is_taken_up_in_its_middle(start, at, demo_folder, losses):
    """In a run by epochs, the file of the stop is named by its iteration, and replaced by the epoch's."""
    (demo_folder / 'c.py').write_text(BY_EPOCH)
    whole = start('train', 'c.py', '--work-dir', 'whole', cwd=demo_folder)
    stopped = start(
        'train',
        'c.py',
        '--work-dir',
        'parts',
        cwd=demo_folder,
        prepare=at(
            'before_train_iter', lambda runner: runner.iter == 2 and own_signal(signal.SIGTERM)(runner)
        ),
    )
    assert whole.wait() == 0 and stopped.wait(30) == 143, stopped.text[-2000:]
    assert [path.name for path in (demo_folder / 'parts').glob('*.pth')] == ['iter_3.pth']
    resumed = start('train', 'c.py', '--work-dir', 'parts', '--resume', cwd=demo_folder)
    assert resumed.wait() == 0, resumed.text[-2000:]
    assert [path.name for path in (demo_folder / 'parts').glob('*.pth')] == ['epoch_1.pth']
    assert (
        losses(demo_folder / 'whole') == losses(demo_folder / 'parts')
        and len(losses(demo_folder / 'parts')) == 5
    )
    assert same_weights(demo_folder / 'whole/epoch_1.pth', demo_folder / 'parts/epoch_1.pth')


def test_two_ranks_agree(start, demo_folder, losses):
    """The signal comes to the second rank alone."""
    job = start('train', 'configs/smoke/mae.py', '--work-dir', 'run', *LONG, cwd=demo_folder, ranks=2)
    job.wait_for(lambda: len(losses(demo_folder / 'run')) >= 2)
    job.send(signal.SIGTERM, rank=1)
    assert job.wait(30) == [143, 143], job.text[-3000:]
    last = max(losses(demo_folder / 'run'))
    assert f'after iteration {last}: saved in' in job.text
    assert len(load(demo_folder / f'run/iter_{last}.pth')['meta']['rng']) == 2


def test_two_ranks_while_validating(start, at, demo_folder):
    """The first rank saves alone, the second waits for it."""
    (demo_folder / 'c.py').write_text(VALIDATING)
    job = start(
        'train',
        'c.py',
        '--work-dir',
        'run',
        cwd=demo_folder,
        ranks=2,
        prepare=at('before_val_iter', own_signal(signal.SIGTERM)),
    )
    assert job.wait(30) == [143, 143], job.text[-3000:]
    meta = load(demo_folder / 'run/iter_2.pth')['meta']
    assert meta['validation_due'] and meta['iter'] == 2 and len(meta['rng']) == 2


def test_handlers_are_put_back():
    before = [signal.getsignal(signum) for signum in CODES]
    with watched_signals():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(signum) for signum in CODES] == before and signal.set_wakeup_fd(-1) == -1
