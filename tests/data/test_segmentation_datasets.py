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
