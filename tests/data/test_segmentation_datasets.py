"""Data sets for segmentation: real CamVid, a folder of one's own."""

import numpy as np
import pytest
from mmengine.registry import init_default_scope
from PIL import Image

from mmssl.registry import DATASETS

PIPELINE = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'), dict(type='PackSegInputs')]


@pytest.mark.parametrize('split, number', [('train', 367), ('val', 101)])
def test_camvid(data_root, split, number):
    init_default_scope('mmseg')
    data = DATASETS.build(
        dict(
            type='mmssl.CamVid',
            data_root=str(data_root / 'camvid'),
            pipeline=PIPELINE,
            data_prefix=dict(img_path=f'images/{split}', seg_map_path=f'labels/{split}'),
        )
    )
    assert len(data) == number and len(data.metainfo['classes']) == len(data.metainfo['palette']) == 11
    sample = data[0]
    assert sample['inputs'].shape == (3, 360, 480)
    label = sample['data_samples'].gt_sem_seg.data
    assert label.shape == (1, 360, 480) and set(label.unique().tolist()) <= set(range(12))


def folder(tmp_path, classes='wall\nfloor\n\ndoor\n'):
    for name, mode in (('images', 'RGB'), ('labels', 'L')):
        (tmp_path / name).mkdir()
        shape = (6, 8, 3) if mode == 'RGB' else (6, 8)
        Image.fromarray(np.ones(shape, np.uint8)).save(
            tmp_path / name / ('a.jpg' if mode == 'RGB' else 'a.png')
        )
    (tmp_path / 'classes.txt').write_text(classes)
    return dict(
        type='mmssl.SegmentationFolder',
        data_root=str(tmp_path),
        pipeline=PIPELINE,
        data_prefix=dict(img_path='images', seg_map_path='labels'),
    )


def test_a_folder_with_a_list_of_classes(tmp_path):
    init_default_scope('mmseg')
    data = DATASETS.build(folder(tmp_path))
    assert (
        data.metainfo['classes'] == ('wall', 'floor', 'door')
        and len({tuple(c) for c in data.metainfo['palette']}) == 3
    )
    assert data[0]['data_samples'].gt_sem_seg.data.unique().tolist() == [1]


def test_classes_that_cannot_be(tmp_path):
    init_default_scope('mmseg')
    cfg = folder(tmp_path, 'wall\nwall\n')
    with pytest.raises(ValueError, match='each once'):
        DATASETS.build(cfg)
    (tmp_path / 'classes.txt').unlink()
    with pytest.raises(FileNotFoundError, match='names the classes, each on a line'):
        DATASETS.build(cfg)


def label_of(tmp_path, values, pipeline=None, **settings):
    """The label map of a folder whose only file holds these values or colours."""
    init_default_scope('mmseg')
    cfg = folder(tmp_path)
    Image.fromarray(np.asarray(values, np.uint8)).save(tmp_path / 'labels/a.png')
    Image.fromarray(np.zeros((*np.shape(values)[:2], 3), np.uint8)).save(tmp_path / 'images/a.jpg')
    loader = [dict(type='LoadImageFromFile'), dict(type='mmssl.LoadLabelMap'), dict(type='PackSegInputs')]
    data = DATASETS.build({**cfg, 'pipeline': pipeline or loader, **settings})
    return data[0]['data_samples'].gt_sem_seg.data[0].tolist()


@pytest.mark.parametrize('pipeline', [None, PIPELINE])
@pytest.mark.parametrize('value', [255, 1])
def test_binary_masks(tmp_path, pipeline, value):
    values = [[0, value], [value, 0]]  # of one row, mmseg's loader would drop the axis
    assert label_of(tmp_path, values, pipeline, binary=True, classes=('no', 'yes')) == [[0, 1], [1, 0]]


def test_binary_masks_need_no_list_of_classes(tmp_path):
    init_default_scope('mmseg')
    cfg = folder(tmp_path)
    (tmp_path / 'classes.txt').unlink()
    assert DATASETS.build({**cfg, 'binary': True}).metainfo['classes'] == ('background', 'foreground')


def test_values_stand_for_classes(tmp_path):
    label_map = {10: 'door', '20': 0, 30: None}
    assert label_of(tmp_path, [[10, 20, 30, 10]], label_map=label_map) == [[2, 0, 255, 2]]


@pytest.mark.parametrize('red', [(200, 0, 0), [200, 0, 0], '#c80000', '200,0,0'])
def test_colours_stand_for_classes(tmp_path, red):
    label_map = {(0, 0, 0): 'wall', tuple(red) if isinstance(red, list) else red: 'door', (1, 2, 3): None}
    values = [[(0, 0, 0), (200, 0, 0), (1, 2, 3)]]
    assert label_of(tmp_path, values, label_map=label_map) == [[0, 2, 255]]


@pytest.mark.parametrize(
    'settings, words',
    [
        (dict(binary=True), 'binary=True .* needs two classes'),
        (dict(binary=True, classes=('a', 'b')), r'a\.png: holds the values 7, which label_map does not name'),
        (dict(label_map={0: 0, 255: 1}), r'a\.png: holds the values 7'),
        (dict(label_map={(0, 0, 0): 0}), r'a\.png: pixel \(0, 1\) has the colour \(7, 7, 7\)'),
        (dict(label_map={(0, 0, 0): 0}, pipeline=PIPELINE), 'label_map of colours needs'),
        (dict(label_map={7: 'roof'}), "7 stands for 'roof', which is none of the 3 classes"),
        (dict(label_map={7: 3}), '7 stands for 3'),
        (dict(label_map={7: True}), '7 stands for True'),
        (dict(label_map={'red': 1}), "'red' is neither a value"),
        (dict(label_map={300.5: 1}), '300.5 is neither a value'),
        (dict(label_map={7: 1, (0, 0, 0): 0}), 'either values or colours'),
        (dict(label_map={7: 1, '7': 0}), 'each once'),
        (dict(label_map={7: 1}, reduce_zero_label=True), 'one of label_map, binary and reduce_zero_label'),
    ],
)
def test_values_that_do_not_fit(tmp_path, settings, words):
    with pytest.raises(ValueError, match=words):
        label_of(tmp_path, [[0, 7]], **settings)
