"""``mmssl reconstruct``: the pixels of its picture, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.cli import main

CONFIG = 'configs/smoke/mae.py'
SIDE, PATCH, TILE, GAP, HEADER = 48, 8, 224, 9, 32


@pytest.fixture(scope='module')
def folder(tmp_path_factory, repo_root):
    """Two photographs of the model's size, a larger one, and the checkpoint of an untrained model."""
    import sklearn

    from mmssl.apis.loading import load_mae
    from mmssl.config.load import load_config
    from mmssl.registry import MODELS, build

    folder = tmp_path_factory.mktemp('pictures ü')
    photo = Image.open(Path(sklearn.__file__).parent / 'datasets/images/china.jpg').convert('RGB')
    photo.crop((200, 100, 248, 148)).save(folder / 'one.png')
    photo.crop((300, 200, 348, 248)).save(folder / 'two.png')
    photo.save(folder / 'large.jpg')
    cfg = load_config(str(repo_root / CONFIG))
    torch.manual_seed(0)
    model = build({'data_preprocessor': cfg.data_preprocessor, **cfg.model}, MODELS)
    torch.save(dict(state_dict=model.state_dict(), meta=dict(iter=0)), folder / 'mae.pth')
    loaded = load_mae(str(repo_root / CONFIG), str(folder / 'mae.pth'))
    assert (
        all(torch.equal(value, model.state_dict()[key]) for key, value in loaded.state_dict().items())
        and not loaded.training
    )
    return folder


def tile(sheet, row, column):
    """The part of the picture that shows one image, back at the size of the model."""
    top, left = HEADER + row * (TILE + GAP), GAP + column * (TILE + GAP)
    enlarged = sheet[top : top + TILE, left : left + TILE]
    centres = ((np.arange(SIDE) + 0.5) * TILE / SIDE).astype(int)
    return enlarged[centres][:, centres].astype(int)


def read(path):
    return np.asarray(Image.open(path))


def run(*arguments):
    return main(['reconstruct', *map(str, arguments)])


def test_visible_patches_are_the_input_and_masked_ones_are_drawn(warm_cli, repo_root, folder):
    done = warm_cli(
        'reconstruct',
        repo_root / CONFIG,
        'mae.pth',
        'one.png',
        'two.png',
        '--out',
        'new/picture.png',
        '--seed',
        5,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'new/picture.png: 2 images, 75% of the patches masked' in done.stdout
    sheet = read(folder / 'new/picture.png')
    assert sheet.shape == (HEADER + 2 * (TILE + GAP), 3 * (TILE + GAP) + GAP, 3)
    noise = torch.rand(2, 36, generator=torch.Generator().manual_seed(5))
    for row, name in enumerate(('one.png', 'two.png')):
        image = read(folder / name).astype(int)
        assert np.array_equal(tile(sheet, row, 0), image)
        masked, drawn = tile(sheet, row, 1), tile(sheet, row, 2)
        visible = set(noise[row].argsort()[:9].tolist())
        for number in range(36):
            area = np.s_[
                number // 6 * PATCH : (number // 6 + 1) * PATCH, number % 6 * PATCH : (number % 6 + 1) * PATCH
            ]
            if number in visible:
                assert np.array_equal(masked[area], image[area])
                assert np.abs(drawn[area] - image[area]).max() <= 1  # normalised and back
            else:
                assert (masked[area] == 128).all()
                assert np.abs(drawn[area] - image[area]).max() > 1


def test_the_seed_and_the_ratio_choose_the_mask(repo_root, folder, capsys):
    pictures = []
    for number, extra in enumerate(
        (['--seed', 1], ['--seed', 1], ['--seed', 2], ['--seed', 1, '--mask-ratio', 0.5])
    ):
        assert (
            run(
                repo_root / CONFIG,
                folder / 'mae.pth',
                folder / 'large.jpg',
                '--out',
                folder / f'{number}.png',
                *extra,
            )
            == 0
        )
        pictures.append(read(folder / f'{number}.png'))
    assert '50% of the patches masked' in capsys.readouterr().out
    assert np.array_equal(pictures[0], pictures[1])
    assert not np.array_equal(pictures[0], pictures[2])
    for picture, hidden in ((pictures[0], 27), (pictures[2], 27), (pictures[3], 18)):
        patches = tile(picture, 0, 1).reshape(6, PATCH, 6, PATCH, 3)
        assert int((patches == 128).all(axis=(1, 3, 4)).sum()) == hidden


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (
            lambda w: {key: value for key, value in w.items() if key.startswith('backbone.')},
            'an encoder without a decoder',
        ),
        (
            lambda w: {
                key.removeprefix('backbone.'): value
                for key, value in w.items()
                if key.startswith('backbone.')
            },
            'an encoder without a decoder',
        ),
        (
            lambda w: {'cls_token': w['backbone.cls_token'], 'decoder_blocks.0.norm1.weight': torch.ones(3)},
            'convert it first: mmssl convert mae',
        ),
        (
            lambda w: {key: value for key, value in w.items() if key != 'neck.mask_token'},
            'missing in the file 1',
        ),
        (lambda w: {**w, 'neck.mask_token': torch.zeros(1, 1, 7)}, '1x1x7 in the file, 1x1x32 in the model'),
    ],
)
def test_weights_that_cannot_draw_are_refused(repo_root, folder, tmp_path, capsys, change, message):
    weights = torch.load(folder / 'mae.pth', weights_only=True)['state_dict']
    torch.save(dict(state_dict=change(weights)), tmp_path / 'other.pth')
    assert (
        run(repo_root / CONFIG, tmp_path / 'other.pth', folder / 'one.png', '--out', tmp_path / 'x.png') == 1
    )
    error = capsys.readouterr().err
    assert message in error and 'other.pth' in error
    assert not (tmp_path / 'x.png').exists()


def test_official_weights_are_refused_under_their_own_key(repo_root, folder, tmp_path, capsys):
    weights = {'cls_token': torch.zeros(1, 1, 64), 'decoder_blocks.0.attn.qkv.weight': torch.zeros(96, 32)}
    torch.save(dict(model=weights), tmp_path / 'a.pth')
    assert run(repo_root / CONFIG, tmp_path / 'a.pth', folder / 'one.png', '--out', tmp_path / 'x.png') == 1
    assert f'mmssl convert mae {tmp_path / "a.pth"} OUT.pth' in capsys.readouterr().err


def test_other_wrong_arguments(repo_root, folder, tmp_path, capsys):
    def refused(*arguments):
        assert run(*arguments) == 1
        assert not (tmp_path / 'x.png').exists()
        return capsys.readouterr().err

    config, checkpoint, image, out = (
        repo_root / CONFIG,
        folder / 'mae.pth',
        folder / 'one.png',
        ['--out', tmp_path / 'x.png'],
    )
    assert "did you mean 'mae.pth'" in refused(config, folder / 'mea.pth', image, *out)
    assert "did you mean 'one.png'" in refused(config, checkpoint, folder / 'onee.png', *out)
    assert 'is not a file' in refused(config, checkpoint, folder, *out)
    assert 'give a name that ends in .png' in refused(config, checkpoint, image, '--out', tmp_path / 'x.pth')
    assert "did you mean 'smoke/mae.py'" in refused('smoke/mea.py', checkpoint, image, *out)
    assert 'mask_ratio 1.5 is outside (0, 1)' in refused(config, checkpoint, image, *out, '--mask-ratio', 1.5)
    probing = repo_root / 'configs/mae/benchmarks/vit-base-p16_8xb2048-linear-coslr-90e_in1k.py'
    assert 'ImageClassifier, which does not reconstruct' in refused(probing, checkpoint, image, *out)
    (tmp_path / 'broken.jpg').write_bytes((folder / 'large.jpg').read_bytes()[:200])
    assert 'broken.jpg' in refused(config, checkpoint, tmp_path / 'broken.jpg', *out)
    (tmp_path / 'empty.png').touch()
    assert 'empty.png' in refused(config, checkpoint, tmp_path / 'empty.png', *out)
    (tmp_path / 'note.txt').write_text('hello')
    assert 'note.txt' in refused(config, checkpoint, tmp_path / 'note.txt', *out)
