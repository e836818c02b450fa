"""Labels come back as they were: boxes, outlines, masks, order of classes, odd names, empty images."""

import json

import numpy as np
import pytest
from label_files import comparable, label_set, mask, write_image
from PIL import Image

from mmssl.data.label_formats import (
    ImageLabels,
    LabelSet,
    ObjectLabel,
    describe,
    label_map_of,
    losses,
    read_labels,
    write_labels,
)
from mmssl.data.label_formats.shapes import encode
from mmssl.errors import LabelError

BOXES = ('coco', 'yolo', 'voc', 'labelme', 'cvat', 'label-studio')
SEVERAL = ('coco', 'labelme', 'cvat', 'label-studio')


@pytest.mark.parametrize(
    ('format', 'kinds'),
    [
        *((format, ['boxes']) for format in BOXES),
        *((format, ['polygons']) for format in BOXES if format != 'voc'),
        *((format, ['boxes', 'polygons', 'masks']) for format in SEVERAL),
    ],
)
@pytest.mark.parametrize('images', ['link', 'none'])
def test_labels_come_back_as_they_were(tmp_path, format, kinds, images):
    labels = label_set(tmp_path / 'source', *kinds)
    assert write_labels(labels, tmp_path / 'out', format, images) == []
    folders = [] if images == 'link' else [labels.image_root]
    result = read_labels(tmp_path / 'out', images=folders)
    assert result.format == format
    assert result.classes == labels.classes
    assert comparable(result) == comparable(labels)
    assert not list((tmp_path / 'out').rglob('.*'))


ODD_NAMES = {
    'equal base names': ['1.png', 'a/1.png', 'b/1.png', 'a/b/1.png', 'b/a/1.png'],
    'folders of labels': ['images/x.png', 'labels/x.png', 'img/images/x.png', 'masks/x.png'],
    'endings of label maps': ['a.png', 'a_mask.png', 'b.png', 'b_image.png', 'b..png'],
    'punctuation': ['a,b;c.png', 'q"uo\'te.png', '日本&<x>.png', '100%+#?=.png', ' a.png', 'b .png'],
}
ODD_CLASSES = [
    '_background_',
    'a,b',
    'q"x"',
    "it's",
    '日本 語',
    'a/b',
    'no',
    '1.0',
    'a 1 2 3',
    '#x',
    'Ärger',
    'Void',
]
ODD_CLASSES += ['void']


@pytest.mark.parametrize('names', ODD_NAMES.values(), ids=ODD_NAMES)
@pytest.mark.parametrize('format', [*BOXES, 'png'])
@pytest.mark.parametrize('images', ['link', 'none'])
def test_odd_names_of_images_and_classes_come_back(tmp_path, names, format, images):
    root = tmp_path / 'source'
    of_images = []
    for index, name in enumerate(sorted(names)):
        path = write_image(root / name, value=index)
        each = ObjectLabel(index, (index + 1.5, 2.0, 9.1234, 12.5))
        if format == 'png':
            each = ObjectLabel(index, (2.0, 2.0, 9.0, 9.0), rle=encode(mask(2, 2, 9, 9)))
        of_images.append(ImageLabels(name, str(path), 40, 30, [each] if index != 1 else []))
    labels = LabelSet(str(root), 'coco', ODD_CLASSES, of_images, str(root))
    write_labels(labels, tmp_path / 'out', format, images)
    result = read_labels(tmp_path / 'out', images=[root] if images == 'none' else [])
    if format == 'png':
        assert result.classes == ['background', *ODD_CLASSES]
        assert [image.name for image in result.images] == sorted(names)
        for image, other in zip(labels.images, result.images, strict=True):
            np.testing.assert_array_equal(label_map_of(labels, image), label_map_of(result, other))
        return
    assert result.classes == ODD_CLASSES
    assert comparable(result) == comparable(labels)


@pytest.mark.parametrize('format', [*BOXES, 'png'])
@pytest.mark.parametrize('name', ['# b', '#', ' a', 'a\nb'])
def test_names_of_classes_that_would_be_read_as_others_are_refused(tmp_path, format, name):
    labels = label_set(tmp_path / 'source', 'boxes')
    labels.classes = [name, *labels.classes[1:]]
    is_comment = format in ('voc', 'labelme') and name.startswith('#')
    if is_comment or not name.startswith('#'):
        with pytest.raises(LabelError, match='rename it'):
            write_labels(labels, tmp_path / 'out', format)
        assert not (tmp_path / 'out').exists()
    elif format != 'png':
        write_labels(labels, tmp_path / 'out', format, 'link')
        result = read_labels(tmp_path / 'out')
        assert result.classes == labels.classes and comparable(result) == comparable(labels)


def test_a_background_may_be_a_class(tmp_path):
    labels = label_set(tmp_path / 'source', 'masks')
    labels.classes = ['background', 'void', *labels.classes[2:]]
    write_labels(labels, tmp_path / 'out', 'png', 'link')
    result = read_labels(tmp_path / 'out')
    assert result.classes == ['_background_', *labels.classes]
    for image, other in zip(labels.images, result.images, strict=True):
        np.testing.assert_array_equal(label_map_of(labels, image), label_map_of(result, other))


@pytest.mark.parametrize('format', BOXES)
def test_positions_come_back_to_the_last_digit(tmp_path, format):
    labels = label_set(tmp_path / 'source', 'boxes')
    generator = np.random.default_rng(0)
    for image in labels.images:
        for _ in range(100):
            left, right = sorted(generator.uniform(0, 40, 2).round(4).tolist())
            top, bottom = sorted(generator.uniform(0, 30, 2).round(4).tolist())
            image.objects.append(ObjectLabel(0, (left, top, right, bottom), score=float(generator.random())))
    write_labels(labels, tmp_path / 'out', format, 'link')
    assert comparable(read_labels(tmp_path / 'out')) == comparable(labels)


@pytest.mark.parametrize('format', SEVERAL)
def test_parts_of_an_object_stay_together(tmp_path, format):
    labels = label_set(tmp_path / 'source', 'polygons')
    for image in labels.images[:1]:
        for each in image.objects:
            each.polygons.append([20.0, 20.0, 30.0, 20.0, 30.0, 28.0])
            each.box = (each.box[0], each.box[1], max(30.0, each.box[2]), max(28.0, each.box[3]))
    write_labels(labels, tmp_path / 'out', format, 'link')
    assert comparable(read_labels(tmp_path / 'out')) == comparable(labels)


@pytest.mark.parametrize('format', BOXES)
def test_scores_of_predictions_come_back(tmp_path, format):
    labels = label_set(tmp_path / 'source', 'boxes')
    for image in labels.images:
        for index, each in enumerate(image.objects):
            each.score = 0.1 + 0.07 * index
    write_labels(labels, tmp_path / 'out', format, 'link')
    assert comparable(read_labels(tmp_path / 'out')) == comparable(labels)


@pytest.mark.parametrize('format', ['coco', 'yolo', 'voc', 'cvat', 'label-studio'])
def test_splits_come_back(tmp_path, format):
    labels = label_set(tmp_path / 'source', 'boxes')
    for image, split in zip(labels.images, ('train', 'train', 'val', 'test'), strict=True):
        image.split = split
    write_labels(labels, tmp_path / 'out', format, 'copy')
    assert comparable(read_labels(tmp_path / 'out')) == comparable(labels)


def test_label_maps_come_back(tmp_path):
    labels = label_set(tmp_path / 'source', 'masks')
    assert 'png holds classes' in write_labels(labels, tmp_path / 'out', 'png', 'link')[0]
    result = read_labels(tmp_path / 'out')
    assert result.classes == ['background', *labels.classes]
    assert result.label_map[255] is None
    with Image.open(tmp_path / 'out/masks/a b.png') as image:
        assert image.mode == 'P'
        assert set(np.unique(np.asarray(image))) == {1, 4}
    write_labels(result, tmp_path / 'again', 'png', 'link')
    for name in ('a b', 'sub/deep/empty'):
        files = [(tmp_path / folder / f'masks/{name}.png').read_bytes() for folder in ('out', 'again')]
        assert files[0] == files[1]


def test_what_a_format_cannot_hold_is_said(tmp_path):
    labels = label_set(tmp_path, 'boxes', 'masks')
    labels.images[0].objects[0].crowd = True
    assert losses(labels, 'coco') == []
    assert losses(labels, 'voc') == ['voc holds boxes only: the outlines of 6 objects are not written']
    assert len(losses(labels, 'yolo')) == 2


def test_image_labels_as_json(tmp_path):
    image = label_set(tmp_path, 'boxes', 'masks').images[0]
    assert ImageLabels.from_dict(json.loads(json.dumps(image.to_dict()))) == image


def test_two_images_with_the_same_file_of_labels_are_refused(tmp_path):
    labels = label_set(tmp_path, 'boxes')
    labels.images[0].name = 'z#1.jpg'
    with pytest.raises(ValueError, match='z#1.jpg and z#1.png would have the same file of labels'):
        write_labels(labels, tmp_path / 'out', 'yolo')
    with pytest.raises(ValueError, match="format 'yolov8' cannot be written; did you mean 'yolo'"):
        write_labels(labels, tmp_path / 'out', 'yolov8')


def test_three_lines_describe_a_folder(tmp_path):
    labels = label_set(tmp_path / 'source', 'boxes')
    write_labels(labels, tmp_path / 'out', 'yolo', 'link')
    assert describe(read_labels(tmp_path / 'out')).splitlines() == [
        f'{tmp_path}/out: YOLO (4 text files)',
        '4 images, 4 classes: bolt & nut, Ärger, a, 3 wheels',
        '9 objects: bolt & nut 3, Ärger 0, a 3, 3 wheels 3; 1 image without objects',
        'note: train and val of data.yaml are the same folder, which is split',
    ]
