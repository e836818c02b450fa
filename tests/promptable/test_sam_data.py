"""Masks from COCO files, SA-1B's folders and label images; transforms of image and masks."""

import json
import random

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco

from mmssl.data.mask_datasets import CocoMasks, LabelMasks, SA1BDataset, decode_segment
from mmssl.data.mask_transforms import FlipWithMasks, LoadMasks, PackPrompts, ResizeLongest

SIZE = (8, 12)


def shape(top, left, height, width):
    mask = np.zeros(SIZE, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def runs(mask):
    """Column by column, lengths of 0 and 1 in turn, counted one by one."""
    counts, value, length = [], 0, 0
    for pixel in mask.T.ravel().astype(int):
        if pixel != value:
            counts.append(length)
            value, length = pixel, 0
        length += 1
    return {'size': list(mask.shape), 'counts': [*counts, length]}


def compressed(mask):
    code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {'size': code['size'], 'counts': code['counts'].decode()}


def annotation(number, image, mask, **changes):
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    box = [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
    return {
        'id': number,
        'image_id': image,
        'category_id': 1,
        'bbox': box,
        'area': int(mask.sum()),
        'iscrowd': 0,
        'segmentation': runs(mask),
        **changes,
    }


A, B = shape(1, 2, 3, 4), shape(0, 8, 8, 4)


def write_coco(folder, annotations, images=(1, 2)):
    (folder / 'images').mkdir(exist_ok=True)
    for number in set(images):
        Image.fromarray(np.full((*SIZE, 3), 40 * number, np.uint8)).save(folder / 'images' / f'{number}.png')
    content = {
        'images': [
            {'id': number, 'file_name': f'{number}.png', 'height': SIZE[0], 'width': SIZE[1]}
            for number in images
        ],
        'annotations': annotations,
        'categories': [{'id': 1, 'name': 'thing'}],
    }
    (folder / 'a.json').write_text(json.dumps(content))
    return dict(data_root=str(folder), ann_file='a.json', data_prefix=dict(img_path='images'))


def test_every_form_of_a_segmentation():
    polygon = [[2, 1, 6, 1, 6, 4, 2, 4]]
    for segment in (polygon, runs(A), compressed(A)):
        assert np.array_equal(decode_segment(segment, SIZE), A)
    assert (
        decode_segment([[0, 0, 2, 0, 2, 2, 0, 2], [6, 4, 8, 4, 8, 6, 6, 6]], SIZE).sum() == 8
    )  # two parts of one object
    with pytest.raises(ValueError, match='run lengths of a 8x12 image, but this one is 9x12'):
        decode_segment(runs(A), (9, 12))


def test_coco_file(tmp_path):
    dataset = CocoMasks(
        **write_coco(tmp_path, [annotation(1, 1, A), annotation(2, 1, B), annotation(3, 2, B)]), pipeline=[]
    )
    assert len(dataset) == 2
    info = dataset.get_data_info(0)
    assert info['img_path'].endswith('images/1.png') and np.array_equal(
        info['read_masks'](info), np.stack([A, B])
    )
    assert np.array_equal(info['read_masks'](info, lambda count: [count - 1]), B[None])


def test_what_has_no_mask_is_left_out_and_counted(tmp_path, caplog):
    from mmengine.logging import MMLogger

    logger = MMLogger.get_instance('data')
    logger.addHandler(caplog.handler)
    bad = [
        annotation(2, 1, A, iscrowd=1),
        annotation(3, 1, A, segmentation=[]),
        annotation(4, 1, A, bbox=[1, 1, 0, 3]),
        annotation(5, 1, A, segmentation=[[1, 1, 2, 2]]),
        annotation(6, 1, A, area=0),
        annotation(1, 1, B),
        annotation(7, 1, A, segmentation={'size': [3, 3], 'counts': [9]}),
    ]
    try:
        dataset = CocoMasks(**write_coco(tmp_path, [annotation(1, 1, A), *bad]), pipeline=[])
    finally:
        logger.removeHandler(caplog.handler)
    assert len(dataset) == 1 and len(dataset.get_data_info(0)['segments']) == 1
    for reason in (
        '1 crowd',
        '1 no segmentation',
        '1 box without area',
        '1 polygon of less than three points',
        '1 no area',
        '1 repeated id',
        '1 run lengths of another size',
        '1 of 2 images have no mask',
    ):
        assert reason in caplog.text


def test_coco_files_that_are_wrong(tmp_path):
    with pytest.raises(ValueError, match='several images have the id 1'):
        CocoMasks(**write_coco(tmp_path, [annotation(1, 1, A)], images=(1, 1)))
    with pytest.raises(ValueError, match='image_id 9 of annotation 5'):
        CocoMasks(**write_coco(tmp_path, [annotation(5, 9, A)]))
    with pytest.raises(ValueError, match='no mask to learn from'):
        CocoMasks(**write_coco(tmp_path, []))
    (tmp_path / 'a.json').write_text('[]')
    with pytest.raises(ValueError, match='no COCO file'):
        CocoMasks(data_root=str(tmp_path), ann_file='a.json')
    with pytest.raises(FileNotFoundError, match='annotation file .*b.json'):
        CocoMasks(data_root=str(tmp_path), ann_file='b.json')


@pytest.mark.parametrize(
    'changes, words',
    [
        (dict(segmentation=float('nan')), 'annotation 5 has the segmentation nan'),
        (dict(segmentation=[1, 2, 3, 4, 5, 6]), 'annotation 5 has the segmentation'),
        (dict(segmentation=dict(counts=[96])), 'annotation 5 has the segmentation'),
        (dict(bbox=[1, 2, 'a', 4]), 'annotation 5 has the box'),
        (dict(area='large'), "annotation 5 has area='large'"),
        (dict(iscrowd='no'), "annotation 5 has iscrowd='no'"),
        (dict(image_id=[1]), r'image_id \[1\] of annotation 5'),
        (dict(id=[1]), r'entry 0 of annotations has the id \[1\]'),
    ],
)
def test_values_of_coco_masks_that_are_refused(tmp_path, changes, words):
    with pytest.raises(ValueError, match=rf'a\.json: .*{words}'):
        CocoMasks(**write_coco(tmp_path, [annotation(5, 1, A, **changes)]))


@pytest.mark.parametrize(
    'segmentation',
    [
        dict(size=[8, 12], counts=[5, 3]),
        dict(size=[8, 12], counts=[-1, 97]),
        dict(size=[8, 12], counts='?'),
        [[1, 2, 3, 4, 5, float('nan')]],
        [[1, 2, 3, 4, 5, '6']],
        [[1, 2, 3, 4, 5, 6, 7]],
    ],
)
def test_segmentations_that_are_refused_when_they_are_decoded(tmp_path, segmentation):
    dataset = CocoMasks(**write_coco(tmp_path, [annotation(5, 1, A, segmentation=segmentation)]))
    info = dataset.get_data_info(0)
    with pytest.raises(ValueError, match=r'a\.json, image 1: '):
        info['read_masks'](info)


def test_sa1b_folder(tmp_path):
    (tmp_path / 'sa_000').mkdir()
    Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(tmp_path / 'sa_000' / 'sa_1.jpg')
    annotations = [
        {
            'id': number,
            'segmentation': compressed(mask),
            'bbox': [0, 0, 1, 1],
            'area': int(mask.sum()),
            'predicted_iou': iou,
            'stability_score': 0.95,
            'point_coords': [[1.0, 1.0]],
            'crop_box': [0, 0, 12, 8],
        }
        for number, (mask, iou) in enumerate(((A, 0.9), (B, 0.5)))
    ]
    path = tmp_path / 'sa_000' / 'sa_1.json'
    path.write_text(
        json.dumps(
            {
                'image': {'image_id': 1, 'height': 8, 'width': 12, 'file_name': 'sa_1.jpg'},
                'annotations': annotations,
            }
        )
    )
    for min_iou, expected in ((0.0, [A, B]), (0.8, [A])):
        dataset = SA1BDataset(data_prefix=dict(img_path=str(tmp_path)), min_iou=min_iou, pipeline=[])
        info = dataset.get_data_info(0)
        assert len(dataset) == 1 and np.array_equal(info['read_masks'](info), np.stack(expected))
    path.write_text('{}')
    with pytest.raises(ValueError, match="sa_1.json is not of SA-1B's layout"):
        dataset.read_masks(dataset.get_data_info(0))
    (tmp_path / 'sa_000' / 'sa_2.json').write_text('{}')
    with pytest.raises(FileNotFoundError, match='sa_2.json has no image beside it'):
        SA1BDataset(data_prefix=dict(img_path=str(tmp_path)))
    with pytest.raises(ValueError, match='holds no JSON'):
        (tmp_path / 'none').mkdir()
        SA1BDataset(data_prefix=dict(img_path=str(tmp_path / 'none')))


def test_label_pictures(tmp_path):
    for name in ('images', 'labels'):
        (tmp_path / name).mkdir()
    label = np.zeros((10, 20), np.uint8)
    label[:5, :5] = label[:5, 10:15] = 3
    label[6:, :10], label[9, 19], label[0, 19] = 7, 9, 255
    Image.fromarray(np.zeros((10, 20, 3), np.uint8)).save(tmp_path / 'images' / 'x.png')
    Image.fromarray(label).save(tmp_path / 'labels' / 'x.png')
    settings = dict(
        data_root=str(tmp_path), data_prefix=dict(img_path='images', label_path='labels'), pipeline=[]
    )
    for objects, sizes in (('values', [50, 40]), ('parts', [25, 25, 40])):
        dataset = LabelMasks(objects=objects, **settings)
        assert [mask.sum() for mask in dataset.read_masks(dataset.get_data_info(0))] == sizes
    with pytest.raises(ValueError, match="objects='things'"):
        LabelMasks(objects='things', **settings)
    (tmp_path / 'labels' / 'x.png').unlink()
    with pytest.raises(FileNotFoundError, match='label image of x.png'):
        LabelMasks(**settings)


def loaded(masks, size=SIZE, **others):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return dict(
        img=image,
        img_path='x.png',
        img_shape=size,
        ori_shape=size,
        read_masks=lambda info, choose: np.array([masks[number] for number in choose(len(masks))]).reshape(
            -1, *SIZE
        ),
        **others,
    )


def test_masks_over_most_of_the_image_are_left_out():
    whole = np.ones(SIZE, bool)
    assert LoadMasks()(loaded([A, whole, B]))['masks'].tolist() == np.stack([A, B]).tolist()
    assert len(LoadMasks(max_area_fraction=1.0)(loaded([A, whole, B]))['masks']) == 3
    random.seed(0)
    chosen = [LoadMasks(max_masks=1)(loaded([A, B]))['masks'][0].sum() for _ in range(20)]
    assert set(chosen) == {A.sum(), B.sum()}
    assert LoadMasks()(loaded([]))['masks'].shape == (0, *SIZE)
    with pytest.raises(ValueError, match='x.png is 9x12 .* but its masks are 8x12'):
        LoadMasks()({**loaded([A]), 'ori_shape': (9, 12)})


def test_longest_side():
    results = ResizeLongest(24)(LoadMasks()(loaded([A, B])))
    assert (
        results['img'].shape == (16, 24, 3)
        and results['img_shape'] == (16, 24)
        and results['ori_shape'] == SIZE
    )
    assert np.array_equal(results['masks'][0], A.repeat(2, 0).repeat(2, 1))
    random.seed(1)
    for _ in range(5):
        results = ResizeLongest(24, ratio_range=(2.0, 3.0))(LoadMasks()(loaded([A, B])))
        assert results['img'].shape == (24, 24, 3) and results['masks'].shape[1:] == (24, 24)
        assert all(mask.any() for mask in results['masks'])
    assert len(ResizeLongest(6, min_pixels=4)(LoadMasks()(loaded([shape(0, 0, 1, 2), B])))['masks']) == 1
    with pytest.raises(ValueError, match='scale=0'):
        ResizeLongest(0)


def test_mirrored_and_packed():
    results = FlipWithMasks(1.0)(LoadMasks()(loaded([A])))
    packed = PackPrompts()(results)
    masks = packed['data_samples'].gt_instances.masks
    assert torch.equal(masks, torch.from_numpy(A[:, ::-1].copy())[None]) and masks.dtype == torch.bool
    assert packed['inputs'].shape == (3, *SIZE) and packed['inputs'].dtype == torch.uint8
    assert (
        packed['data_samples'].img_shape == SIZE and packed['inputs'][0, 0, 0] == loaded([])['img'][0, -1, 0]
    )
    assert np.array_equal(FlipWithMasks(0.0)(loaded([A]))['img'], loaded([A])['img'])
