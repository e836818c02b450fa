"""The same labels in several formats are the same samples, down to the datasets of the toolboxes."""

import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from label_files import comparable, label_set
from PIL import Image

from mmssl.data.label_formats import (
    label_map_of,
    read_labels,
    split_labels,
    write_class_list,
    write_coco,
    write_labels,
    write_segmentation,
)
from mmssl.data.label_formats.maps import read_classes
from mmssl.data.segmentation import CamVid

BCCD_CLASSES = ('Platelets', 'RBC', 'WBC')
VOID = (0, 0, 0)


@pytest.fixture(scope='module')
def bccd(data_root, tmp_path_factory):
    """60 images of BCCD in VOC's, COCO's and YOLO's form, written by plain code."""
    root = tmp_path_factory.mktemp('bccd')
    source = data_root / 'bccd'
    for folder in ('voc/Annotations', 'coco', 'yolo/labels'):
        (root / folder).mkdir(parents=True)
    coco = dict(images=[], annotations=[], categories=[])
    coco['categories'] = [dict(id=7 * index, name=name) for index, name in enumerate(BCCD_CLASSES, 1)]
    for number, path in enumerate(sorted((source / 'Annotations').iterdir())[:60]):
        shutil.copy(path, root / 'voc/Annotations')
        name = f'{path.stem}.jpg'
        for folder in ('voc/JPEGImages', 'coco/pictures', 'yolo/images'):
            (root / folder).mkdir(exist_ok=True)
            (root / folder / name).symlink_to(source / 'JPEGImages' / name)
        coco['images'].append(dict(id=number * 3, file_name=name, width=640, height=480))
        lines = []
        for element in ElementTree.parse(path).getroot().findall('object'):
            box = element.find('bndbox')
            left, top, right, bottom = (int(box.findtext(key)) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
            label = BCCD_CLASSES.index(element.findtext('name'))
            coco['annotations'].append(
                dict(
                    id=len(coco['annotations']) + 1,
                    image_id=number * 3,
                    category_id=7 * (label + 1),
                    bbox=[left, top, right - left, bottom - top],
                    area=(right - left) * (bottom - top),
                    iscrowd=0,
                )
            )
            values = (left + right) / 1280, (top + bottom) / 960, (right - left) / 640, (bottom - top) / 480
            lines.append(' '.join([str(label), *(f'{value:.6f}' for value in values)]))
        (root / f'yolo/labels/{path.stem}.txt').write_text('\n'.join(lines))
    (root / 'coco/all.json').write_text(json.dumps(coco))
    (root / 'yolo/data.yaml').write_text(
        f'train: images\nval: images\nnc: 3\nnames: {json.dumps(BCCD_CLASSES)}\n'
    )
    return root


def test_boxes_of_three_formats_are_the_same_samples(bccd, tmp_path):
    from mmdet.datasets import CocoDataset

    samples = {}
    for format in ('voc', 'coco', 'yolo'):
        labels = read_labels(bccd / format, 'detect')
        assert (labels.format, tuple(labels.classes)) == (format, BCCD_CLASSES)
        split = split_labels(labels)
        write_coco(split.train, tmp_path / f'{format}.json')
        dataset = CocoDataset(
            ann_file=str(tmp_path / f'{format}.json'),
            data_prefix=dict(img=labels.image_root),
            metainfo=dict(classes=BCCD_CLASSES),
            lazy_init=True,
        )
        entries = dataset.load_data_list()
        for entry in entries:
            entry['img_path'] = entry['img_path'].rpartition('/')[2]
        samples[format] = (comparable(labels), [image.name for image in split.val.images], entries)
    assert samples['voc'] == samples['coco'] == samples['yolo']
    assert len(samples['voc'][0]) == 60 and 5 <= len(samples['voc'][1]) <= 19


@pytest.fixture(scope='module')
def camvid(data_root, tmp_path_factory):
    """Eight images of CamVid with class numbers, a palette, and colours with a table."""
    root = tmp_path_factory.mktemp('camvid')
    names, palette = CamVid.METAINFO['classes'], np.array([*CamVid.METAINFO['palette'], VOID], np.uint8)
    for path in sorted((data_root / 'camvid/labels/val').iterdir())[:8]:
        values = np.asarray(Image.open(path))
        image = Image.fromarray(values)
        image.putpalette(palette.reshape(-1).tolist())
        forms = dict(numbers=Image.fromarray(values), palette=image, colors=Image.fromarray(palette[values]))
        for form, label_map in forms.items():
            for folder in ('images', 'masks'):
                (root / form / folder).mkdir(parents=True, exist_ok=True)
            label_map.save(root / form / 'masks' / path.name)
            source = data_root / 'camvid/images/val' / f'{path.stem}.jpg'
            (root / form / f'images/{path.stem}.jpg').symlink_to(source)
    rows = [*names, 'void']
    (root / 'numbers/classes.txt').write_text('\n'.join(rows))
    (root / 'palette/classes.txt').write_text('\n'.join(rows))
    order = np.random.default_rng(0).permutation(12)  # the order of the table is that of the classes
    lines = [f'{rows[index]},{",".join(map(str, palette[index]))}' for index in range(12)]
    (root / 'colors/class_dict.csv').write_text('\n'.join(['name,r,g,b', *lines]))
    (root / 'palette_with_colors').mkdir()
    shuffled = Image.fromarray(order.astype(np.uint8)[np.asarray(forms['numbers'])])
    inverse = np.argsort(order)
    shuffled.putpalette(palette[inverse].reshape(-1).tolist())
    return root, shuffled, np.asarray(forms['numbers'])


def test_label_maps_of_three_kinds_are_the_same_samples(camvid, tmp_path):
    from mmssl.data.label_maps import LoadLabelMap
    from mmssl.data.segmentation import SegmentationFolder

    root, _, _ = camvid
    results = {}
    for form in ('numbers', 'palette', 'colors'):
        labels = read_labels(root / form, 'semantic')
        assert tuple(labels.classes) == CamVid.METAINFO['classes']
        split = split_labels(labels)
        write_segmentation(split.train, tmp_path / form, 'train')
        dataset = SegmentationFolder(
            data_root=str(tmp_path / form),
            data_prefix=dict(img_path='images/train', seg_map_path='labels/train'),
            pipeline=[],
        )
        maps = [
            LoadLabelMap().transform({**dataset.get_data_info(index), 'seg_fields': []})['gt_seg_map']
            for index in range(len(dataset))
        ]
        assert set(np.unique(maps)) <= {*range(11), 255}
        arrays = [label_map_of(labels, image) for image in labels.images]
        results[form] = [len(maps), *(array.tobytes() for array in (*maps, *arrays))]
    assert results['numbers'] == results['palette'] == results['colors']


def test_indices_of_a_palette_may_be_in_another_order_than_the_table(camvid, tmp_path):
    root, shuffled, values = camvid
    for folder in ('images', 'masks'):
        (tmp_path / folder).mkdir()
    shuffled.save(tmp_path / 'masks/a.png')
    Image.new('RGB', shuffled.size).save(tmp_path / 'images/a.jpg')
    shutil.copy(root / 'colors/class_dict.csv', tmp_path)
    labels = read_labels(tmp_path)
    expected = np.where(values == 11, 255, values)
    assert (read_classes(labels, labels.images[0]) == expected).all()


def test_objects_become_label_maps(tmp_path):
    labels = label_set(tmp_path / 'source', 'boxes')
    labels.images[0].objects[0].crowd = True
    classes = write_segmentation(labels, tmp_path / 'out', 'train')
    assert classes == ['background', *labels.classes]
    values = np.asarray(Image.open(tmp_path / 'out/labels/train/a b.png'))
    assert values[0, 39] == 1 and values[25, 10] == 4 and values[10, 4] == 255


def test_classes_of_images_for_mmpretrain(tmp_path):
    from mmpretrain.datasets import CustomDataset

    for index, name in enumerate(('b b/1 2.png', 'a/1.png', 'a/x/2.png')):
        path = tmp_path / 'data' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (4 + index, 4)).save(path)
    labels = read_labels(tmp_path / 'data')
    write_class_list(labels, tmp_path / 'all.txt')
    dataset = CustomDataset(
        data_root=labels.image_root,
        ann_file=str(tmp_path / 'all.txt'),
        metainfo=dict(classes=labels.classes),
        pipeline=[],
    )
    entries = [dataset.get_data_info(index) for index in range(3)]
    assert [(entry['img_path'], entry['gt_label']) for entry in entries] == [
        (str(tmp_path / 'data' / name), label)
        for name, label in (('a/1.png', 0), ('a/x/2.png', 0), ('b b/1 2.png', 1))
    ]
    (tmp_path / 'data/labels.csv').write_text('path,label\n1.png,a\n2.png,a\nb b/1 2.png,b b\n')
    again = read_labels(tmp_path / 'data')
    assert again.format == 'csv'
    assert [(image.name, image.label) for image in again.images] == [
        (image.name, image.label) for image in labels.images
    ]


def test_masks_and_outlines_reach_mmdet(tmp_path):
    from mmdet.datasets import CocoDataset
    from mmdet.datasets.transforms import LoadAnnotations

    labels = label_set(tmp_path / 'source', 'polygons', 'masks')
    write_labels(labels, tmp_path / 'out', 'coco', 'link')
    dataset = CocoDataset(
        ann_file=str(tmp_path / 'out/annotations.json'),
        data_prefix=dict(img=str(tmp_path / 'out/images')),
        metainfo=dict(classes=tuple(labels.classes)),
        pipeline=[],
    )
    info = {**dataset.get_data_info(0), 'ori_shape': (30, 40)}
    masks = LoadAnnotations(with_mask=True, poly2mask=True).transform(info)['gt_masks']
    assert masks.masks.shape == (4, 30, 40)
    assert masks.masks[2].sum() == 17 * 8 - 15 * 6 and masks.masks[3].all()
