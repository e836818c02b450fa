"""COCO files of boxes are completed where a default is clear, and otherwise refused by entry."""

import copy
import json

import pytest

from mmssl.hosts.coco_files import compare_classes, prepare_coco, read_json

CONTENT = dict(
    images=[dict(id=1, file_name='a.jpg', width=100, height=80)],
    annotations=[
        dict(id=7, image_id=1, category_id=2, bbox=[10, 20, 30, 40], area=1200, iscrowd=0),
        dict(id=8, image_id=1, category_id=2, bbox=[0, 0, 10, 10], area=100, iscrowd=1),
    ],
    categories=[dict(id=2, name='cat')],
)


def changed(section='annotations', remove=(), **values):
    """The file with the first entry of a section changed."""
    content = copy.deepcopy(CONTENT)
    entry = content[section][0]
    entry.update(values)
    for key in remove:
        del entry[key]
    return content


def test_a_complete_file_stays():
    content = copy.deepcopy(CONTENT)
    assert prepare_coco(content) == [] and content == CONTENT


@pytest.mark.parametrize(
    'change, note',
    [
        (dict(remove=['iscrowd']), 'no iscrowd: 0 is used'),
        (dict(remove=['area']), 'no area'),
        (dict(area=0), 'no area'),
        (dict(bbox=['10', '20', '30', '40.0']), 'written as text'),
        (dict(image_id='1'), 'image_id that is not listed, except as int'),
        (dict(category_id='2'), 'category_id that is not listed, except as int'),
        (dict(iscrowd='0'), ''),
        (dict(image_id=1.0, category_id=2.0, id=7.0), ''),
        (dict(iscrowd=False), ''),
    ],
)
def test_defaults(change, note):
    content = changed(**change)
    notes = prepare_coco(content)
    assert content == CONTENT
    assert [note in line for line in notes] == ([True] if note else [])


def test_area_and_box_are_those_of_the_mask():
    pytest.importorskip('pycocotools')
    polygon = [[10, 20, 30, 20, 30, 60, 10, 60]]
    content = changed(remove=['area', 'bbox'], segmentation=polygon)
    prepare_coco(content)
    assert content['annotations'][0]['bbox'] == [10, 20, 20, 40]
    assert content['annotations'][0]['area'] == 800


def test_annotations_without_ids_are_numbered():
    content = changed(remove=['id'])
    del content['annotations'][1]['id']
    prepare_coco(content)
    assert [entry['id'] for entry in content['annotations']] == [1, 2]


@pytest.mark.parametrize(
    'change, words',
    [
        (dict(remove=['bbox']), 'annotation 7 has the box None'),
        (dict(bbox='10 20 30 40'), 'annotation 7 has the box'),
        (dict(bbox=[10, 20, 30]), 'annotation 7 has the box'),
        (dict(bbox=[10, 20, 30, float('nan')]), 'annotation 7 has the box'),
        (dict(bbox=[10, 20, 30, 'wide']), 'annotation 7 has the box'),
        (dict(bbox=[10, 20, 30, 10**400]), 'annotation 7 has the box'),
        (dict(bbox=[[10], 20, 30, 40]), 'annotation 7 has the box'),
        (dict(area='large'), "annotation 7 has the area 'large'"),
        (dict(iscrowd='no'), "annotation 7 has iscrowd='no'"),
        (dict(remove=['area'], segmentation=[[1, 2, 3]]), 'annotation 7 has a segmentation'),
        (dict(remove=['image_id']), 'image_id None of annotation 7'),
        (dict(image_id=[1]), r'image_id \[1\] of annotation 7'),
        (dict(category_id=3), 'category_id 3 of annotation 7'),
        (dict(id=8), 'several annotations have the id 8'),
        (dict(remove=['id']), 'entry 0 of annotations has the id None'),
        (dict(section='images', remove=['width']), 'image 1 .*has the width None'),
        (dict(section='images', height=-5), 'image 1 .*has the height -5'),
        (dict(section='images', file_name=None), 'image 1 has the file_name None'),
        (dict(section='images', id=[1]), 'entry 0 of images has the id'),
        (dict(section='categories', name=3), 'category 2 has the name 3'),
    ],
)
def test_what_has_no_default_is_refused(change, words):
    with pytest.raises(ValueError, match=words):
        prepare_coco(changed(**change))


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-32'])
def test_encodings_of_json(tmp_path, encoding):
    (tmp_path / 'a.json').write_bytes(json.dumps(dict(name='ä'), ensure_ascii=False).encode(encoding))
    assert read_json(tmp_path / 'a.json') == dict(name='ä')


@pytest.mark.parametrize('data', [b'', b'{', b'[' * 100_000, b'\xff{}', b'\x00' * 9, b'1' * 5000])
def test_what_is_no_json_is_named(tmp_path, data):
    (tmp_path / 'a.json').write_bytes(data)
    with pytest.raises(ValueError, match=r'a\.json is not valid JSON'):
        read_json(tmp_path / 'a.json')


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(IsADirectoryError, match=f'{tmp_path} is a folder'):
        read_json(tmp_path)


@pytest.mark.parametrize('section', ['images', 'annotations', 'categories'])
@pytest.mark.parametrize('value', [{}, 'a', [3]])
def test_sections_that_are_no_lists_of_dicts(section, value):
    content = {**copy.deepcopy(CONTENT), section: value}
    with pytest.raises(ValueError, match=section):
        prepare_coco(content)


def test_boxes_that_mmdet_leaves_out():
    content = changed(bbox=[10, 20, 0, 40])
    assert prepare_coco(content) == ['boxes left out: 1 without area (annotations 7)']
    content['annotations'][1]['bbox'] = [500, 0, 10, 10]
    with pytest.raises(ValueError, match=r'none of the 2 boxes can be used: 1 without area .* 1 outside of'):
        prepare_coco(content)


def test_corners_instead_of_sizes():
    """[10, 20, 40, 60] as corners is the box [10, 20, 30, 40]; as sizes it may even fit into the image."""
    content = copy.deepcopy(CONTENT)
    boxes = ([40, 50, 90, 70], [10, 20, 40, 60])
    for entry, box in zip(content['annotations'], boxes, strict=True):
        entry['bbox'] = list(box)
    refused = r'1 of 2 boxes reach beyond their image \(annotations 7\), and all are within .* convert them'
    with pytest.raises(ValueError, match=refused):
        prepare_coco(content)
    content = changed(bbox=[40, 50, 90, 40])  # no corners: 40 is above 50
    (note,) = prepare_coco(content)
    assert note.startswith('1 of 2 boxes reach beyond their image (annotations 7); boxes are [left, top')
    assert prepare_coco(changed(bbox=[70.5, 20, 30, 61])) == []  # a pixel is rounding


@pytest.mark.parametrize('polygon', [[5, 70, 5, 90, 15, 90, 15, 70], [0.7, 0.06, 0.9, 0.06, 0.9, 0.2]])
def test_polygons_elsewhere_than_their_boxes(polygon):
    """x and y exchanged, and shares of the image; a single one of three is left alone."""
    box, good = [70, 5, 20, 10], [[70, 5, 90, 5, 90, 15, 70, 15]]
    assert prepare_coco(changed(bbox=box, segmentation=good)) == []
    content = changed(bbox=box, segmentation=[polygon])
    with pytest.raises(ValueError, match='polygons of 1 of 1 compared annotations are elsewhere than their'):
        prepare_coco(copy.deepcopy(content))
    content['annotations'] += [dict(content['annotations'][0], id=n, segmentation=good) for n in (9, 10)]
    assert prepare_coco(content) == []


def test_shares_of_the_image():
    content = copy.deepcopy(CONTENT)
    for entry in content['annotations']:
        entry['bbox'] = [value / 100 for value in entry['bbox']]
    with pytest.raises(ValueError, match='none of the 2 boxes.*multiply them by the size of the image'):
        prepare_coco(content)


@pytest.mark.parametrize(
    'categories, classes, words',
    [
        (['person', 'car'], ['perosn', 'car'], "'perosn' is no category, but 'person' is one and no class"),
        (['Traffic_light', 'car'], ['traffic light', 'car'], 'Traffic_light'),
        (['person'], ['dog'], 'none of the 1 classes'),
        (['car', 'car'], ['car'], "several categories have the name 'car'"),
    ],
)
def test_misspelt_classes(categories, classes, words):
    content = dict(categories=[dict(id=index, name=name) for index, name in enumerate(categories)])
    with pytest.raises(ValueError, match=words):
        compare_classes(content, classes)


def test_names_that_are_not_misspelt():
    names = ['cat', 'car', 'digit_1', 'table']
    content = dict(categories=[dict(id=index, name=name) for index, name in enumerate(['cow', *names])])
    notes = compare_classes(content, ['cow', 'bar', 'digit_2', 'cable'])
    assert [note.partition(':')[0] for note in notes] == [
        '0 objects of 4 categories that are no class of this run are left out',
        'no category, so no object, of 3 of the 4 classes',
    ]
