"""Labelled folders and archives: layouts, labels, splits, and what is refused."""

import zipfile

import pytest
import torch
from PIL import Image

from mmssl.evaluation import image_loader, labelled_images, labelled_loader
from mmssl.evaluation.labelled import parse_amount

COLOURS = {'ant': (250, 0, 0), 'bee': (0, 250, 0), 'cat': (0, 0, 250)}


def fill(root, counts):
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new('RGB', (40, 30), COLOURS[name]).save(root / name / f'{index:02d}.png')


@pytest.fixture
def folder(tmp_path):
    fill(tmp_path / 'data' / 'train', dict(ant=4, bee=5, cat=6))
    # no 'bee' here: labels must still be those of the training folder
    fill(tmp_path / 'data' / 'val', dict(ant=2, cat=3))
    return tmp_path / 'data'


def zipped(folder, target):
    with zipfile.ZipFile(target, 'w') as archive:
        for path in sorted(folder.rglob('*.png')):
            archive.write(path, path.relative_to(folder))
    return target


@pytest.mark.parametrize('as_zip', [False, True])
@pytest.mark.parametrize('name', ['val', 'validation', 'test'])
def test_train_and_val_have_the_same_labels(folder, tmp_path, name, as_zip):
    (folder / 'val').rename(folder / name)
    data = zipped(folder, tmp_path / 'data.zip') if as_zip else folder
    train, val = labelled_images(str(data), image_size=16)
    assert train.classes == val.classes == ('ant', 'bee', 'cat')
    assert train.labels.tolist() == [0] * 4 + [1] * 5 + [2] * 6
    assert val.labels.tolist() == [0, 0, 2, 2, 2]
    images, labels = next(iter(image_loader(val, batch_size=5, num_workers=0)))
    assert images.shape == (5, 3, 16, 16) and images.dtype == torch.uint8
    assert labels.tolist() == [0, 0, 2, 2, 2]
    # BGR: an ant is red
    assert images[0].flatten(1).float().mean(1).tolist() == [0, 0, 250]
    assert images[4].flatten(1).float().mean(1).tolist() == [250, 0, 0]


@pytest.mark.parametrize('as_zip', [False, True])
def test_class_folders_alone_are_split_for_good(tmp_path, as_zip):
    fill(tmp_path / 'train', dict(ant=10, bee=5, cat=20))  # a root that happens to be called train
    data = str(zipped(tmp_path / 'train', tmp_path / 'data.zip') if as_zip else tmp_path / 'train')
    train, val = labelled_images(data, image_size=16)
    assert torch.bincount(val.labels).tolist() == [2, 1, 4] and torch.bincount(train.labels).tolist() == [
        8,
        4,
        16,
    ]
    assert not set(train.indices.tolist()) & set(val.indices.tolist())
    again = labelled_images(data, image_size=16)[1]
    assert torch.equal(val.indices, again.indices)
    loader = labelled_loader(data, 16, 'val', batch_size=4, num_workers=0)
    assert torch.cat([labels for _, labels in loader]).tolist() == val.labels.tolist()


def test_take_keeps_the_proportions_of_the_classes(folder):
    train, _ = labelled_images(str(folder))
    assert train.take(3).labels.tolist() == [0, 1, 2]
    assert torch.bincount(train.take(9).labels).tolist() in ([3, 3, 3], [2, 3, 4], [3, 3, 4])
    assert len(train.take(9)) == 9 and len(set(train.take(9).indices.tolist())) == 9
    assert torch.equal(train.take(9, seed=3).indices, train.take(9, seed=3).indices)
    assert train.take(None) is train and train.take(99) is train
    with pytest.raises(ValueError, match='2 images cannot contain all 3 classes'):
        train.take(2)


def test_labels_are_drawn_class_by_class(folder):
    train, _ = labelled_images(str(folder), image_size=16)
    assert train.take_labels(None) is train
    few = train.take_labels('2')
    assert few.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(few.indices, train.take_labels('2').indices)
    assert any(not torch.equal(few.indices, train.take_labels('2', seed).indices) for seed in (1, 2, 3))
    assert set(few.indices.tolist()) < set(train.take_labels('3').indices.tolist())
    assert train.take_labels('50%').labels.bincount().tolist() == [2, 2, 3]
    assert train.take_labels('1%').labels.tolist() == [0, 1, 2]
    assert len(train.take_labels('100%')) == 15
    with pytest.raises(ValueError, match="5 images of each class are requested, and 'ant' has 4"):
        train.take_labels('5')


@pytest.mark.parametrize('amount', ['0', '0%', '101%', '1.5', '-1', '1 %', 'nan', '', '%'])
def test_what_is_no_amount_of_labels(amount):
    with pytest.raises(ValueError, match='is no amount of labels'):
        parse_amount(amount)


def test_a_bad_file_is_left_out(folder):
    (folder / 'train' / 'bee' / '02.png').write_bytes(b'\x89PNG broken')
    train, _ = labelled_images(str(folder), image_size=16)
    for batch_size in (1, 4):
        loader = image_loader(train, batch_size, num_workers=0)
        labels = torch.cat([labels for _, labels in loader])
        assert labels.tolist() == [0] * 4 + [1] * 4 + [2] * 6


def test_the_loader_draws_nothing_from_the_global_generator(folder):
    before = torch.get_rng_state()
    for workers in (0, 1):
        list(labelled_loader(str(folder), 16, num_workers=workers))
    assert torch.equal(before, torch.get_rng_state())


def test_what_is_refused(folder, tmp_path):
    fill(folder / 'val', dict(bee=1))
    (folder / 'val' / 'bee').rename(folder / 'val' / 'beetle')
    with pytest.raises(ValueError, match="val/beetle is none of the 3 classes; did you mean 'bee'"):
        labelled_images(str(folder))
    fill(tmp_path / 'one' / 'train', dict(ant=2))
    with pytest.raises(ValueError, match="single class \\('ant'\\)"):
        labelled_images(str(tmp_path / 'one'))
    fill(tmp_path / 'half' / 'train', dict(ant=2, bee=2))
    with pytest.raises(FileNotFoundError, match='has train but none of val'):
        labelled_images(str(tmp_path / 'half'))
    Image.new('RGB', (8, 8)).save(tmp_path / 'half' / 'train' / 'loose.png')
    with pytest.raises(ValueError, match='loose.png is in no class folder'):
        labelled_images(str(tmp_path / 'half'))
    with pytest.raises(FileNotFoundError, match='no such folder'):
        labelled_images(str(tmp_path / 'nothing'))
    fill(tmp_path / 'single', dict(ant=1, bee=1))
    with pytest.raises(ValueError, match='no class of .* has two images'):
        labelled_images(str(tmp_path / 'single'))
    with pytest.raises(ValueError, match="split 'eval'"):
        labelled_loader(str(folder), split='eval')
