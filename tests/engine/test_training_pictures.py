"""What a person sees while a run trains: pictures in the backends of the visualizer, and the bar."""

import io
import json
import logging
import types

import numpy as np
import pytest
import torch
from mmengine.logging import MMLogger
from PIL import Image

from mmssl.engine import ProgressHook, ReconstructionHook

CONFIG = """
_base_ = 'mmssl::smoke/mae.py'
train_cfg = dict(max_iters=5)
visualizer = dict(vis_backends=[dict(type='LocalVisBackend'){tensorboard}])
custom_hooks = [{hook}]
"""
HOOK = "dict(type='mmssl.ReconstructionHook', images=3, interval=2)"


def train(warm_cli, demo_data, folder, **parts):
    folder.mkdir()
    (folder / 'run.py').write_text(CONFIG.format(**parts))
    done = warm_cli(
        'train',
        folder / 'run.py',
        '--data',
        demo_data / 'imagenet',
        '--work-dir',
        folder / 'work',
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    (data,) = (folder / 'work').glob('*/vis_data')
    rows = [json.loads(line) for line in (data / 'scalars.json').read_text().splitlines()]
    return data, [row['loss'] for row in rows]


def test_reconstructions_while_it_learns(warm_cli, demo_data, tmp_path):
    data, losses = train(warm_cli, demo_data, tmp_path / 'with', hook=HOOK, tensorboard='')
    pictures = {
        path.name: np.asarray(Image.open(path).convert('RGB')) for path in (data / 'vis_image').iterdir()
    }
    assert set(pictures) == {f'reconstruction_{step}.png' for step in (2, 4, 5)}
    first, last = pictures['reconstruction_2.png'].astype(int), pictures['reconstruction_5.png'].astype(int)
    third = first.shape[1] // 3
    changed = np.abs(first - last).max(axis=(0, 2))
    assert (
        not changed[: 2 * third].any() and changed[2 * third :].any()
    )  # the same images and masks, another reconstruction
    assert losses == train(warm_cli, demo_data, tmp_path / 'without', hook='', tensorboard='')[1]


def test_tensorboard_has_the_pictures(warm_cli, demo_data, tmp_path):
    pytest.importorskip('tensorboard', reason='pip install tensorboard')
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    data, losses = train(
        warm_cli, demo_data, tmp_path / 'run', hook=HOOK, tensorboard=", dict(type='TensorboardVisBackend')"
    )
    events = EventAccumulator(str(data), size_guidance=dict(images=0))
    events.Reload()
    assert [event.step for event in events.Images('reconstruction')] == [2, 4, 5]
    assert [event.value for event in events.Scalars('loss')] == pytest.approx(losses)
    drawn = Image.open(io.BytesIO(events.Images('reconstruction')[-1].encoded_image_string))
    assert np.array_equal(np.asarray(drawn), np.asarray(Image.open(data / 'vis_image/reconstruction_5.png')))


def test_hook_refuses(tmp_path):
    with pytest.raises(ValueError, match='interval=0'):
        ReconstructionHook(interval=0)
    with pytest.raises(ValueError, match=r'images=\[\]'):
        ReconstructionHook([])
    with pytest.raises(ValueError, match='Linear is none'):
        ReconstructionHook().before_train(types.SimpleNamespace(model=torch.nn.Linear(1, 1)))


def test_bar_shows_loss_and_time_left_and_leaves_log_lines_whole(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr('sys.stderr', screen)
    logger = MMLogger.get_instance('bar')
    monkeypatch.setattr(MMLogger, 'get_current_instance', classmethod(lambda cls: logger))
    logger.handlers[0].setStream(screen)
    runner = types.SimpleNamespace(
        max_iters=4,
        iter=0,
        val_dataloader=[0] * 2,
        test_dataloader=[0] * 3,
        train_dataloader=types.SimpleNamespace(batch_size=8),
        optim_wrapper=types.SimpleNamespace(get_lr=lambda: {'lr': [0.001, 0.02]}),
    )
    hook = ProgressHook()
    hook.before_train(runner)
    hook.bar.mininterval = 0
    for step in range(4):
        hook.after_train_iter(runner, step, outputs=dict(loss=torch.tensor(2.0 + step)))
        if step == 1:
            logger.log(logging.INFO, 'a line of log')
            hook.before_val_epoch(runner)
            hook.after_val_iter(runner, 0)
            hook.after_val_epoch(runner)
            assert hook.evaluation is None
    hook.after_train(runner)
    text = screen.getvalue()
    assert (
        'training:  50%' in text and 'training: 100%' in text and '4/4' in text and 'loss 2.561' in text
    )  # 2, 2.1, 2.29, 2.561
    assert 'lr 0.02' in text and 'images/s' in text
    assert 'evaluating:' in text
    line = next(line for line in text.split('\n') if 'a line of log' in line)
    assert (
        line.rsplit('\r', 1)[1].startswith(('\x1b', '11/', '0', '1'))
        and 'training' not in line.rsplit('\r', 1)[1]
    )
    hook.before_test_epoch(runner)
    for step in range(3):
        hook.after_test_iter(runner, step)
    hook.after_test_epoch(runner)
    assert 'testing:' in screen.getvalue() and not hook.bars
