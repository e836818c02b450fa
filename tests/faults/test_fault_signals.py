"""SIGTERM and SIGINT to real runs: saved, left in time, and gone on with as if nothing had been."""

import os
import signal
import time

import pytest
import torch

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
OPTIONS = ['train_dataloader.batch_size=2', 'train_cfg.max_iters=6']


def weights(path):
    checkpoint = torch.load(path, weights_only=True)
    return checkpoint['state_dict'], checkpoint['optimizer']['state'], checkpoint['meta']


def options(*more):
    return ['--cfg-options', *OPTIONS, *more]


@pytest.mark.parametrize('system, workers, signum', [('mae', 2, signal.SIGINT), ('rfcn', 0, signal.SIGTERM), ('gcn', 2, signal.SIGTERM),
                                                     ('sam', 0, signal.SIGINT)])
def test_saved_and_gone(system, workers, signum, start, demo_folder, losses):
    work_dir = demo_folder / system
    job = start('train', f'configs/smoke/{system}.py', '--work-dir', work_dir, *options(
        'default_hooks.checkpoint.interval=100', f'train_dataloader.num_workers={workers}', 'train_cfg.max_iters=100000'), cwd=demo_folder)
    job.wait_for(lambda: len(losses(work_dir)) >= 2)
    sent = time.monotonic()
    for pid in [*job.children(), job.pids[0]]:  # a terminal and a batch system signal every process
        os.kill(pid, signum)
    assert job.wait(30) == CODES[signum], job.text[-2000:]
    left = time.monotonic() - sent
    print(f'{system}: {left:.1f} s')
    last = max(losses(work_dir))
    assert f'iter_{last}.pth' in os.listdir(work_dir) and (work_dir / 'last_checkpoint').read_text() == f'iter_{last}.pth'
    assert f'stopped by {signum.name} after iteration {last}: saved in' in job.text and 'Traceback' not in job.text
    assert weights(work_dir / f'iter_{last}.pth')[2]['iter'] == last
