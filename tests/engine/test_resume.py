"""N steps, stop, N more, against 2N steps: every loss and every weight, bit for bit."""

import pickle
import random
import types

import numpy as np
import pytest
import resume_toy as toy
import torch
from mmengine.runner import Runner as MMEngineRunner
from mmengine.runner import loops

from mmssl.checkpoint import load_file
from mmssl.engine import seeding
from mmssl.engine.plain_types import to_plain
from mmssl.engine.run_state import rng_state, set_rng_state
from mmssl.engine.runner import FlexibleRunner, Runner, runner_class

pytestmark = pytest.mark.slow

LOOPS = {
    'endless': dict(loop='iter', sampler='InfiniteSampler'),
    'iterations': dict(loop='iter', sampler='DefaultSampler'),
    'epochs': dict(loop='epoch', sampler='DefaultSampler'),
}


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    directory = tmp_path_factory.mktemp('data') / 'images'
    toy.make_images(directory)
    return directory


@pytest.fixture(autouse=True, scope='module')
def quick():
    # mmengine sleeps two seconds whenever a finite loader starts again
    before = loops.time
    loops.time = types.SimpleNamespace(sleep=lambda seconds: None, time=before.time)
    torch.set_num_threads(1)
    yield
    loops.time = before


@pytest.fixture(scope='module')
def straight(images, tmp_path_factory):
    """Twenty steps in one go by loop, with a checkpoint after each: (directory, losses, digest)."""
    done = {}

    def run(kind):
        if kind not in done:
            work_dir = tmp_path_factory.mktemp(kind)
            done[kind] = (work_dir, *toy.train(work_dir, images, interval=1, **LOOPS[kind]))
        return done[kind]

    return run


def tail(losses, after):
    return {step: loss for step, loss in losses.items() if step > after}


@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', LOOPS)
def test_resumed_run_is_the_same_bit_for_bit(kind, workers, images, straight, tmp_path):
    """Ten is an epoch's end and complete; seven is inside an epoch and inside an accumulated step."""
    work_dir, losses, digest = straight(kind)
    assert len(losses) == 20 and len(set(losses.values())) == 20
    for step in (7, 10):
        resumed = toy.train(
            tmp_path / str(step), images, workers=workers, resume=work_dir / f'iter_{step}.pth', **LOOPS[kind]
        )
        assert resumed == (tail(losses, step), digest)


@pytest.mark.parametrize('kind', LOOPS)
def test_workers_do_not_change_the_losses(kind, images, straight, tmp_path):
    _, losses, digest = straight(kind)
    assert toy.train(tmp_path, images, workers=2, **LOOPS[kind]) == (losses, digest)


def test_validation_does_not_change_the_losses(images, straight, tmp_path):
    """A run resumed right after a validation does not repeat it, so that what it draws must not count."""
    _, losses, digest = straight('epochs')
    assert toy.train(tmp_path, images, validate=False, **LOOPS['epochs']) == (losses, digest)


def test_runner_of_mmengine_is_not_exact(images, tmp_path):
    """The control: the same comparison fails with mmengine's own runner, so that it can fail."""
    results = []
    for resume in (None, tmp_path / 'a' / 'iter_10.pth'):
        runner = MMEngineRunner.from_cfg(
            toy.config(tmp_path / ('b' if resume else 'a'), images, resume=resume, accumulate=1)
        )
        runner.train()
        results.append(next(hook for hook in runner.hooks if isinstance(hook, toy.Record)).losses)
    assert tail(results[0], 10) != results[1]


def test_position_inside_an_epoch_is_counted(images, straight, tmp_path):
    """Resumed after seven steps with five per epoch, hooks get the batches 2, 3, 4 and not 0, 1, 2."""
    work_dir, *_ = straight('epochs')
    runner = Runner.from_cfg(toy.config(tmp_path, images, resume=work_dir / 'iter_7.pth', **LOOPS['epochs']))
    batches = []
    record = next(hook for hook in runner.hooks if isinstance(hook, toy.Record))
    record.after_train_iter = lambda runner, batch_idx, data_batch=None, outputs=None: batches.append(
        (runner.epoch, batch_idx)
    )
    runner.train()
    assert batches == [(1, 2), (1, 3), (1, 4), *((epoch, index) for epoch in (2, 3) for index in range(5))]


def test_custom_batch_sampler(images, tmp_path):
    """mmdet's batches by aspect ratio are skipped without being loaded, and samples keep their seeds."""
    pytest.importorskip('mmdet')
    kwargs = dict(loop='epoch', sampler='DefaultSampler', batch_sampler='mmdet.AspectRatioBatchSampler')
    losses, digest = toy.train(tmp_path / 'a', images, interval=7, **kwargs)
    assert toy.train(tmp_path / 'b', images, workers=2, resume=tmp_path / 'a' / 'iter_7.pth', **kwargs) == (
        tail(losses, 7),
        digest,
    )


def test_seed_of_the_resumed_run_is_taken_over(images, tmp_path):
    """A run without a fixed seed draws one; the resumed one is not told which and must find it."""
    losses, digest = toy.train(tmp_path / 'a', images, randomness=dict(seed=None))
    resumed = toy.train(
        tmp_path / 'b', images, randomness=dict(seed=None), resume=tmp_path / 'a' / 'iter_10.pth'
    )
    assert resumed == (tail(losses, 10), digest)
    assert toy.train(tmp_path / 'c', images, randomness=dict(seed=None))[0] != losses


def test_flexible_runner(images, tmp_path):
    """Without EMAHook, which the host's FlexibleRunner sets up only after it has resumed."""
    kwargs = dict(runner_type='FlexibleRunner', accumulate=1, ema=False, **LOOPS['epochs'])
    losses, digest = toy.train(tmp_path / 'a', images, **kwargs)
    assert len(losses) == 20
    assert toy.train(tmp_path / 'b', images, resume=tmp_path / 'a' / 'iter_10.pth', **kwargs) == (
        tail(losses, 10),
        digest,
    )


def test_other_batch_size_goes_on_at_the_same_sample(images, straight, tmp_path, capfd):
    """Ten batches of four are eight of five: two epochs are behind, and steps of five follow."""
    work_dir, *_ = straight('epochs')
    cfg = toy.config(tmp_path, images, resume=work_dir / 'iter_7.pth', batch_size=5, **LOOPS['epochs'])
    cfg['log_level'] = 'WARNING'
    runner = Runner.from_cfg(cfg)
    runner.train()
    losses = next(hook for hook in runner.hooks if isinstance(hook, toy.Record)).losses
    # in epoch 1 (from 0) eight samples are behind, that is one batch of five: step 4 + 1 is the last one done
    assert sorted(losses) == list(range(6, 17))
    assert 'batch size 4 on 1 rank(s), this run has 5 on 1' in ''.join(capfd.readouterr())


def test_checkpoint_is_plain_data(straight):
    """Bare torch reads it with nothing allowed; the host's pickles HistoryBuffer, NumPy and getattr."""
    work_dir, *_ = straight('epochs')
    with torch.serialization.safe_globals([]):
        checkpoint = torch.load(work_dir / 'iter_7.pth', weights_only=True)
    assert set(checkpoint) == {
        'meta',
        'state_dict',
        'message_hub',
        'optimizer',
        'param_schedulers',
        'ema_state_dict',
        'gradients',
    }
    assert checkpoint['meta']['seed'] == 3 and len(checkpoint['meta']['rng']) == 1
    assert checkpoint['meta']['dataset_meta'] == dict(classes=('a', 'b'), palette=[[0, 1, 2], [3, 4, 5]])
    assert checkpoint['state_dict']._metadata['net.1'] == dict(version=2)


def test_log_history_survives(images, straight, tmp_path):
    work_dir, losses, _ = straight('epochs')
    runner = Runner.from_cfg(toy.config(tmp_path, images, resume=work_dir / 'iter_7.pth', **LOOPS['epochs']))
    runner.train()
    history, counts = runner.message_hub.get_scalar('train/loss').data
    assert [value.hex() for value in history.tolist()] == list(losses.values())
    assert counts.tolist() == [1] * 20


def test_weights_only_file_is_refused(images, straight, tmp_path):
    work_dir, *_ = straight('epochs')
    torch.save(load_file(work_dir / 'iter_7.pth')['state_dict'], tmp_path / 'weights.pth')
    with pytest.raises(ValueError, match='holds weights only.*load_from'):
        toy.train(tmp_path / 'a', images, resume=tmp_path / 'weights.pth', **LOOPS['epochs'])


def test_checkpoint_of_the_hosts_runner_is_resumed(images, tmp_path, capfd):
    runner = MMEngineRunner.from_cfg(toy.config(tmp_path / 'a', images, **LOOPS['epochs']))
    runner.train()
    cfg = toy.config(tmp_path / 'b', images, resume=tmp_path / 'a' / 'iter_10.pth', **LOOPS['epochs'])
    cfg['log_level'] = 'WARNING'
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert sorted(next(hook for hook in runner.hooks if isinstance(hook, toy.Record)).losses) == list(
        range(11, 21)
    )
    assert 'has no random states' in ''.join(capfd.readouterr())


def test_generators_round_trip():
    random.gauss(0, 1)
    np.random.randn()  # both keep a second normal number
    state = to_plain(rng_state(), 'rng')
    expected = [
        random.gauss(0, 1),
        random.random(),
        np.random.randn(),
        np.random.rand(),
        torch.rand(2).tolist(),
    ]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    set_rng_state(state)
    assert [
        random.gauss(0, 1),
        random.random(),
        np.random.randn(),
        np.random.rand(),
        torch.rand(2).tolist(),
    ] == expected


def test_seeded_index_survives_pickling():
    index = seeding.SeededIndex(7, 2**63 + 5)
    copied = pickle.loads(pickle.dumps(index))
    assert [10, 11, 12, 13, 14, 15, 16, 17][index] == 17 and index == 7
    assert copied == 7 and copied.seed == 2**63 + 5


def test_seeds_of_ranks_and_epochs_differ():
    """Rank r of W takes every W-th place of the stream: the same places give the same seeds whatever W is."""

    def sampler(rank, world_size):
        inner = types.SimpleNamespace(rank=rank, world_size=world_size, set_epoch=lambda epoch: None)
        return seeding.SeededSampler(
            type('S', (), dict(vars(inner), __iter__=lambda self: iter(range(rank, 12, world_size))))(), 0
        )

    alone = [draw.seed for draw in sampler(0, 1)]
    assert [draw.seed for draw in sampler(1, 3)] == alone[1::3]
    later = sampler(0, 1)
    later.stream_epoch = 1
    assert len(set(alone) | {draw.seed for draw in later}) == 24


def test_main_process_generators_are_untouched(images):
    dataset = seeding.SeededDataset(toy.ToyImages(images))
    random.seed(0), np.random.seed(0), torch.manual_seed(0)
    before = rng_state()
    first, other, again = (
        dataset[seeding.SeededIndex(3, 1)],
        dataset[seeding.SeededIndex(3, 2)],
        dataset[seeding.SeededIndex(3, 1)],
    )
    assert all(torch.equal(value, before[key]) for key, value in rng_state().items())
    assert torch.equal(first['inputs'], again['inputs']) and not torch.equal(first['inputs'], other['inputs'])


def test_dataset_passes_attributes_on(images):
    dataset = seeding.SeededDataset(toy.ToyImages(images))
    dataset.files = dataset.files[:3]  # as hooks that switch a pipeline do
    assert len(dataset) == len(dataset.dataset.files) == 3 and dataset.metainfo is toy.ToyImages.METAINFO
    with pytest.raises(AttributeError):
        _ = dataset.not_there


def test_runner_class():
    assert runner_class({}) is Runner and runner_class(dict(runner_type='FlexibleRunner')) is FlexibleRunner
    with pytest.raises(ValueError, match="no runner_type 'Runnr'"):
        runner_class(dict(runner_type='Runnr'))
