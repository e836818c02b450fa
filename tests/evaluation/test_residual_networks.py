"""k-NN and linear probing of residual networks, which are made for no image size and have no tokens."""

import json
from pathlib import Path

import pytest
import torch

from mmssl.cli import main
from mmssl.evaluation.features import extract_features, image_size_of

CONFIG = str(Path(__file__).resolve().parents[2] / 'configs/smoke/moco.py')


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    """Two classes of one colour each."""
    from PIL import Image

    root = tmp_path_factory.mktemp('images')
    for split, count in (('train', 6), ('val', 3)):
        for index, (name, colour) in enumerate([('red', (200, 30, 30)), ('blue', (30, 30, 200))]):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new('RGB', (40, 40), tuple(value + 3 * number + index for value in colour)).save(
                    folder / f'{number}.png'
                )
    return root


@pytest.fixture(scope='module')
def model():
    from mmssl.apis.loading import build_model

    return build_model(CONFIG, 'random', seed=3)[0]


@pytest.mark.parametrize(
    ('command', 'kind'),
    [
        ('knn', 'pre-training checkpoint'),
        ('knn', 'names of torchvision'),
        ('linear', 'pre-training checkpoint'),
    ],
)
def test_commands(command, kind, images, model, tmp_path, capsys):
    weights = (
        {'state_dict': model.state_dict()}
        if kind == 'pre-training checkpoint'
        else model.backbone.state_dict()
    )
    torch.save(weights, tmp_path / 'weights.pth')
    arguments = [
        command,
        CONFIG,
        str(tmp_path / 'weights.pth'),
        '--data',
        str(images),
        '--workers',
        '0',
        '--device',
        'cpu',
        '--out',
        str(tmp_path / 'result.json'),
    ]
    if command == 'linear':
        arguments += ['--epochs', '10', '--lr', '0.1', '--work-dir', str(tmp_path / 'work')]
    assert main(arguments) == 0, capsys.readouterr().err
    result = json.loads((tmp_path / 'result.json').read_text())
    assert result['top1'] == 100
    assert result['image_size'] == 48  # of the crops that the config trains on
    if command == 'linear':
        return
    assert main([*arguments, '--image-size', '32']) == 0
    assert json.loads((tmp_path / 'result.json').read_text())['image_size'] == 32
    assert main([*arguments, '--pool', 'cls']) == 1
    assert (
        "pool 'cls' needs a class token, but the backbone returned maps (12, 128, 2, 2); use pool 'avg'"
        in capsys.readouterr().err
    )


def test_features_are_the_mean_of_the_last_maps(model):
    batch = torch.randint(256, (3, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features, _ = extract_features(model, [(batch, torch.zeros(3))])
    mean, std = (
        torch.tensor(values).view(3, 1, 1) for values in ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    )
    model.eval()
    with torch.no_grad():
        maps = model.backbone((batch.flip(1).float() - mean) / std)[-1]
    torch.testing.assert_close(features, maps.mean((2, 3)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ('step', 'size'),
    [
        ({'type': 'mmssl.LoadViews', 'preset': 'moco-v2', 'scale': 48}, 48),
        ({'type': 'mmssl.LoadViews', 'preset': 'moco-v2'}, 224),
        ({'type': 'mmssl.LoadViews', 'views': [{'num': 2, 'scale': (64, 56)}, {'num': 4, 'scale': 32}]}, 56),
        ({'type': 'RandomResizedCrop', 'scale': 96}, 96),
        ({'type': 'RandomAffine', 'scale': (0.5, 1.5)}, 224),
    ],
)
def test_image_size_is_that_of_training(step, size, model):
    loader = {'dataset': {'pipeline': [{'type': 'LoadImageFromFile'}, step, {'type': 'PackInputs'}]}}
    assert image_size_of(model, {'train_dataloader': loader}) == size
    assert image_size_of(model) == image_size_of(model, {}) == 224
    assert image_size_of(torch.nn.Linear(1, 1), None) == 224
