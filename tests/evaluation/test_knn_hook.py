"""The hook inside real training runs of a small MAE on generated images."""

import json
from unittest import mock

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.runner import Runner
from PIL import Image

from mmssl.engine.knn_hook import KNNHook, compare_with_start

pytest.importorskip('mmssl.selfsup.mae')
SIZES = dict(embed_dims=16, num_layers=1, num_heads=2, feedforward_channels=32)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    rng = np.random.default_rng(0)
    for split, count in (('train', 8), ('val', 4)):
        for label, colour in (('red', (200, 40, 40)), ('blue', (40, 40, 200))):
            (root / split / label).mkdir(parents=True)
            for index in range(count):
                pixels = np.clip(rng.normal(colour, 20, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / label / f'{index}.png')
    return root


def config(data, work_dir, hook=None, epochs=2, **kwargs):
    pipeline = [dict(type='mmssl.LoadRandomResizedCrop', scale=32), dict(type='mmpretrain.PackInputs')]
    return Config(
        dict(
            default_scope='mmpretrain',
            work_dir=str(work_dir),
            randomness=dict(seed=0),
            log_level='WARNING',
            launcher='none',
            default_hooks=dict(checkpoint=dict(type='CheckpointHook', interval=1, save_optimizer=True)),
            model=dict(
                type='mmssl.MAE',
                backbone=dict(type='mmssl.MAEViT', arch=SIZES, img_size=32, patch_size=8),
                neck=dict(
                    type='mmssl.MAEDecoder',
                    num_patches=16,
                    patch_size=8,
                    embed_dim=16,
                    decoder_embed_dim=16,
                    decoder_depth=1,
                    decoder_num_heads=2,
                ),
                head=dict(type='mmssl.MAEHead', norm_pix=True, patch_size=8),
                data_preprocessor=dict(
                    type='mmpretrain.SelfSupDataPreprocessor', mean=[120.0] * 3, std=[60.0] * 3, to_rgb=True
                ),
            ),
            train_dataloader=dict(
                batch_size=4,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=True),
                collate_fn=dict(type='default_collate'),
                dataset=dict(
                    type='mmssl.ImageFolder', data_root=str(data), data_prefix='train', pipeline=pipeline
                ),
            ),
            train_cfg=dict(by_epoch=True, max_epochs=epochs),
            optim_wrapper=dict(optimizer=dict(type='AdamW', lr=1e-3)),
            custom_hooks=[dict(type=KNNHook, data=str(data), **hook)] if hook is not None else [],
            **kwargs,
        )
    )


def run(cfg, name):
    cfg.experiment_name = name
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner


def weights(runner):
    return {name: value.clone() for name, value in runner.model.state_dict().items()}


def test_results_are_recorded_and_training_is_untouched(data, tmp_path):
    plain = weights(run(config(data, tmp_path / 'plain'), 'hook-plain'))
    runner = run(config(data, tmp_path / 'knn', dict(interval=1, at_start=True, k=3)), 'hook-knn')
    assert all(torch.equal(plain[name], value) for name, value in weights(runner).items())
    entries = json.loads((tmp_path / 'knn' / 'knn.json').read_text())
    assert [(entry['iter'], entry['epoch']) for entry in entries] == [(0, 0), (4, 1), (8, 2)]
    assert all(entry['k'] == 3 and entry['num_train'] == 16 and entry['num_val'] == 8 for entry in entries)
    assert entries[-1]['top1'] == 100.0  # two colours are told apart by any features
    history, _ = runner.message_hub.get_scalar('knn/top1').data
    assert history.tolist() == [entry['top1'] for entry in entries]
    scalars = [
        json.loads(line)
        for path in (tmp_path / 'knn').rglob('scalars.json')
        for line in path.read_text().splitlines()
    ]
    assert [line['step'] for line in scalars if 'knn/top1' in line] == [0, 4, 8]


def test_intervals_in_iterations_and_the_end(data, tmp_path):
    run(config(data, tmp_path, dict(interval=3, by_epoch=False, max_train=6, max_val=4)), 'hook-iters')
    entries = json.loads((tmp_path / 'knn.json').read_text())
    assert [entry['iter'] for entry in entries] == [3, 6, 8]
    assert {entry['num_train'] for entry in entries} == {6} and {entry['num_val'] for entry in entries} == {4}


def test_a_resumed_run_goes_on_with_the_list(data, tmp_path):
    run(config(data, tmp_path, dict(interval=1), epochs=1), 'hook-first')
    first = json.loads((tmp_path / 'knn.json').read_text())
    run(config(data, tmp_path, dict(interval=1, at_start=True), epochs=2, resume=True), 'hook-resumed')
    entries = json.loads((tmp_path / 'knn.json').read_text())
    assert entries[:1] == first and [entry['iter'] for entry in entries] == [4, 8]


def test_the_linear_probe_is_recorded_and_equals_the_one_by_hand(data, tmp_path):
    from mmssl.evaluation import extract_features, image_loader, labelled_images, linear_probe

    runner = run(config(data, tmp_path, dict(linear=True, interval=10), epochs=1), 'linear')
    train, val = labelled_images(str(data), 32)
    parts = [extract_features(runner.model, image_loader(part, 64, 0), None) for part in (train, val)]
    expected = linear_probe(*parts[0], *parts[1], epochs=20)['top1']
    recorded = json.loads((tmp_path / 'knn.json').read_text())
    assert [entry['linear_top1'] for entry in recorded] == [pytest.approx(expected)]
    assert runner.message_hub.get_scalar('linear/top1').current() == pytest.approx(expected)


def test_worse_features_than_at_the_start_are_said_with_the_numbers():
    start = dict(top1=40.0, num_val=1000)
    message = compare_with_start(start, dict(top1=30.0, num_val=1000))
    assert 'k-NN 30.00 % (40.00 % at the start, 1000 images)' in message and 'learning rate' in message
    # two standard errors of this difference are 4.3 points
    assert compare_with_start(start, dict(top1=35.5, num_val=1000))
    assert not compare_with_start(start, dict(top1=36.0, num_val=1000))
    assert not compare_with_start(start, dict(top1=60.0, num_val=1000))


def test_a_run_that_makes_features_worse_is_warned_about(data, tmp_path):
    hook = dict(at_start=True, interval=1)
    cfg = config(data, tmp_path, hook, epochs=1)
    with (
        mock.patch.object(
            KNNHook,
            '_compute',
            side_effect=[
                dict(top1=top1, top5=100.0, k=5, num_train=16, num_val=400, seconds=0.0)
                for top1 in (90.0, 50.0)
            ],
        ),
        mock.patch.object(MMLogger, 'warning') as warning,
    ):
        run(cfg, 'worse')
    assert any('the features are worse than at the start' in str(call) for call in warning.call_args_list)


def test_a_wrong_folder_ends_the_run_before_the_first_step(data, tmp_path):
    cfg = config(data, tmp_path, dict(interval=1))
    cfg.custom_hooks[0].data = str(data) + '-typo'
    with pytest.raises(FileNotFoundError, match='no such folder'):
        run(cfg, 'hook-typo')
    assert not (tmp_path / 'knn.json').exists()


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        (dict(interval=0), 'interval=0'),
        (dict(k=0), 'k=0'),
        (dict(temperature=0), 'temperature=0'),
        (dict(pool='max'), "pool='max'"),
        (dict(batch_size=1.5), 'batch_size=1.5'),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        KNNHook(data='x', **kwargs)


def test_a_sharded_model_is_refused():
    from torch.distributed.fsdp import FullyShardedDataParallel

    class Sharded(FullyShardedDataParallel):
        def __init__(self):  # without a process group
            torch.nn.Module.__init__(self)

    class Run:
        model = Sharded()

    with pytest.raises(ValueError, match='FSDP'):
        KNNHook(data='x').before_train(Run())
