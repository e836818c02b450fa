"""``mmssl train``: the length of a run with its schedule, and numbers that are refused at the door."""

import math
import re

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    (root / 'train' / 'a').mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(32):
        image = Image.fromarray(generator.integers(0, 255, (60, 60, 3), dtype=np.uint8))
        image.save(root / 'train' / 'a' / f'{index}.png')
    return root


def train(warm_cli, data, work_dir, *arguments):
    return warm_cli('train', 'configs/smoke/mae.py', '--data', data, '--work-dir', work_dir, *arguments)


def test_the_schedule_follows_the_option(warm_cli, data, tmp_path):
    done = train(
        warm_cli, data, tmp_path / 'run', '--iters', '8', '--cfg-options', 'default_hooks.logger.interval=1'
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0, text[-2000:]
    rates = [float(value) for value in re.findall(r'Iter\(train\).*? lr: ([0-9.e+-]+)', text)]
    assert len(rates) == 8 and 'reaches its end' not in text
    assert max(rates) > 0 and rates[-1] < 0.2 * max(rates)
    assert all(math.isfinite(rate) for rate in rates)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--iters', '0'], '--iters 0 must be at least 1'),
        (['--iters', '-3'], '--iters -3 must be at least 1'),
        (['--epochs', '3'], '--epochs 3: the config has no train_cfg.max_epochs'),
        (['--epochs', '3', '--iters', '3'], 'two lengths of one run'),
        (['--cfg-options', 'train_cfg.max_iters=0'], 'train_cfg.max_iters = 0 must be'),
        (['--cfg-options', 'train_cfg.max_iters=-4'], 'train_cfg.max_iters = -4 must be'),
        (['--cfg-options', 'train_cfg.max_iters=ten'], "train_cfg.max_iters = 'ten' must be"),
        (['--cfg-options', 'param_scheduler.by_epoch=no'], "by_epoch = 'no' must be True or False"),
        (['--cfg-options', 'optim_wrapper.optimizer.lr=fast'], "optimizer.lr = 'fast' must be"),
        (['--cfg-options', 'train_dataloader.batch_size=-1'], 'batch_size = -1 must be'),
    ],
)
def test_it_is_refused_and_nothing_is_left(warm_cli, data, tmp_path, arguments, message):
    done = train(warm_cli, data, tmp_path / 'run', *arguments)
    assert done.returncode != 0 and message in done.stderr and 'Traceback' not in done.stderr
    assert not (tmp_path / 'run').exists()
