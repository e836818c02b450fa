"""Predictions of images with other folders, endings and orders than the truth says."""

import json

import pytest
from PIL import Image

from mmssl.apis.score import score
from mmssl.data.label_formats import ImageLabels, LabelSet, ObjectLabel, write_labels
from mmssl.errors import LabelError

BOX = [1, 2, 10, 10]


def write(folder, files, names, results=None):
    """Write images and the truth, in which each image has a box of its own; return the file of results."""
    for file in files:
        (folder / 'truth' / file).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (60, 30)).save(folder / 'truth' / file)
    images = [dict(id=10 * i, file_name=name, width=60, height=30) for i, name in enumerate(names, 1)]
    boxes = [[index, 2, 5 + 3 * index, 10] for index in range(1, len(names) + 1)]
    annotations = [
        dict(id=i, image_id=10 * i, category_id=3, bbox=box, area=10 * box[2], iscrowd=0)
        for i, box in enumerate(boxes, 1)
    ]
    content = dict(
        images=images, annotations=annotations, categories=[dict(id=3, name='x'), dict(id=1, name='y')]
    )
    (folder / 'truth').mkdir(exist_ok=True)
    (folder / 'truth/labels.json').write_text(json.dumps(content))
    right = [
        dict(image_id=each['image_id'], category_id=3, bbox=each['bbox'], score=0.9) for each in annotations
    ]
    (folder / 'results.json').write_text(json.dumps(right[::-1] if results is None else results))
    return folder / 'results.json'


@pytest.mark.parametrize(
    ('files', 'names'),
    [
        (['1.png', '2.png'], ['1.png', '2.png']),
        (['a/1.png', 'a/b/1.png', 'a/2.png'], ['a/1.png', 'a/b/1.png', 'a/2.png']),
        (['a/1.png', 'b/1.png', 'a/b/1.png'], ['a/1.png', 'b/1.png', 'a/b/1.png']),
        ([], ['a/1.png', 'b/1.png', '1.png']),
        (['one.png', 'two.png'], ['ONE.PNG', 'Two.jpg']),
        (['s/one.png', 't/one.png'], ['C:\\x\\s\\one.png', 'C:\\x\\t\\one.png']),
    ],
)
def test_results_find_their_images(tmp_path, files, names):
    result = score(tmp_path / 'truth', write(tmp_path, files, names), 'detect', resamples=2)
    assert result['ap'] == pytest.approx(1) and result['images'] == len(names) and not result['notes']


def test_no_results_are_no_detections(tmp_path):
    result = score(tmp_path / 'truth', write(tmp_path, [], ['1.png', '2.png'], []), 'detect', resamples=2)
    assert result['ap'] == result['recall'] == 0 and '2 images have no predictions' in result['notes'][0]


def test_numbers_written_as_text_are_numbers(tmp_path):
    results = [dict(image_id='10', category_id=3.0, bbox=[1, 2, 8, 10], score=0.5)]
    assert score(tmp_path / 'truth', write(tmp_path, [], ['1.png'], results), 'detect', resamples=2)[
        'ap'
    ] == pytest.approx(1)


@pytest.mark.parametrize(
    ('change', 'reason'),
    [
        (dict(image_id=[10]), r'image_id \[10\] is not in the truth'),
        (dict(image_id=11), 'image_id 11 is not in the truth'),
        (dict(category_id=None), 'category_id None is not in the truth'),
        (dict(bbox=[1, 2, 10]), 'needs four numbers'),
        (dict(score='a'), 'must be finite numbers'),
    ],
)
def test_results_that_name_nothing(tmp_path, change, reason):
    results = [{**dict(image_id=10, category_id=3, bbox=BOX, score=0.5), **change}]
    file = write(tmp_path, [], ['1.png', '2.png'], results)
    with pytest.raises(LabelError, match=reason):
        score(tmp_path / 'truth', file, 'detect', resamples=2)


@pytest.mark.parametrize('other', ['train/2.png', 'train/1.png'])
def test_results_of_another_part(tmp_path, other):
    file = write(tmp_path, [], [other, 'val/1.png'])
    content = json.loads((tmp_path / 'truth/labels.json').read_text())
    (tmp_path / 'truth/labels.json').unlink()
    for split, image in zip(('train', 'val'), content['images'], strict=True):
        boxes = [each for each in content['annotations'] if each['image_id'] == image['id']]
        part = {**content, 'images': [image], 'annotations': boxes}
        (tmp_path / f'truth/instances_{split}.json').write_text(json.dumps(part))
    with pytest.raises(LabelError, match=f'has results of {other}, which is none of the 1 images to score'):
        score(tmp_path / 'truth', file, 'detect', resamples=2, split='val')


def test_results_of_a_name_in_two_parts(tmp_path):
    file = write(tmp_path, [], ['1.png', '2.png'])
    content = json.loads((tmp_path / 'truth/labels.json').read_text())
    (tmp_path / 'truth/labels.json').unlink()
    for split, image in zip(('train', 'val'), content['images'], strict=True):
        Image.new('RGB', (60, 30)).save(
            (tmp_path / f'truth/{split}').mkdir() or tmp_path / f'truth/{split}/1.png'
        )
        boxes = [each for each in content['annotations'] if each['image_id'] == image['id']]
        part = {**content, 'images': [{**image, 'file_name': '1.png'}], 'annotations': boxes}
        (tmp_path / f'truth/instances_{split}.json').write_text(json.dumps(part))
    with pytest.raises(LabelError, match=r'has results of 1.png, a name of several images'):
        score(tmp_path / 'truth', file, 'detect', resamples=2, split='val')


@pytest.mark.parametrize('format', ['coco', 'voc', 'yolo', 'labelme', 'cvat', 'label-studio'])
@pytest.mark.parametrize('empty', [False, True])
def test_equal_names_in_folders_that_are_not_there(tmp_path, format, empty):
    names = ['a/1.png', 'b/1.png', '2.png']
    boxes = {name: (1.0, 2.0, 11.0 + index, 12.0) for index, name in enumerate(names)}

    def labels(order, objects):
        images = [ImageLabels(name, '', 40, 30, [ObjectLabel(1, boxes[name])] * objects) for name in order]
        return LabelSet('', 'coco', ['x', 'y'], images)

    write_labels(labels(names, 1), tmp_path / 'truth', 'coco')
    write_labels(labels(names[::-1], not empty), tmp_path / 'found', format)
    result = score(tmp_path / 'truth', tmp_path / 'found', 'detect', resamples=2)
    assert result['ap'] == pytest.approx(0 if empty else 1) and result['images'] == 3
