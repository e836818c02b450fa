"""Class names against those of the annotations: numbered by the config, or refused with a message."""

import json
from collections import Counter

import numpy as np
import pytest

pytest.importorskip('mmdet')

from mmdet.datasets import CocoDataset, VOCDataset

import mmssl.detection  # noqa: F401
from mmssl.engine.sanity import check_class_count, check_same_classes

NAMES = ('cat', 'dog', 'hen')


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr('mmssl.detection.annotations.print_log', lambda text, logger=None: lines.append(text))
    return lines


@pytest.fixture
def coco(tmp_path):
    """A file of three categories and an object of each."""
    content = dict(
        images=[dict(id=1, file_name='a.jpg', width=100, height=80)],
        annotations=[
            dict(
                id=number, image_id=1, category_id=10 * number, bbox=[number, 2, 20, 30], area=600, iscrowd=0
            )
            for number in (1, 2, 3)
        ],
        categories=[dict(id=10 * number, name=name) for number, name in enumerate(NAMES, 1)],
    )

    def build(classes, change=None):
        if change:
            change(content)
        (tmp_path / 'boxes.json').write_text(json.dumps(content))
        dataset = CocoDataset(
            ann_file=str(tmp_path / 'boxes.json'),
            metainfo=dict(classes=classes),
            pipeline=[],
            test_mode=True,
            data_prefix=dict(img=''),
        )
        return dataset, [
            (found['bbox_label'], found['bbox'][0]) for found in dataset.get_data_info(0)['instances']
        ]

    return build


def test_labels_follow_the_classes_and_not_the_file(coco, said):
    assert coco(NAMES)[1] == [(0, 1), (1, 2), (2, 3)] and said == []
    assert coco(('hen', 'cat', 'dog'))[1] == [(1, 1), (2, 2), (0, 3)]
    (line,) = said
    assert line.endswith(
        'boxes.json: classes are numbered in the order of the config, which is not that of the file'
    )


def test_a_class_that_is_missing_and_objects_that_are_left_out(coco, said):
    dataset, labels = coco(('fox', 'dog', 'cat'))
    assert labels == [(2, 1), (1, 2)] and dataset.cat_ids == [31, 20, 10]
    check_class_count(type('Model', (), {'named_modules': lambda self: []})(), dataset)
    assert [line.partition(': ')[2] for line in said] == [
        '1 objects of 1 categories that are no class of this run are left out: hen',
        'no category, so no object, of 1 of the 3 classes: fox',
        'classes are numbered in the order of the config, which is not that of the file',
    ]


def test_no_class_at_all_and_two_categories_of_one_name(coco):
    with pytest.raises(
        ValueError,
        match=r'boxes\.json: none of the 2 classes \(Cat, Dog\) is one of its 3 categories \(cat, dog, hen\)',
    ):
        coco(('Cat', 'Dog'))
    with pytest.raises(ValueError, match=r"boxes\.json: several categories have the name 'dog'"):
        coco(NAMES, lambda content: content['categories'].append(dict(id=99, name='dog')))


def test_coco_metric_numbers_likewise(coco, said, tmp_path):
    """A perfect detector has AP 1 for any order of the file, also if it lacks the category of a class."""
    import numpy as np
    from mmdet.evaluation import CocoMetric

    for classes in (('hen', 'cat', 'dog'), ('fox', 'dog', 'cat')):
        labels = coco(classes)[1]
        metric = CocoMetric(ann_file=str(tmp_path / 'boxes.json'), metric='bbox', classwise=True)
        metric.dataset_meta = dict(classes=classes)
        boxes = np.array([[left, 2, left + 20, 32] for _, left in labels], np.float32)
        found = dict(
            img_id=1,
            bboxes=boxes,
            scores=np.full(len(boxes), 0.9, np.float32),
            labels=np.array([label for label, _ in labels]),
        )
        metric.results = [(dict(img_id=1, width=100, height=80), found)]
        assert metric.evaluate(1)['coco/bbox_mAP'] == pytest.approx(1.0)


def test_annotations_of_another_size_than_the_image_are_refused():
    from mmdet.datasets.transforms import LoadAnnotations

    load = LoadAnnotations(with_bbox=True)
    results = dict(img_path='a.jpg', ori_shape=(80, 100), height=80, width=100, instances=[])
    assert load(dict(results))['gt_bboxes_labels'].shape == (0,)
    assert load(dict(results, height=0, width=0)) is not None  # as some tools write for unknown
    for size in (dict(height=100, width=80), dict(height=40, width=50)):
        with pytest.raises(
            ValueError, match=r'a\.jpg has 100x80 pixels, but its annotations are for \d+x\d+'
        ):
            load(dict(results, **size))


def test_masks_that_pycocotools_decodes_wrongly_are_refused():
    """It makes four masks of the run lengths of an image of twice the size, and ends the process on a NaN."""
    from mmdet.datasets.transforms import LoadAnnotations

    load = LoadAnnotations(with_bbox=False, with_label=False, with_mask=True)

    def masks(segmentation):
        instance = dict(bbox=[10, 5, 30, 20], bbox_label=0, ignore_flag=0, mask=segmentation)
        results = dict(img_path='a.jpg', ori_shape=(30, 40), height=30, width=40, instances=[instance])
        return load(results)['gt_masks'].masks

    runs = [10 * 30 + 5, *[15, 15] * 19, 15]
    runs.append(30 * 40 - sum(runs))
    expected = np.zeros((30, 40), np.uint8)
    expected[5:20, 10:30] = 1
    polygon = [[10, 5, 30, 5, 30, 20, 10, 20]]
    for good in (polygon, dict(size=[30, 40], counts=runs)):
        assert np.array_equal(masks(good), expected[None])
    for bad, words in (
        (dict(size=[40, 30], counts=runs), 'of a 40x30 image, but this one is 30x40'),
        (dict(size=[60, 80], counts=[0, 4800]), 'of a 60x80 image'),
        (dict(size=[30, 40], counts=runs[:-1]), 'do not add up to the 1200 pixels'),
        ([[10, 5, float('nan'), 5, 30, 20]], 'the coordinate nan'),
        ([[10, 5, 30, 5, 30, 20, 10]], 'an odd number of coordinates'),
        (polygon[0], 'a list for each part of the object'),
        (None, 'the segmentation None; it needs polygons'),
    ):
        with pytest.raises(ValueError, match=rf'a\.jpg: object 1 has .*{words}'):
            masks(bad)


def test_a_metric_of_another_file_is_refused(coco, tmp_path):
    """Ids are often 1 to N in several files, whose images are not the same."""
    from types import SimpleNamespace

    from mmdet.evaluation import CocoMetric

    from mmssl.engine.run_checks import check_evaluated_files

    dataset, _ = coco(NAMES)
    metric = CocoMetric(ann_file=str(tmp_path / 'boxes.json'), metric='bbox')
    check_evaluated_files(dataset, [metric])
    content = json.loads((tmp_path / 'boxes.json').read_text())
    for change, words in (
        (dict(file_name='b/other.jpg'), 'names it other.jpg'),
        (dict(id=2), 'has no such image'),
    ):
        other = dict(content, images=[dict(content['images'][0], **change)], annotations=[])
        (tmp_path / 'other.json').write_text(json.dumps(other))
        metric = CocoMetric(ann_file=str(tmp_path / 'other.json'), metric='bbox')
        with pytest.raises(ValueError, match=rf'image 1 is a\.jpg, but .*other\.json of the metric {words}'):
            check_evaluated_files(SimpleNamespace(dataset=dataset), [metric])
        with pytest.raises(ValueError, match=words):  # as in a test
            metric.process({}, [dict(img_id=1, img_path='x/a.jpg')])


def voc(tmp_path, objects, classes, test_mode=False):
    (tmp_path / 'Annotations').mkdir(exist_ok=True)
    boxes = ''.join(
        f'<object><name>{name}</name><bndbox>'
        + ''.join(
            f'<{key}>{value}</{key}>'
            for key, value in zip(('xmin', 'ymin', 'xmax', 'ymax'), box, strict=True)
        )
        + '</bndbox></object>'
        for name, box in objects
    )
    write_xml(tmp_path / 'Annotations/a.xml', boxes)
    (tmp_path / 'list.txt').write_text('a\n')
    return voc_dataset(tmp_path, classes, test_mode)


def write_xml(path, objects):
    path.write_text(f'<annotation><size><width>50</width><height>40</height></size>{objects}</annotation>')


def voc_dataset(tmp_path, classes, test_mode=False):
    return VOCDataset(
        ann_file=str(tmp_path / 'list.txt'),
        data_prefix=dict(sub_data_root=f'{tmp_path}/VOC2007/../'),
        pipeline=[],
        metainfo=dict(classes=classes),
        test_mode=test_mode,
    )


def test_xml_of_boxes_beyond_the_image_is_logged(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr('mmssl.detection.annotation_patches.log', lines.append)
    (tmp_path / 'VOC2007').mkdir()
    voc(tmp_path, [('cat', (2, 3, 51, 41)), ('cat', (0, 0, 20, 30))], NAMES)  # a pixel is rounding
    assert lines == []
    voc(tmp_path, [('cat', (2, 3, 90, 30)), ('dog', (-5, 3, 20, 30)), ('cat', (2, 3, 20, 30))], NAMES)
    assert [line.partition(': ')[2] for line in lines] == [
        '2 boxes reach beyond their image; they are xmin, ymin, xmax, ymax in pixels'
    ]


def test_xml_of_other_names_and_of_boxes_without_area(tmp_path, said):
    (tmp_path / 'VOC2007').mkdir()
    whole, flat = (2, 3, 20, 30), (5, 5, 5, 30)
    dataset = voc(tmp_path, [('cat', whole), ('fox', whole), ('cat', flat)], NAMES)
    assert Counter(found['bbox_label'] for found in dataset.get_data_info(0)['instances']) == {0: 1}
    assert [line.partition(': ')[2] for line in said] == [
        '1 objects of other names than the classes are left out: fox',
        '1 boxes without area are left out',
    ]
    assert (
        len(
            voc(tmp_path, [('cat', whole), ('cat', flat)], NAMES, test_mode=True).get_data_info(0)[
                'instances'
            ]
        )
        == 2
    )
    with pytest.raises(
        ValueError,
        match=r'list\.txt: none of the 3 classes \(cat, dog, hen\) is the name of an object; there are fox',
    ):
        voc(tmp_path, [('fox', whole)], NAMES)
    assert len(voc(tmp_path, [], NAMES)) == 1
    with pytest.raises(
        ValueError, match=r"list\.txt: the class 'chicken' is no name of an object, but 'Chiken'"
    ):
        voc(tmp_path, [('cat', whole), ('Chiken', whole)], ('cat', 'chicken'))
    with pytest.raises(ValueError, match=r'list\.txt: none of the 2 boxes has an area; they are xmin'):
        voc(tmp_path, [('cat', (0.1, 0.2, 0.3, 0.4)), ('dog', (0.5, 0.2, 0.9, 0.4))], NAMES)
    with pytest.raises(ValueError, match=r'Annotations/a\.xml: object 1 \(cat\) has ymin=.nan'):
        voc(tmp_path, [('cat', (1, 'nan', 20, 30))], NAMES)


WHOLE = '<name>cat</name><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>'


@pytest.mark.parametrize(
    'objects, words',
    [
        (f'<object>{WHOLE.replace("<xmin>2", "<xmin>1e400")}</object>', r"object 1 \(cat\) has xmin='1e400'"),
        (f'<object>{WHOLE.replace("<xmin>2</xmin>", "")}</object>', r'object 1 \(cat\) has xmin=None'),
        (f'<object>{WHOLE}<difficult/></object>', r'object 1 \(cat\) has difficult=None'),
        (f'<object>{WHOLE.replace("name>", "nam>")}</object>', 'object 1 has no name'),
        (f'<objekt>{WHOLE}</objekt>', '1 of its boxes are in no <object>'),
        (f'<v:object xmlns:v="http://a">{WHOLE}</v:object>', '1 of its boxes are in no <object>'),
        (f'<object>{WHOLE}', 'mismatched tag'),
    ],
)
def test_xml_that_would_lose_objects_or_fail_is_refused_by_name(tmp_path, objects, words):
    (tmp_path / 'VOC2007').mkdir()
    voc(tmp_path, [('cat', (2, 3, 20, 30))], NAMES)
    write_xml(tmp_path / 'Annotations/a.xml', objects)
    with pytest.raises(ValueError, match=rf'Annotations/a\.xml: {words}'):
        voc_dataset(tmp_path, NAMES)


def test_xml_with_spaces_in_names_and_lists(tmp_path):
    (tmp_path / 'VOC2007').mkdir()
    voc(tmp_path, [('\n cat\n', (2, 3, 20, 30))], NAMES)
    (tmp_path / 'list.txt').write_text('\na \r\n\n')
    dataset = voc_dataset(tmp_path, NAMES)
    assert len(dataset) == 1 and dataset.get_data_info(0)['instances'][0]['bbox_label'] == 0
    (tmp_path / 'list.txt').write_text('a  1\n')
    with pytest.raises(FileNotFoundError, match=r"a  1\.xml does not exist, but .*list\.txt lists 'a  1'"):
        voc_dataset(tmp_path, NAMES)


def test_validation_in_another_order_is_refused(monkeypatch):
    lines = []
    monkeypatch.setattr('mmssl.engine.sanity.print_log', lambda text, **options: lines.append(text))
    check_same_classes(NAMES, NAMES, 'the test data')
    check_same_classes(None, NAMES, 'the test data')
    assert lines == []
    with pytest.raises(
        ValueError,
        match="the test data has the classes of training in another order: label 1 is 'hen' and 'dog'",
    ):
        check_same_classes(('cat', 'hen', 'dog'), NAMES, 'the test data')
    with pytest.raises(ValueError, match="other classes than training: label 2 is nothing and 'hen'"):
        check_same_classes(('cat', 'dog'), NAMES, 'the test data')
    check_same_classes(('n01', 'n02', 'n03'), NAMES, 'the test data')
    assert lines == ["the test data has other classes than training: label 0 is 'n01' and 'cat'"]
