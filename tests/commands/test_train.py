"""``mmssl train`` as people type it, on real photographs and on the demo data."""

import json
import re
import shutil

import pytest
import torch

from mmssl.cli import main

pytestmark = pytest.mark.slow

SMALL = [
    'model.backbone.arch._delete_=True',
    'model.backbone.arch.embed_dims=64',
    'model.backbone.arch.num_layers=2',
    'model.backbone.arch.num_heads=4',
    'model.backbone.arch.feedforward_channels=128',
    'model.neck.embed_dim=64',
    'model.neck.decoder_embed_dim=64',
    'model.neck.decoder_depth=1',
    'model.neck.decoder_num_heads=4',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
]


def losses(work_dir):
    """Loss of every iteration that the run's logs hold, by iteration."""
    found = {}
    for path in sorted(work_dir.glob('*/vis_data/*.json')):
        for line in path.read_text().splitlines():
            entry = json.loads(line)
            if 'loss' in entry:
                found[entry['step']] = entry['loss']
    return found


@pytest.fixture(scope='module')
def folder(tmp_path_factory, data_root):
    """Forty photographs, nested and flat, with a truncated and an empty file among them."""
    root = tmp_path_factory.mktemp('my photos ä')
    files = sorted((data_root / 'imagenette/train').glob('*/*.JPEG'))[::37][:40]
    assert len(files) == 40
    for number, path in enumerate(files):
        target = root / ('nested/deep' if number % 2 else '.')
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target / f'{number}.jpg')
    (root / 'empty.jpg').touch()
    (root / 'cut.jpg').write_bytes(files[0].read_bytes()[:3000])
    return root


def test_a_folder_of_photographs_trains_and_lists_its_bad_files(warm_cli, folder, tmp_path):
    done = warm_cli(
        'train',
        'configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py',
        '--data',
        folder,
        '--work-dir',
        tmp_path / 'run',
        '--cfg-options',
        *SMALL,
        'train_dataloader.batch_size=4',
        'train_cfg.max_epochs=2',
        'param_scheduler.warmup=0',
        'param_scheduler.end=2',
        'default_hooks.logger.interval=1',
        'optim_wrapper.optimizer.lr=1e-3',
    )
    assert done.returncode == 0, done.stderr[-3000:]
    curve = losses(tmp_path / 'run')
    assert len(curve) == 20  # 42 files, the last half batch dropped
    assert sum(list(curve.values())[-5:]) < sum(list(curve.values())[:5])
    bad = (tmp_path / 'run/bad_files.txt').read_text()
    assert 'empty.jpg\t' in bad and 'cut.jpg\t' in bad and len(bad.splitlines()) == 2
    assert (tmp_path / 'run/last_checkpoint').read_text() == 'epoch_2.pth'
    saved = torch.load(tmp_path / 'run/epoch_2.pth', weights_only=True)
    assert saved['meta']['iter'] == 20


def test_stop_and_resume_is_exact_bit_for_bit(warm_cli, with_demo, tmp_path):
    with_demo(tmp_path)
    common = [
        'configs/smoke/mae.py',
        '--cfg-options',
        'train_dataloader.num_workers=2',
        'optim_wrapper.dtype=bfloat16',
    ]
    straight = warm_cli(
        'train', *common, 'train_cfg.max_iters=8', '--work-dir', tmp_path / 'straight', cwd=tmp_path
    )
    assert straight.returncode == 0, straight.stderr[-3000:]
    for stop, extra in ((4, []), (8, ['--resume'])):
        done = warm_cli(
            'train',
            *common,
            f'train_cfg.max_iters={stop}',
            '--work-dir',
            tmp_path / 'parts',
            *extra,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    one, other = (
        torch.load(tmp_path / name / 'iter_8.pth', weights_only=True) for name in ('straight', 'parts')
    )
    assert (
        losses(tmp_path / 'straight') == losses(tmp_path / 'parts') and len(losses(tmp_path / 'parts')) == 8
    )
    for key, value in one['state_dict'].items():
        assert torch.equal(value, other['state_dict'][key]), key


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            ['configs/mae/mae_vit-base-p16_8xb51-amp-coslr-300e_in1k.py'],
            'does not exist; did you mean '
            r"'mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k\.py'",
        ),
        (
            ['configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'],
            'no such folder: data/imagenet/train; .*--data DIR points the config at your own folder',
        ),
        (['configs/smoke/mae.py', '--data', 'no/such/folder'], '--data no/such/folder does not exist'),
        (['configs/smoke/mae.py', '--data', '{empty}'], 'no such folder: .*empty/train; .*it holds nothing'),
        (
            ['configs/smoke/mae.py', '--cfg-options', 'model.backbone.mask_ration=0.6'],
            "no argument 'mask_ration'; did you mean 'mask_ratio'",
        ),
        (
            ['configs/smoke/mae.py', '--cfg-options', 'model.backbone.mask_ratio=1.5'],
            r'mask_ratio 1\.5 is outside \(0, 1\)',
        ),
        (
            ['configs/smoke/mae.py', '--cfg-options', 'model.type=mmssl.MEA'],
            r"'mmssl\.MEA' is not registered; did you mean 'mmssl\.MAE'",
        ),
        (
            ['configs/smoke/mae.py', '--cfg-options', 'train_dataloder.batch_size=2'],
            "no 'train_dataloder'; did you mean 'train_dataloader'",
        ),
        (['configs/smoke/mae.py', '--cfg-options', 'batch'], "takes KEY=VALUE, not 'batch'"),
        (['configs/smoke/mae.py', '--resume', 'gone.pth'], r'gone\.pth'),
        (
            [
                'configs/mae/benchmarks/vit-base-p16_8xb128-coslr-100e_in1k.py',
                '--data',
                '{labelled}',
                '--cfg-options',
                'model.backbone.arch=tiny',
                'model.head.in_channels=192',
                'model.backbone.init_cfg=None',
                'train_dataloader.num_workers=0',
                'train_dataloader.batch_size=2',
                'train_dataloader.persistent_workers=False',
            ],
            r'head predicts 1000 classes, but the data has 2 .*set model\.head\.num_classes=2',
        ),
    ],
)
def test_bad_input_gets_one_clear_message_and_leaves_nothing(
    with_demo, tmp_path, monkeypatch, capsys, forget_runs, arguments, message
):
    from PIL import Image

    with_demo(tmp_path)
    (tmp_path / 'empty').mkdir()
    for split in ('train', 'val'):
        for name in ('cat', 'dog'):
            (tmp_path / 'labelled' / split / name).mkdir(parents=True)
            for number in range(2):
                Image.new('RGB', (32, 32), (90 * number, 0, 0)).save(
                    tmp_path / 'labelled' / split / name / f'{number}.png'
                )
    arguments = [
        argument.format(empty=tmp_path / 'empty', labelled=tmp_path / 'labelled') for argument in arguments
    ]
    monkeypatch.chdir(tmp_path)
    assert main(['train', *arguments, '--work-dir', str(tmp_path / 'runs/first')]) == 1
    errors = capsys.readouterr().err
    last = [line for line in errors.splitlines() if 'error:' in line]
    assert len(last) == 1 and re.search(message, last[0]), errors[-2000:]
    assert 'Traceback' not in errors
    assert not (tmp_path / 'runs').exists() and tmp_path.exists()


def test_a_failed_start_keeps_what_was_in_the_work_dir(warm_cli, with_demo, tmp_path):
    with_demo(tmp_path)
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/notes.txt').write_text('mine')
    done = warm_cli(
        'train',
        'configs/smoke/mae.py',
        '--work-dir',
        tmp_path / 'run',
        '--cfg-options',
        'model.backbone.img_size=50',
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert [path.name for path in (tmp_path / 'run').iterdir()] == ['notes.txt']


def test_amp_on_the_cpu_and_auto_scale_lr(warm_cli, with_demo, tmp_path):
    with_demo(tmp_path)
    done = warm_cli(
        'train',
        'configs/smoke/mae.py',
        '--amp',
        '--auto-scale-lr',
        '--work-dir',
        tmp_path / 'run',
        '--cfg-options',
        'train_dataloader.batch_size=8',
        'train_cfg.max_iters=4',
        'param_scheduler.warmup=0',
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    saved = torch.load(tmp_path / 'run/iter_4.pth', weights_only=True)
    assert saved['optimizer']['param_groups'][0]['initial_lr'] == pytest.approx(5e-4)
    refused = warm_cli(
        'train', 'configs/smoke/mae.py', '--amp', 'float16', '--work-dir', tmp_path / 'other', cwd=tmp_path
    )
    if not torch.cuda.is_available():
        assert refused.returncode == 1 and 'bfloat16' in refused.stderr and not (tmp_path / 'other').exists()


def test_a_loss_that_is_not_a_number_stops_at_its_step(warm_cli, with_demo, tmp_path):
    with_demo(tmp_path)
    done = warm_cli(
        'train',
        'configs/smoke/mae.py',
        '--work-dir',
        tmp_path / 'run',
        '--cfg-options',
        'optim_wrapper.optimizer.lr=1e30',
        'param_scheduler.warmup=0',
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert re.search(r'iteration \d', done.stderr) and re.search(r'digit_\d', done.stderr), done.stderr[
        -2000:
    ]
