"""The demo data is deterministic, rejected or reused if something exists, and readable by the toolboxes."""

import filecmp
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip('sklearn')
pytest.importorskip('skimage')

from mmssl.data.demo import make_demo_data
from mmssl.data.demo_parts import CLASSES
from mmssl.data.folder import ImageFolder

pytestmark = pytest.mark.slow

FEW = ('scenes',)


def demo_command(*arguments):
    command = [sys.executable, '-m', 'mmssl.cli', 'demo-data', *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope='module')
def demo(tmp_path_factory):
    directory = tmp_path_factory.mktemp('demo') / 'new' / 'data'
    result = demo_command(directory)
    assert result.returncode == 0, result.stderr
    assert 'imagenet/train: 1500 images' in result.stdout and 'scenes/images/val: 20 images' in result.stdout
    return directory


def files_of(directory):
    return sorted(str(path.relative_to(directory)) for path in Path(directory).rglob('*') if path.is_file())


def scenes_of(demo, split):
    coco = json.loads((demo / 'scenes/annotations' / f'instances_{split}.json').read_text())
    return coco['images'], coco['annotations']


def test_same_seed_same_bytes_other_seed_other_bytes(demo, demo_data, tmp_path):
    """Of the command, and of the function in another process."""
    again, other = demo_data, make_demo_data(tmp_path / 'other', seed=1, kinds=FEW)
    assert files_of(again) == files_of(demo)
    assert filecmp.cmpfiles(demo, again, files_of(demo), shallow=False)[1:] == ([], [])
    name = 'scenes/images/train/scene_0001.jpg'
    assert (demo / name).read_bytes() != (other / name).read_bytes()


def test_kinds_generated_separately_are_the_same(demo, tmp_path):
    make_demo_data(tmp_path / 'parts', kinds=('scenes',))
    make_demo_data(tmp_path / 'parts', kinds=('photos',))
    assert json.loads((tmp_path / 'parts/demo_data.json').read_text())['kinds'] == ['photos', 'scenes']
    names = [name for name in files_of(tmp_path / 'parts') if name != 'demo_data.json']
    assert len(names) > 200 and filecmp.cmpfiles(demo, tmp_path / 'parts', names, shallow=False)[1:] == (
        [],
        [],
    )
    assert [path.name for path in tmp_path.iterdir()] == ['parts']  # no temporary folder is left


def test_present_data_is_reused_and_anything_else_refused(demo, tmp_path):
    before = (demo / 'demo_data.json').stat().st_mtime_ns
    make_demo_data(demo)
    assert (demo / 'demo_data.json').stat().st_mtime_ns == before
    with pytest.raises(ValueError, match='seed 0 instead of 7'):
        make_demo_data(demo, seed=7)
    (tmp_path / 'mine.txt').touch()
    result = demo_command(tmp_path)
    assert result.returncode == 1 and 'holds no demo data; name a new or empty folder' in result.stderr
    assert 'Traceback' not in result.stderr and [path.name for path in tmp_path.iterdir()] == ['mine.txt']
    with pytest.raises(ValueError, match='phots'):
        make_demo_data(tmp_path / 'x', kinds=('phots',))
    with pytest.raises(ValueError, match='size=4'):
        make_demo_data(tmp_path / 'x', size=4)


def test_imagenet_folders(demo):
    pipeline = [dict(type='mmssl.LoadImage')]
    train, val = (
        ImageFolder(str(demo / 'imagenet'), data_prefix=split, pipeline=pipeline)
        for split in ('train', 'val')
    )
    assert (len(train), len(val)) == (1500, 297) and train.CLASSES == val.CLASSES == CLASSES
    assert train[0]['img'].shape == (48, 48, 3)
    stems = [{path.stem for path in (demo / 'imagenet' / split).rglob('*.jpg')} for split in ('train', 'val')]
    assert not stems[0] & stems[1] and len(stems[0] | stems[1]) == 1797
    from sklearn.datasets import load_digits

    target = load_digits().target
    assert all(
        target[int(path.stem)] == CLASSES.index(path.parent.name)
        for path in (demo / 'imagenet').rglob('*.jpg')
    )


def test_pixels_alone_are_a_poor_feature(demo):
    from sklearn.neighbors import KNeighborsClassifier

    pipeline = [dict(type='mmssl.LoadImage')]
    features, labels = [], []
    for split in ('train', 'val'):
        dataset = ImageFolder(str(demo / 'imagenet'), data_prefix=split, pipeline=pipeline)
        samples = [dataset[index] for index in range(len(dataset))]
        features.append(np.stack([sample['img'].ravel() for sample in samples]).astype(np.float32))
        labels.append([sample['gt_label'] for sample in samples])
    accuracy = KNeighborsClassifier(5).fit(features[0], labels[0]).score(features[1], labels[1])
    assert accuracy < 0.35


def test_photos_are_flat_and_unlabelled(demo):
    dataset = ImageFolder(str(demo / 'photos'))
    assert len(dataset) >= 4 and 'gt_label' not in dataset.get_data_info(0)
    assert (
        len({Image.open(dataset.get_data_info(index)['img_path']).size for index in range(len(dataset))}) > 3
    )


def test_coco_masks_equal_the_label_images(demo):
    mask_utils = pytest.importorskip('pycocotools.mask')
    for split, count in (('train', 60), ('val', 20)):
        images, annotations = scenes_of(demo, split)
        assert len(images) == count
        for image in images:
            labels = np.zeros((240, 320), np.uint8)
            own = [annotation for annotation in annotations if annotation['image_id'] == image['id']]
            assert 2 <= len(own) <= 6
            for annotation in own:
                encoded = mask_utils.frPyObjects(annotation['segmentation'], 240, 320)
                mask = mask_utils.decode(encoded).astype(bool)
                assert mask.sum() == annotation['area'] > 0 and not labels[mask].any()
                assert list(mask_utils.toBbox(encoded)) == annotation['bbox']
                labels[mask] = annotation['category_id']
            stored = np.asarray(
                Image.open(demo / 'scenes/labels' / split / image['file_name'].replace('.jpg', '.png'))
            )
            assert (stored == labels).all()
            assert Image.open(demo / 'scenes/images' / split / image['file_name']).size == (320, 240)


def test_mmseg_reads_the_scenes(demo):
    mmseg = pytest.importorskip('mmseg.datasets', exc_type=ImportError)
    names = ('background', *CLASSES)
    dataset = mmseg.BaseSegDataset(
        data_root=str(demo / 'scenes'),
        data_prefix=dict(img_path='images/val', seg_map_path='labels/val'),
        img_suffix='.jpg',
        seg_map_suffix='.png',
        metainfo=dict(classes=names, palette=[[0, 0, 0]] * 11),
        pipeline=[dict(type='LoadImageFromFile'), dict(type='mmseg.LoadAnnotations')],
    )
    assert len(dataset) == 20
    sample = dataset[3]
    assert sample['img'].shape == (240, 320, 3) and sample['gt_seg_map'].shape == (240, 320)
    assert sample['gt_seg_map'].max() <= 10 and len(np.unique(sample['gt_seg_map'])) >= 2


def test_mmdet_reads_the_scenes(demo):
    pytest.importorskip('mmcv.ops', reason='mmdet needs mmcv with compiled ops', exc_type=ImportError)
    from mmdet.datasets import CocoDataset, VOCDataset

    pipeline = [dict(type='LoadImageFromFile')]
    coco = CocoDataset(
        ann_file='annotations/instances_train.json',
        data_root=str(demo / 'scenes'),
        data_prefix=dict(img='images/train/'),
        metainfo=dict(classes=CLASSES),
        pipeline=[
            *pipeline,
            dict(type='mmdet.LoadAnnotations', with_bbox=True, with_mask=True, poly2mask=True),
        ],
    )
    voc = VOCDataset(
        ann_file='VOC2007/ImageSets/Main/train.txt',
        data_root=str(demo / 'scenes'),
        data_prefix=dict(sub_data_root='VOC2007/'),
        metainfo=dict(classes=CLASSES),
        pipeline=[*pipeline, dict(type='mmdet.LoadAnnotations', with_bbox=True)],
    )
    assert len(coco) == len(voc) == 60
    for index in (0, 17, 59):
        first, second = coco[index], voc[index]
        assert (first['img'] == second['img']).all()
        assert list(first['gt_bboxes_labels']) == list(second['gt_bboxes_labels'])
        assert len(first['gt_masks']) == len(first['gt_bboxes_labels'])
        # mmdet's VOC reader takes 1 from all four corners
        assert (first['gt_bboxes'].numpy() - second['gt_bboxes'].numpy() == [[0, 0, 1, 1]]).all()
        assert (first['gt_masks'].get_bboxes('hbox').numpy() == first['gt_bboxes'].numpy()).all()


def test_crops_are_class_folders_of_photographs(demo):
    train, val = (sorted((demo / 'crops' / split).glob('*/*.jpg')) for split in ('train', 'val'))
    assert len(train) == 1600 and len(val) == 320
    assert {path.parent.name for path in train} == {path.parent.name for path in val}
    folder = ImageFolder(str(demo / 'crops'), 'val')
    assert len(folder.metainfo['classes']) == len({path.parent.name for path in val}) > 10
    pixels = [np.asarray(Image.open(path)) for path in train[:20]]
    assert all(image.shape == (48, 48, 3) for image in pixels)
