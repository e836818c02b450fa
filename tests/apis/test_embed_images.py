"""Files of features from Python, by several processes, interrupted and continued."""

import os
import shutil
import signal

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip('mmpretrain')
pytest.importorskip('pyarrow')

MODEL = """
default_scope = 'mmpretrain'
model = dict(
    type='mmssl.MAE',
    backbone=dict(type='mmssl.MAEViT', arch=dict(embed_dims=16, num_layers=1, num_heads=2,
        feedforward_channels=32), img_size=16, patch_size=8),
    neck=dict(type='mmssl.MAEDecoder', num_patches=4, patch_size=8, embed_dim=16, decoder_embed_dim=16,
        decoder_depth=1, decoder_num_heads=2),
    head=dict(type='mmssl.MAEHead', patch_size=8))
data_preprocessor = dict(type='SelfSupDataPreprocessor', mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375], to_rgb=True)
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A config and 20 images."""
    root = tmp_path_factory.mktemp('embedding')
    (root / 'model.py').write_text(MODEL)
    (root / 'images/more').mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index in range(20):
        pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f'images/{"more/" if index % 2 else ""}{index:02d}.png')
    return root


def embedded(folder, out, data=None, **options):
    from mmssl.apis import embed

    settings = dict(batch_size=1, workers=0, device='cpu', rank=0, world_size=1, seed=3)
    return embed(folder / 'model.py', None, data or folder / 'images', out, **{**settings, **options})


@pytest.fixture(scope='module')
def whole(folder):
    """The file that one process writes."""
    out = folder / 'whole.parquet'
    assert embedded(folder, out) == (20, 20, 0, [])
    return out


def test_features_are_those_of_the_inferencer(folder, whole):
    from mmengine.runner import set_random_seed

    from mmssl.apis import FeatureInferencer
    from mmssl.evaluation.feature_files import read_features

    set_random_seed(3)
    with pytest.warns(UserWarning, match='random weights'):
        infer = FeatureInferencer(folder / 'model.py', device='cpu')
    content = read_features(whole)
    expected = [result['features'] for result in infer(content.paths)]
    assert content.paths == sorted(content.paths) and all(map(os.path.isabs, content.paths))
    np.testing.assert_allclose(content.features, np.stack(expected), atol=1e-5)
    assert not list(folder.glob('.*'))


def test_a_complete_file_is_not_made_again(folder, whole):
    before = whole.stat().st_mtime_ns
    assert embedded(folder, whole) == (20, 0, 0, []) and whole.stat().st_mtime_ns == before


def test_processes_take_turns_and_the_last_one_merges(folder, whole, tmp_path):
    out = tmp_path / 'f.parquet'
    first = embedded(folder, out, rank=0, world_size=3)
    assert first.computed == 8 and first.pending == 12 and not out.exists()
    assert embedded(folder, out, rank=2, world_size=3).pending == 8
    assert embedded(folder, out, rank=0, world_size=3).computed == 0  # started again
    assert embedded(folder, out, rank=1, world_size=3) == (20, 8, 0, [])
    assert out.read_bytes() == whole.read_bytes() and list(tmp_path.iterdir()) == [out]


def command_of_rank(rank, folder, out):
    from mmssl.cli import main

    os.environ.update(RANK=str(rank), WORLD_SIZE='2', LOCAL_RANK=str(rank))
    settings = ['--batch-size', '1', '--workers', '0', '--device', 'cpu', '--seed', '3', '--out', str(out)]
    return main(['embed', f'{folder}/model.py', 'random', '--data', f'{folder}/images', *settings])


def test_ranks_write_the_file_of_one_process(folder, whole, tmp_path, two_ranks):
    out = tmp_path / 'f.parquet'
    assert two_ranks(command_of_rank, folder, out) == [0, 0]
    assert out.read_bytes() == whole.read_bytes() and list(tmp_path.iterdir()) == [out]


def test_a_launcher_that_has_not_started_the_process_is_refused(folder, tmp_path, capsys, monkeypatch):
    from mmssl.cli import main

    monkeypatch.delenv('SLURM_PROCID', raising=False)
    arguments = [f'{folder}/model.py', 'random', '--data', f'{folder}/images', '--out', f'{tmp_path}/f.npy']
    assert main(['embed', *arguments, '--launcher', 'slurm']) == 1
    assert 'SLURM_PROCID is not set' in capsys.readouterr().err


def test_damaged_parts_are_computed_again(folder, whole, tmp_path):
    out = tmp_path / 'f.parquet'
    embedded(folder, out, rank=0, world_size=2)
    (tmp_path / '.f.parquet.parts/0000000000.npz').write_bytes(b'PK')
    assert embedded(folder, out) == (20, 16, 0, [])
    assert out.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize('moment', ['before', 'after'])
def test_a_killed_process_continues(folder, whole, tmp_path, moment):
    """SIGKILL before the first part has its name, or after."""
    out, parts = tmp_path / 'f.parquet', tmp_path / '.f.parquet.parts'
    pid = os.fork()
    if not pid:
        replace = os.replace

        def killed(source, target):
            if moment == 'after' or not str(target).endswith('.npz'):
                replace(source, target)
            if str(target).endswith('.npz'):
                os.kill(os.getpid(), signal.SIGKILL)

        os.replace = killed
        try:
            embedded(folder, out)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert not out.exists() and len(list(parts.glob('*.npz'))) == (moment == 'after')
    assert embedded(folder, out) == (20, 12 if moment == 'after' else 20, 0, [])
    assert out.read_bytes() == whole.read_bytes() and list(tmp_path.iterdir()) == [out]


def test_parts_of_other_settings_are_not_mixed(folder, tmp_path):
    out = tmp_path / 'f.parquet'
    embedded(folder, out, rank=0, world_size=2)
    with pytest.raises(ValueError, match='was started with .*pool=None, not pool=cls'):
        embedded(folder, out, pool='cls')
    with pytest.raises(ValueError, match='was started with .*checkpoint_digest=seed 3, not .*seed 4'):
        embedded(folder, out, seed=4)


@pytest.mark.parametrize('pool', ['avg', 'cls', 'patch'])
def test_pools_agree_with_each_other(folder, tmp_path, pool):
    from mmssl.evaluation.feature_files import read_features

    out = tmp_path / 'f.npy'
    embedded(folder, out, pool=pool, workers=1, batch_size=7)
    features = read_features(out, vectors=False).features
    assert features.shape == ((20, 4, 16) if pool == 'patch' else (20, 16))
    if pool == 'patch':
        embedded(folder, tmp_path / 'avg.npy', pool='avg')
        mean = read_features(tmp_path / 'avg.npy').features
        np.testing.assert_allclose(features.mean(axis=1), mean, atol=1e-5)


def test_sources_are_joined_and_unreadable_images_reported(folder, tmp_path):
    from mmssl.evaluation.feature_files import read_features

    data = tmp_path / 'data'
    data.mkdir()
    for index in range(9):
        (data / f'{index}.jpg').write_bytes(b'no image')
    archive = shutil.make_archive(tmp_path / 'images', 'zip', folder / 'images/more')
    (tmp_path / 'list.txt').write_text(f'{folder}/images/00.png\n{folder}/images/02.png\n')
    out = tmp_path / 'f.parquet'
    sources = [data, archive, tmp_path / 'list.txt', folder / 'images/02.png']
    done = embedded(folder, out, sources, batch_size=1)
    assert done.images == 21 and len(done.unreadable) == 9 and f'{data}/0.jpg' in done.unreadable[0]
    content = read_features(out)
    assert len(content.paths) == 12 and content.paths[0] == f'{archive}/01.png'
    assert content.paths[-2:] == [f'{folder}/images/00.png', f'{folder}/images/02.png']
    with pytest.raises(ValueError, match='none of the 9 images can be read'):
        embedded(folder, tmp_path / 'g.parquet', data)


def test_wrong_arguments_are_refused(folder, tmp_path):
    for options, words in (
        (dict(batch_size=0), 'batch_size=0'),
        (dict(rank=2, world_size=2), 'rank=2'),
        (dict(pool='max'), "pool 'max' is unknown"),
    ):
        with pytest.raises(ValueError, match=words):
            embedded(folder, tmp_path / 'f.npy', **options)
    with pytest.raises(ValueError, match=r'\.parquet or \.npy'):
        embedded(folder, tmp_path / 'f.csv')
    with pytest.raises(FileNotFoundError):
        embedded(folder, tmp_path / 'f.npy', tmp_path / 'none')


def test_features_that_are_not_finite_are_refused(folder, tmp_path):
    from mmssl.apis import embed
    from mmssl.apis.loading import build_model

    model, _ = build_model(str(folder / 'model.py'), 'random')
    state = {name: torch.full_like(value, torch.nan) for name, value in model.state_dict().items()}
    torch.save({'state_dict': state}, tmp_path / 'nan.pth')
    with pytest.raises(ValueError, match='contains NaN or infinity'):
        embed(
            folder / 'model.py',
            tmp_path / 'nan.pth',
            folder / 'images',
            tmp_path / 'f.npy',
            workers=0,
            device='cpu',
        )
    assert not (tmp_path / 'f.npy').exists()
