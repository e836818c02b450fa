"""The previous checkpoint is removed only when the new one is complete."""

import os

import pytest
import resume_toy as toy
import torch

from mmssl.checkpoint import find_resume_checkpoint, load_file
from mmssl.engine.runner import Runner


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    directory = tmp_path_factory.mktemp('data') / 'images'
    toy.make_images(directory)
    return directory


def run(work_dir, images, epochs=2, resume=None, **hook):
    cfg = toy.config(work_dir, images, interval=2, epochs=epochs, resume=resume)
    cfg['default_hooks']['checkpoint'].update(hook)
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def checkpoints(work_dir):
    return sorted(path.name for path in work_dir.glob('*.pth'))


def test_number_of_checkpoints_and_relative_note(images, tmp_path):
    run(tmp_path, images, max_keep_ckpts=2, save_best=None)
    assert checkpoints(tmp_path) == ['iter_10.pth', 'iter_8.pth']
    assert (tmp_path / 'last_checkpoint').read_text() == 'iter_10.pth'


def test_old_checkpoint_stays_until_the_new_is_written(images, tmp_path, monkeypatch):
    """The disk is full at the third save: the second is there and is what a resume finds."""
    sync, calls = os.fsync, []

    def fail(handle):
        if any('iter_6' in name for name in os.listdir(tmp_path)):
            calls.append(handle)
            raise OSError(28, 'No space left on device')
        sync(handle)

    monkeypatch.setattr(os, 'fsync', fail)
    with pytest.raises(OSError, match='iter_6.pth: No space left on device; about .* bytes are needed'):
        run(tmp_path, images, max_keep_ckpts=1, save_best=None)
    assert calls and checkpoints(tmp_path) == ['iter_4.pth']
    assert find_resume_checkpoint(tmp_path) == tmp_path / 'iter_4.pth'


def test_best_is_replaced_after_the_new_best(images, tmp_path, monkeypatch):
    scores = iter([1.0, 2.0, 0.5, 3.0])
    monkeypatch.setattr(toy.ToyMetric, 'compute_metrics', lambda self, results: dict(acc=next(scores)))
    present = []
    save = Runner.save_checkpoint

    def watch(self, out_dir, filename, *args, **kwargs):
        if filename.startswith('best'):
            present.append([name for name in checkpoints(tmp_path) if name.startswith('best')])
        save(self, out_dir, filename, *args, **kwargs)
        if filename.startswith('best'):
            present.append([name for name in checkpoints(tmp_path) if name.startswith('best')])

    monkeypatch.setattr(Runner, 'save_checkpoint', watch)
    runner = run(tmp_path, images, epochs=4, max_keep_ckpts=1)
    names = [f'best_acc_iter_{step}.pth' for step in (5, 10, 20)]
    assert present == [[], names[:1], names[:1], sorted(names[:2]), names[1:2], sorted(names[1:])]
    assert [name for name in checkpoints(tmp_path) if name.startswith('best')] == names[2:]
    assert runner.message_hub.get_info('best_score') == 3.0


def test_resumed_run_forgets_nothing(images, tmp_path):
    """The list of checkpoints continues after a resume, and partial files of a killed run are removed."""
    run(tmp_path, images, max_keep_ckpts=2, save_best=None)
    (tmp_path / '.iter_12.pth.1-ab.mmssl-tmp').write_bytes(b'x')
    run(tmp_path, images, epochs=3, resume='auto', max_keep_ckpts=2, save_best=None)
    assert checkpoints(tmp_path) == ['iter_14.pth', 'iter_15.pth']
    assert not list(tmp_path.glob('.*tmp'))


def test_published_keys(images, tmp_path):
    run(tmp_path, images, published_keys=['meta', 'state_dict'], save_best=None)
    published = next(path for path in tmp_path.glob('iter_10-*.pth'))
    assert set(load_file(published)) == {'meta', 'state_dict'}


def test_by_epoch_and_other_directory(images, tmp_path):
    cfg = toy.config(tmp_path / 'run', images, loop='epoch', sampler='DefaultSampler', epochs=2)
    cfg['default_hooks']['checkpoint'] = dict(type='mmssl.CheckpointHook', out_dir=str(tmp_path / 'out'))
    cfg['default_hooks']['checkpoint'].update(interval=1)
    Runner.from_cfg(cfg).train()
    assert checkpoints(tmp_path / 'out' / 'run') == ['epoch_1.pth', 'epoch_2.pth']
    path = find_resume_checkpoint(tmp_path / 'run')
    assert (
        path.resolve() == tmp_path / 'out' / 'run' / 'epoch_2.pth'
        and torch.load(path, weights_only=True)['meta']['epoch'] == 2
    )
