"""Shards, Parquet, zip, LMDB, lists, tables and URLs in the commands that evaluate and inspect."""

import json

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.apis.feature_images import image_paths
from mmssl.apis.packing import pack
from mmssl.cli import main
from mmssl.data.archives import read_bytes
from mmssl.evaluation.labelled import labelled_images

SOURCES = ['tar', 'parquet', 'all.zip', 'lmdb', 'list.txt', 'table.csv', 'URL']


@pytest.fixture(scope='module')
def root(tmp_path_factory):
    """Class folders in train and val, packed in every way, listed, and in ``memory://``."""
    root = tmp_path_factory.mktemp('labelled')
    rng = np.random.default_rng(0)
    for number in range(24):
        split = 'val' if number % 4 == 3 else 'train'
        path = root / 'images' / split / ('cat', 'dog')[number % 2] / f'{number:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 100, (24, 24, 3), dtype=np.uint8) + np.uint8(100 * (number % 2))
        Image.fromarray(pixels).save(path)
    (root / 'images/val/cat').mkdir()
    for number in range(4):
        Image.new('RGB', (24, 24), (number, 50, 50)).save(root / f'images/val/cat/{number}.png')
    for to, name in (('tar', 'tar'), ('parquet', 'parquet'), ('lmdb', 'lmdb'), ('zip', 'all.zip')):
        pack(str(root / 'images'), str(root / name), to, 9)
    names = sorted(path.relative_to(root).as_posix() for path in root.glob('images/*/*/*.png'))
    (root / 'list.txt').write_text('\n'.join(names))
    rows = [f'{name},{name.split("/")[2].upper()}' for name in names]
    (root / 'table.csv').write_text('path,label\n' + '\n'.join(rows))
    files = fsspec.filesystem('memory')
    files.put(str(root / 'images'), '/labelled', recursive=True)
    yield root
    files.rm('/labelled', recursive=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('MMSSL_CACHE_DIR', str(tmp_path / 'cache'))


def data_of(root, source):
    return 'memory://labelled' if source == 'URL' else str(root / source)


def tensors(data):
    return [
        (torch.stack([image for image, _ in split]), [label for _, label in split])
        for split in labelled_images(data, 16)
    ]


@pytest.mark.parametrize('source', SOURCES)
def test_splits_and_labels_are_those_of_the_folder(root, source):
    expected = tensors(str(root / 'images'))
    assert [len(labels) for _, labels in expected] == [18, 10]
    for (images, labels), (others, other_labels) in zip(
        expected, tensors(data_of(root, source)), strict=True
    ):
        assert torch.equal(images, others) and labels == other_labels


def test_a_table_without_splits_is_split_like_its_folder(root, tmp_path):
    names = sorted(str(path) for path in root.glob('images/train/*/*.png'))
    (tmp_path / 'list.txt').write_text('\n'.join(names))
    (tmp_path / 'table.tsv').write_text('\n'.join(f'{name}\t{name.split("/")[-2]}' for name in names))
    expected = tensors(str(root / 'images/train'))
    for name in ('list.txt', 'table.tsv'):
        for (images, labels), (others, other_labels) in zip(
            expected, tensors(str(tmp_path / name)), strict=True
        ):
            assert torch.equal(images, others) and labels == other_labels


def test_a_list_without_a_validation_set_is_refused_for_validation(root, tmp_path):
    from mmssl.data.folder import ImageFolder

    names = [str(path) for path in root.glob('images/train/*/*.png')]
    (tmp_path / 'list.txt').write_text('\n'.join(names))
    with pytest.raises(FileNotFoundError, match=r"list.txt has no image in a folder 'val'"):
        ImageFolder(str(tmp_path / 'list.txt'), 'val')


@pytest.mark.parametrize('source', SOURCES)
def test_images_to_embed_are_those_of_the_folder(root, source):
    expected = [read_bytes(path) for path in image_paths(str(root / 'images'))]
    assert [read_bytes(path) for path in image_paths(data_of(root, source))] == expected


def test_commands(root, tmp_path, capsys):
    common = ['--workers', '0', '--device', 'cpu']
    out = tmp_path / 'knn.json'
    arguments = ['--data', str(root / 'table.csv'), '--image-size', '48', '--out', str(out)]
    assert main(['knn', 'smoke/mae.py', 'random', *arguments, *common]) == 0
    result = json.loads(out.read_text())
    assert (result['num_train'], result['num_val'], result['num_classes']) == (18, 10, 2)
    assert main(['check-data', 'smoke/mae.py', '--data', str(root / 'tar'), '--workers', '0']) == 0
    assert main(['stats', str(root / 'list.txt'), '--workers', '0']) == 0
    features = str(tmp_path / 'features.npy')
    arguments = ['--data', 'memory://labelled', '--out', features]
    assert main(['embed', 'smoke/mae.py', 'random', *arguments, *common]) == 0
    assert len(np.load(features)) == 28
    capsys.readouterr()
