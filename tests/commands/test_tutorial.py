"""The tutorial's road on the demo data: pool, pre-train, and one file as the start of three tasks."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / 'configs/tutorial'
PLAIN = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
# task -> its config, where its model keeps the backbone
TASKS = {
    'bccd': ('rfcn_resnet18-narrow_1xb4-300i_bccd-320x240.py', 'backbone'),
    'camvid': ('gcn_resnet18-narrow_1xb6-amp-400i_camvid-256x256.py', 'backbone'),
    'coco': ('sam_resnet18-narrow_1xb4-amp-500i_coco-minis-256.py', 'model.image_encoder.backbone'),
}


def losses(work_dir):
    """Losses that a run logged."""
    (log,) = work_dir.glob('*/vis_data/scalars.json')
    return [entry['loss'] for entry in map(json.loads, log.read_text().splitlines()) if 'loss' in entry]


@pytest.fixture(scope='module')
def data(demo_data, tmp_path_factory):
    """The demo scenes in the layouts of BCCD, CamVid and the two parts of COCO."""
    root, scenes = tmp_path_factory.mktemp('tasks'), demo_data / 'scenes'
    shutil.copytree(scenes / 'VOC2007', root / 'bccd')
    for path in (root / 'bccd/Annotations').glob('*.xml'):
        text = path.read_text()
        for digit in range(10):
            text = text.replace(f'digit_{digit}<', f'{("RBC", "WBC", "Platelets")[digit % 3]}<')
        path.write_text(text)
    (root / 'camvid').symlink_to(scenes, target_is_directory=True)
    for images, annotations in (('coco_mini', 'coco_mini/annotations'), ('coco_light/images', 'coco_light')):
        for folder in (images, annotations):
            (root / 'coco' / folder).mkdir(parents=True, exist_ok=True)
        for split in ('train', 'val'):
            (root / 'coco' / images / f'{split}2017').symlink_to(
                scenes / 'images' / split, target_is_directory=True
            )
            shutil.copy(
                scenes / f'annotations/instances_{split}.json',
                root / 'coco' / annotations / f'instances_{split}2017.json',
            )
    return root


@pytest.fixture(scope='module')
def pretrained(warm_cli, data, tmp_path_factory):
    """Checkpoint of two steps on twelve pooled images."""
    folder = tmp_path_factory.mktemp('pretrain')
    names = (data / 'bccd/ImageSets/Main/train.txt').read_text().split()[:8]
    (folder / 'list.txt').write_text('\n'.join(names))
    (folder / 'more').mkdir()
    for path in sorted((data / 'camvid/images/val').glob('*.jpg'))[:4]:
        shutil.copy(path, folder / 'more')
    pool = folder / 'pool'
    done = warm_cli(
        pool,
        '--short-side',
        '64',
        f'{data}/bccd/JPEGImages:{folder}/list.txt',
        folder / 'more',
        program=ROOT / 'tools/pool_images.py',
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1].split() == ['12', str(pool)]
    files = sorted(pool.rglob('*.jpg'))
    assert [path.stem for path in files[:8]] == names
    assert Image.open(files[0]).size == (85, 64)
    done = warm_cli(
        'train',
        TUTORIAL / 'pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool.py',
        '--data',
        pool,
        '--work-dir',
        folder / 'run',
        '--cfg-options',
        *PLAIN,
        'train_dataloader.batch_size=6',
        'train_cfg.max_epochs=1',
        'param_scheduler.warmup=0',
        'param_scheduler.end=1',
        'default_hooks.logger.interval=1',
    )
    assert done.returncode == 0, done.stderr[-2000:]
    curve = losses(folder / 'run')
    assert len(curve) == 2 and all(map(math.isfinite, curve))
    return folder / 'run/epoch_1.pth'


@pytest.mark.parametrize('task', TASKS)
def test_one_file_starts_every_task(task, warm_cli, data, pretrained, tmp_path):
    """After two steps at a learning rate of 0 the backbone is the pre-trained one, weight for weight."""
    config, place = TASKS[task]
    done = warm_cli(
        'train',
        TUTORIAL / config,
        '--data',
        data / task,
        '--work-dir',
        tmp_path,
        '--no-validate',
        '--cfg-options',
        *PLAIN,
        f'model.{place}.init_cfg.checkpoint={pretrained}',
        'train_dataloader.batch_size=2',
        'train_cfg.max_iters=2',
        'optim_wrapper.optimizer.lr=0.',
        'default_hooks.logger.interval=1',
    )
    assert done.returncode == 0, done.stderr[-2000:]
    curve = losses(tmp_path)
    assert len(curve) == 2 and all(map(math.isfinite, curve))
    before, after = (
        torch.load(path, weights_only=True)['state_dict'] for path in (pretrained, tmp_path / 'iter_2.pth')
    )
    weights = {
        name.removeprefix('backbone.'): value
        for name, value in before.items()
        if name.startswith('backbone.') and name.endswith(('weight', 'bias'))
    }
    assert len(weights) == 60  # 20 convolutions, as many norms
    inside = place.removeprefix('model.')  # InteractiveSAM's own weights are named as the official ones
    for name, value in weights.items():
        assert torch.equal(after[f'{inside}.{name}'], value), name


def test_without_the_pretrained_file_a_task_says_which_it_misses(warm_cli, data, tmp_path):
    done = warm_cli(
        'train',
        TUTORIAL / TASKS['camvid'][0],
        '--data',
        data / 'camvid',
        '--work-dir',
        tmp_path / 'run',
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert (
        'pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool/epoch_40.pth'
        in done.stderr.strip().splitlines()[-2:][0]
    )


def test_a_pool_of_nothing_is_an_error(warm_cli, data, tmp_path):
    (tmp_path / 'list.txt').write_text('nobody\n')
    done = warm_cli(
        tmp_path / 'pool',
        f'{data}/bccd/JPEGImages:{tmp_path}/list.txt',
        program=ROOT / 'tools/pool_images.py',
    )
    assert done.returncode != 0
    assert 'none of the images' in done.stderr
