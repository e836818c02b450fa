"""The sharded ViT-L recipe, small, on two CPU processes: equal to DDP, resumed exactly, saved whole."""

import json

import pytest
import torch

pytestmark = pytest.mark.slow

CONFIG = 'configs/mae/mae_vit-large-p16_8xb512-fsdp-amp-coslr-1600e_in1k.py'
MODEL = [
    'model.backbone.arch._delete_=True',
    'model.backbone.arch.embed_dims=192',
    'model.backbone.arch.num_layers=2',
    'model.backbone.arch.num_heads=3',
    'model.backbone.arch.feedforward_channels=384',
    'model.backbone.img_size=32',
    'model.backbone.patch_size=8',
    'model.neck.patch_size=8',
    'model.head.patch_size=8',
    'model.neck.num_patches=16',
    'model.neck.embed_dim=192',
    'model.neck.decoder_embed_dim=32',
    'model.neck.decoder_depth=1',
    'model.neck.decoder_num_heads=2',
]
SHORT = [
    'train_dataloader.dataset.pipeline.0.scale=32',
    'train_dataloader.batch_size=4',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'train_dataloader.num_batch_per_epoch=2',
    'param_scheduler.warmup=0',
    'param_scheduler.end=2',
    'default_hooks.logger.interval=1',
]


def losses(work_dir):
    """Return the loss of every iteration that the run's logs hold."""
    by_step = {}
    for path in sorted(work_dir.glob('*/vis_data/*.json')):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if 'loss' in entry:
                by_step[entry['step']] = entry['loss']
    return by_step


@pytest.fixture(scope='module')
def folder(tmp_path_factory, train):
    """A run of two epochs of two iterations in ``sharded``, on the demo data."""
    folder = tmp_path_factory.mktemp('fsdp')
    train(folder, 'sharded', epochs=2)
    return folder


@pytest.fixture(scope='module')
def train(repo_root, warm_cli, demo_data):
    """``train(folder, work_dir, *arguments, epochs=N)`` trains on two processes."""

    def train(folder, work_dir, *arguments, epochs, options=()):
        done = warm_cli(
            'train',
            repo_root / CONFIG,
            '--data',
            demo_data / 'imagenet',
            '--work-dir',
            work_dir,
            *arguments,
            '--cfg-options',
            *MODEL,
            *SHORT,
            f'train_cfg.max_epochs={epochs}',
            *options,
            cwd=folder,
            ranks=2,
        )
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-4000:]

    return train


def build_model(root):
    from mmengine.registry import init_default_scope

    from mmssl.config.load import load_config
    from mmssl.registry import MODELS, build

    cfg = load_config(str(root / CONFIG), MODEL)
    init_default_scope('mmpretrain')
    return build({'data_preprocessor': cfg.data_preprocessor, **cfg.model}, MODELS)


def test_the_losses_are_those_of_ddp(train, folder):
    from mmssl.checkpoint import strip_module

    train(folder, 'ddp', epochs=1, options=['strategy=None'])
    sharded, ddp = losses(folder / 'sharded'), losses(folder / 'ddp')
    assert len(sharded) == 4 and len(ddp) == 2
    for step, loss in ddp.items():
        assert sharded[step] == pytest.approx(loss, abs=1e-4)
    assert sharded[4] < sharded[1]
    # the same steps, not only the same start
    one, other = (
        strip_module(torch.load(folder / name / 'epoch_1.pth', weights_only=True)['state_dict'])
        for name in ('sharded', 'ddp')
    )
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert value.shape == other[key].shape and torch.allclose(value, other[key], atol=2e-2), key


def test_the_checkpoint_fits_an_unsharded_model(repo_root, folder):
    from mmssl.checkpoint import load_weights

    model = build_model(repo_root)
    checkpoint = folder / 'sharded/epoch_2.pth'
    assert checkpoint.is_file() and (folder / 'sharded/last_checkpoint').read_text() == 'epoch_2.pth'
    assert load_weights(model, checkpoint, strict=True).complete
    # the groups and the layout are those of an optimizer that is not sharded
    optimizer = torch.load(checkpoint, weights_only=True)['optimizer']
    ddp = torch.load(folder / 'ddp/epoch_1.pth', weights_only=True)['optimizer']
    for group, other in zip(optimizer['param_groups'], ddp['param_groups'], strict=True):
        assert group['params'] == other['params'] and group['weight_decay'] == other['weight_decay']
    assert optimizer.keys() == ddp.keys() and optimizer['state'].keys() == ddp['state'].keys()
    for index, state in optimizer['state'].items():
        assert {key: value.shape for key, value in state.items()} == {
            key: value.shape for key, value in ddp['state'][index].items()
        }


def test_resume_is_exact(train, folder):
    train(folder, 'resumed', '--resume', folder / 'sharded/epoch_1.pth', epochs=2)
    straight = losses(folder / 'sharded')
    assert losses(folder / 'resumed') == {step: straight[step] for step in (3, 4)}  # bit for bit
    one, other = (
        torch.load(folder / name / 'epoch_2.pth', weights_only=True) for name in ('sharded', 'resumed')
    )
    for key, value in one['state_dict'].items():
        assert torch.equal(value, other['state_dict'][key]), key
    for name, state in one['optimizer']['state'].items():
        for key, value in state.items():
            assert torch.equal(value, other['optimizer']['state'][name][key]), (name, key)
