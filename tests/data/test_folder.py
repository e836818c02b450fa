"""Folders and archives of images: names, order, labels, and messages when there are none."""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mmengine.dataset import worker_init_fn
from PIL import Image
from torch.utils.data import DataLoader

from mmssl.data.archives import open_archive, read_bytes, split_archive
from mmssl.data.folder import ImageFolder

FILES = (
    'cat/b.jpg',
    'cat/a.JPG',
    'dog/deep/er/c.png',
    'dog/d.webp',
    'cat/.hidden.jpg',
    '.cache/e.jpg',
    'dog/notes.txt',
)
NAMES = ['cat/a.JPG', 'cat/b.jpg', 'dog/d.webp', 'dog/deep/er/c.png']
DATA = os.environ.get('MMSSL_DATA')


def write_images(root, names=FILES):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == '.txt':
            path.write_text('no image')
        else:
            Image.new('RGB', (8 + number, 6), (10 * number, 20, 30)).save(path)
    return root


def names_of(dataset):
    return [
        os.path.relpath(dataset.get_data_info(index)['img_path'], dataset.image_root)
        for index in range(len(dataset))
    ]


def make_zip(root, target, top='', method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(target, 'w', method) as archive:
        for path in sorted(root.rglob('*')):
            archive.write(path, Path(top) / path.relative_to(root))
    return target


def make_lmdb(root, target):
    lmdb = pytest.importorskip('lmdb')
    with (
        lmdb.open(str(target), map_size=1 << 22) as environment,
        environment.begin(write=True) as transaction,
    ):
        for path in root.rglob('*'):
            if path.is_file():
                transaction.put(str(path.relative_to(root)).encode(), path.read_bytes())
    return target


def test_class_folders_give_labels(tmp_path):
    dataset = ImageFolder(str(write_images(tmp_path)))
    assert names_of(dataset) == NAMES
    assert [dataset.get_data_info(index)['gt_label'] for index in range(4)] == [0, 0, 1, 1]
    assert dataset.metainfo['classes'] == dataset.CLASSES == ('cat', 'dog')
    assert dataset.get_cat_ids(3) == [1]


def test_flat_and_mixed_folders_have_no_labels(tmp_path):
    write_images(tmp_path, ('b.jpg', 'a.png', 'inner/c.jpg'))
    dataset = ImageFolder(tmp_path)
    assert names_of(dataset) == ['a.png', 'b.jpg', 'inner/c.jpg']
    assert 'gt_label' not in dataset.get_data_info(0) and dataset.CLASSES is None
    with pytest.raises(ValueError, match='a.png is in no class folder'):
        ImageFolder(tmp_path, labels='folder')


def test_a_single_folder_is_not_a_class_and_labels_are_optional(tmp_path):
    write_images(tmp_path, ('only/a.jpg', 'only/b.jpg'))
    assert 'gt_label' not in ImageFolder(tmp_path).get_data_info(0)
    assert ImageFolder(tmp_path, labels='folder').get_data_info(0)['gt_label'] == 0
    write_images(tmp_path, ('other/a.jpg',))
    assert 'gt_label' not in ImageFolder(tmp_path, labels=None).get_data_info(0)


def test_classes_set_the_order_and_an_unknown_folder_is_an_error(tmp_path):
    write_images(tmp_path)
    dataset = ImageFolder(tmp_path, classes=('dog', 'horse', 'cat'))
    assert [dataset.get_data_info(index)['gt_label'] for index in range(4)] == [2, 2, 0, 0]
    with pytest.raises(ValueError, match="dog is none of the 2 classes; did you mean 'dogs'"):
        ImageFolder(tmp_path, classes=('cat', 'dogs'))


def test_links_to_class_folders_are_classes_and_deeper_ones_are_followed_once(tmp_path):
    root = write_images(tmp_path / 'root')
    other = write_images(tmp_path / 'other', ('x.jpg',))
    (root / 'dog' / 'loop').symlink_to(root)
    (root / 'linked').symlink_to(other)
    (root / 'again').symlink_to(other)
    (root / 'dog' / 'file.jpg').symlink_to(other / 'x.jpg')
    assert names_of(ImageFolder(root)) == [
        'again/x.jpg',
        'cat/a.JPG',
        'cat/b.jpg',
        'dog/d.webp',
        'dog/deep/er/c.png',
        'dog/file.jpg',
        'linked/x.jpg',
    ]


@pytest.mark.parametrize('kind', ['stored', 'deflated', 'top', 'lmdb'])
def test_archives_equal_the_folder(tmp_path, kind):
    root = write_images(tmp_path / 'root')
    if kind == 'lmdb':
        archive = make_lmdb(root, tmp_path / 'photos.lmdb')
    else:
        method = zipfile.ZIP_STORED if kind == 'stored' else zipfile.ZIP_DEFLATED
        archive = make_zip(root, tmp_path / 'photos.zip', 'top' if kind == 'top' else '', method)
    pipeline = [dict(type='mmssl.LoadImage')]
    inside, outside = ImageFolder(str(archive), pipeline=pipeline), ImageFolder(str(root), pipeline=pipeline)
    assert names_of(inside) == names_of(outside) == NAMES
    assert inside.CLASSES == ('cat', 'dog')
    # through two workers that fork after this process has opened the archive
    loader = DataLoader(
        inside, batch_size=None, num_workers=2, worker_init_fn=lambda worker: worker_init_fn(worker, 2, 0, 0)
    )
    for index, results in enumerate(loader):
        assert results['gt_label'] == outside[index]['gt_label']
        assert (np.asarray(results['img']) == outside[index]['img']).all()
    deep = ImageFolder(str(archive), data_prefix='dog', pipeline=pipeline)
    assert names_of(deep) == ['d.webp', 'deep/er/c.png'] and deep[1]['img'].shape == (6, 10, 3)


def test_archive_entries_are_checked_and_never_leave_the_archive(tmp_path):
    root = write_images(tmp_path / 'root', ('cat/a.bmp', 'dog/b.bmp'))
    archive = make_zip(root, tmp_path / 'photos.zip', method=zipfile.ZIP_STORED)
    with zipfile.ZipFile(archive, 'a') as writer:
        writer.write(root / 'cat/a.bmp', '../../outside.jpg')
    assert names_of(ImageFolder(str(archive))) == ['cat/a.bmp', 'dog/b.bmp']
    assert not (tmp_path.parent / 'outside.jpg').exists()
    with pytest.raises(FileNotFoundError, match='holds no'):
        read_bytes(f'{archive}/cat/none.jpg')
    data = bytearray(archive.read_bytes())
    data[data.find(b'BM') + 60] ^= 0xFF
    (tmp_path / 'damaged.zip').write_bytes(data)
    with pytest.raises(OSError, match='checksum'):
        open_archive(str(tmp_path / 'damaged.zip')).read('cat/a.bmp')


def test_split_archive(tmp_path):
    archive = str(make_zip(write_images(tmp_path / 'root'), tmp_path / 'photos.zip'))
    assert split_archive(archive) == (archive, '')
    assert split_archive(f'{archive}/inner/a.jpg') == (archive, 'inner/a.jpg')
    assert split_archive(str(tmp_path / 'root' / 'cat')) is None
    shutil.copytree(tmp_path / 'root', tmp_path / 'folder.zip')
    assert (
        split_archive(str(tmp_path / 'folder.zip' / 'cat')) is None
        and len(ImageFolder(tmp_path / 'folder.zip')) == 4
    )


def test_missing_folder_names_the_nearest(tmp_path):
    write_images(tmp_path / 'pictures')
    with pytest.raises(FileNotFoundError, match=f"no 'pictuers'; did you mean {tmp_path}/pictures"):
        ImageFolder(f'{tmp_path}/pictuers/train')


def test_missing_prefix(tmp_path):
    write_images(tmp_path)
    assert names_of(ImageFolder(tmp_path, data_prefix='train')) == NAMES
    with pytest.raises(FileNotFoundError, match="no 'val'"):  # the training images are no validation set
        ImageFolder(tmp_path, data_prefix='val')
    write_images(tmp_path, ('train/cat/a.jpg', 'train/dog/b.jpg'))
    assert names_of(ImageFolder(tmp_path, data_prefix='train')) == ['cat/a.jpg', 'dog/b.jpg']
    with pytest.raises(FileNotFoundError, match='did you mean .*train'):
        ImageFolder(tmp_path, data_prefix='trian')
    with pytest.raises(FileNotFoundError, match='train2017'):
        ImageFolder(tmp_path, data_prefix='train2017')


def test_empty_folder_error_lists_the_files(tmp_path):
    with pytest.raises(ValueError, match='no images in .*: looked for .jpg, .*; found no files at all'):
        ImageFolder(tmp_path)
    (tmp_path / 'a.txt').touch()
    (tmp_path / 'b.TXT').touch()
    with pytest.raises(ValueError, match='found 2 .txt'):
        ImageFolder(tmp_path)
    with pytest.raises(ValueError, match='a.txt is a file, neither a folder'):
        ImageFolder(str(tmp_path / 'a.txt'))
    make_zip(tmp_path, tmp_path / 'texts.zip')
    with pytest.raises(ValueError, match='no images in .*texts.zip.*found .*2 .txt'):
        ImageFolder(str(tmp_path / 'texts.zip'))


def test_bad_arguments_are_named(tmp_path):
    write_images(tmp_path)
    with pytest.raises(ValueError, match="labels='auot'"):
        ImageFolder(tmp_path, labels='auot')
    with pytest.raises(ValueError, match='data_root is empty'):
        ImageFolder('')
    with pytest.raises(TypeError, match='max_bad_filse'):
        ImageFolder(tmp_path, max_bad_filse=3)


@pytest.mark.skipif(not DATA, reason='MMSSL_DATA is not set')
def test_real_data():
    folder = ImageFolder(
        f'{DATA}/imagenette',
        data_prefix='train',
        pipeline=[dict(type='mmssl.LoadRandomResizedCrop', scale=64)],
    )
    assert len(folder) == 1500 and len(folder.CLASSES) == 10 and folder[1499]['img'].shape == (64, 64, 3)
    archive = ImageFolder(
        f'{DATA}/tiny_imagenet_20c.zip',
        data_prefix='train',
        pipeline=[dict(type='mmssl.LoadCenterCrop', scale=64, ratio=1)],
    )
    labels = np.bincount([archive.get_data_info(index)['gt_label'] for index in range(len(archive))])
    assert len(archive) == 6000 and (labels == 300).all() and len(labels) == 20
    with zipfile.ZipFile(f'{DATA}/tiny_imagenet_20c.zip') as reference:
        name = archive.get_data_info(77)['img_path'].split('.zip/')[1]
        expected = np.asarray(Image.open(reference.open(name)).convert('RGB'))[..., ::-1]
    assert np.abs(archive[77]['img'].astype(int) - expected).max() <= 1
