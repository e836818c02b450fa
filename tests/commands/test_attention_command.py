"""``mmssl attention``: the weights against the definition, the pixels of the picture, and what it refuses."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmssl.cli import main
from mmssl.layers.vit import ViT
from mmssl.selfsup.dino import DINOViT
from mmssl.selfsup.mae import MAEViT
from mmssl.selfsup.mocov3 import MoCoV3ViT
from mmssl.visualization.attention import attention_rows, class_attention

ARCH = {'embed_dims': 32, 'num_layers': 3, 'num_heads': 4, 'feedforward_channels': 64}
CONFIG = 'configs/smoke/dino.py'
TILE, GAP, HEADER = 224, 9, 32


def random_backbone(kind, **kwargs):
    torch.manual_seed(0)
    backbone = kind(arch=ARCH, img_size=32, patch_size=8, **kwargs)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.3)
    return backbone.double().train()


def by_definition(backbone, image):
    """The last block's softmax of the class token by head, computed for one patch at a time."""
    weights = dict(backbone.named_parameters())
    tokens, grid = backbone.patch_embed(image[None])
    x = torch.cat([backbone.cls_token, tokens], dim=1) + backbone.positions(grid)
    for layer in backbone.layers[:-1]:
        x = layer(x)
    x = backbone.layers[-1].ln1(x)[0]
    query, key, _ = (x @ weights['layers.2.attn.qkv.weight'].T + weights['layers.2.attn.qkv.bias']).split(
        32, dim=1
    )
    found = []
    for head in range(4):
        part = slice(8 * head, 8 * head + 8)
        scores = [(query[0, part] * row[part]).sum().item() / math.sqrt(8) for row in key]
        total = sum(math.exp(score) for score in scores)
        found.append([math.exp(score) / total for score in scores])
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(
    ('kind', 'out_type'),
    [
        (ViT, 'featmap'),
        (ViT, 'avg_featmap'),
        (DINOViT, 'cls_token'),
        (MAEViT, 'featmap'),
        (MoCoV3ViT, 'cls_token'),
    ],
)
def test_weights_are_those_of_the_last_block(kind, out_type):
    backbone = random_backbone(kind, out_type=out_type)
    images = torch.randn(2, 3, 24, 40, dtype=torch.float64)
    maps = class_attention(backbone, images)
    assert maps.shape == (2, 4, 3, 5)
    for image, found in zip(images, maps, strict=True):
        expected = by_definition(backbone, image)
        torch.testing.assert_close(found.flatten(1), expected[:, 1:], atol=1e-12, rtol=1e-9)
    assert (
        backbone.out_type == out_type
        and backbone.training
        and not backbone.layers[-1].attn._forward_pre_hooks
    )


@pytest.fixture(scope='module')
def folder(tmp_path_factory, repo_root):
    """Two photographs and a checkpoint of a DINO whose teacher is not its student."""
    import sklearn

    from mmssl.apis.loading import build_model

    folder = tmp_path_factory.mktemp('pictures ü')
    photo = Image.open(Path(sklearn.__file__).parent / 'datasets/images/china.jpg').convert('RGB')
    photo.crop((200, 100, 248, 148)).save(folder / 'one.png')
    photo.save(folder / 'large.jpg')
    model, _ = build_model(str(repo_root / CONFIG), 'random')
    with torch.no_grad():
        for parameter in model.teacher.parameters():
            parameter.mul_(3.0)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(iter=0)), folder / 'dino.pth')
    return folder


def run(*arguments):
    return main(['attention', *map(str, arguments)])


def read(path):
    return np.asarray(Image.open(path)).astype(int)


def tile(sheet, row, column, side):
    top, left = HEADER + row * (TILE + GAP), GAP + column * (TILE + GAP)
    enlarged = sheet[top : top + TILE, left : left + TILE]
    centres = ((np.arange(side) + 0.5) * TILE / side).astype(int)
    return enlarged[centres][:, centres]


def test_the_picture_has_the_image_the_mean_and_every_head(warm_cli, repo_root, folder):
    from mmssl.apis.loading import build_model

    done = warm_cli(
        'attention',
        repo_root / CONFIG,
        'dino.pth',
        'one.png',
        'large.jpg',
        '--out',
        'new/picture.png',
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'new/picture.png: 2 images, 4 heads, 6x6 patches' in done.stdout
    sheet = read(folder / 'new/picture.png')
    assert sheet.shape == (HEADER + 2 * (TILE + GAP), 6 * (TILE + GAP) + GAP, 3)
    image = read(folder / 'one.png')
    assert np.array_equal(tile(sheet, 0, 0, 48), image)
    model, _ = build_model(str(repo_root / CONFIG), str(folder / 'dino.pth'))
    normalised = (
        torch.from_numpy(image).permute(2, 0, 1)[None].float() - model.data_preprocessor.mean
    ) / model.data_preprocessor.std
    maps = class_attention(model.teacher.module[0].eval(), normalised)[0]
    for column, weights in enumerate([maps.mean(0), *maps], start=1):
        # the grey of the photograph taken off, brightness rises with the weight: compared at the centres of
        # the patches
        drawn = tile(sheet, 0, column, 48) - 0.35 * image.mean(-1, keepdims=True)
        centres = drawn.sum(-1).reshape(6, 8, 6, 8)[:, 3:5, :, 3:5].mean((1, 3))
        order = weights.flatten().argsort()
        assert centres.flatten()[order[-3:]].mean() > centres.flatten()[order[:18]].mean() + 50
        assert np.corrcoef(centres.flatten(), weights.flatten())[0, 1] > 0.8


def test_a_larger_image_has_finer_maps(repo_root, folder, capsys):
    assert (
        run(
            repo_root / CONFIG,
            folder / 'dino.pth',
            folder / 'large.jpg',
            '--out',
            folder / 'fine.png',
            '--image-size',
            100,
        )
        == 0
    )
    assert '12x12 patches' in capsys.readouterr().out
    assert (
        run(repo_root / CONFIG, 'random', folder / 'large.jpg', '--out', folder / 'random.png', '--seed', 3)
        == 0
    )
    assert not np.array_equal(read(folder / 'fine.png'), read(folder / 'random.png'))


def test_a_constant_map_is_drawn_and_other_backbones_are_looked_at(repo_root, folder):
    from mmssl.apis.loading import build_model

    model, _ = build_model(str(repo_root / 'configs/smoke/mae.py'), 'random')
    with torch.no_grad():
        model.backbone.layers[-1].attn.qkv.weight.zero_()
    rows, titles = attention_rows(model, torch.full((1, 3, 48, 48), 100, dtype=torch.uint8))
    assert titles == ['input', 'mean', 'head 1', 'head 2', 'head 3', 'head 4'] and rows.shape == (
        1,
        6,
        48,
        48,
        3,
    )
    assert (rows[0, 0] == 100).all() and (rows[0, 1:] == rows[0, 1, 0, 0]).all()


def test_what_is_refused(repo_root, folder, tmp_path, capsys):
    def refused(*arguments):
        assert run(*arguments) == 1
        assert not (tmp_path / 'x.png').exists()
        return capsys.readouterr().err

    config, checkpoint, image, out = (
        repo_root / CONFIG,
        folder / 'dino.pth',
        folder / 'one.png',
        ['--out', tmp_path / 'x.png'],
    )
    assert "did you mean 'dino.pth'" in refused(config, folder / 'dnio.pth', image, *out)
    assert "did you mean 'one.png'" in refused(config, checkpoint, folder / 'onee.png', *out)
    assert 'is not a file' in refused(config, checkpoint, folder, *out)
    assert 'give a name that ends in .png' in refused(config, checkpoint, image, '--out', tmp_path / 'x.pth')
    assert '--image-size 7 is less than a patch of 8x8 pixels' in refused(
        config, checkpoint, image, *out, '--image-size', 7
    )
    (tmp_path / 'note.txt').write_text('hello')
    assert 'note.txt' in refused(config, checkpoint, tmp_path / 'note.txt', *out)
    assert 'ResNet has no attention of a class token' in refused(
        repo_root / 'configs/smoke/moco.py', 'random', image, *out
    )
    options = ['--cfg-options', 'model.backbone.with_cls_token=False']
    assert 'has no class token (with_cls_token=False)' in refused(
        repo_root / 'configs/smoke/mae.py', 'random', image, *out, *options
    )
    weights = {
        key: value
        for key, value in torch.load(checkpoint, weights_only=True)['state_dict'].items()
        if 'layers.1' not in key
    }
    torch.save(weights, tmp_path / 'part.pth')
    assert 'at their random initialisation' in refused(config, tmp_path / 'part.pth', image, *out)
