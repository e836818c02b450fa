"""Values of other types than a format says end in a line that names the file."""

import json

import pytest
from label_files import comparable, label_set

from mmssl.data.label_formats import read_labels, write_labels
from mmssl.errors import LabelError

FILES = {'coco': 'annotations.json', 'labelme': 'a b.json', 'label-studio': 'tasks.json'}


def changed(tmp_path, format, change):
    """Write labels, change the content of their file, and return its path."""
    write_labels(label_set(tmp_path / 'source', 'boxes', 'masks'), tmp_path / 'out', format, 'link')
    path = tmp_path / 'out' / FILES[format]
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize(
    ('format', 'change', 'reason'),
    [
        ('coco', lambda each: each['images'].insert(0, 3), 'images holds 3'),
        ('coco', lambda each: each['images'][0].update(id=None), 'id of an entry of images is None'),
        ('coco', lambda each: each['images'][0].update(width='x'), 'the size of a b.png cannot be read'),
        ('coco', lambda each: each['images'][0].pop('file_name'), 'has no file_name'),
        ('coco', lambda each: each['annotations'][0].update(category_id=[1]), 'category_id of an entry'),
        ('coco', lambda each: each['annotations'][0].update(bbox=['a', 1, 2, 3]), 'an annotation of a b.png'),
        ('coco', lambda each: each['annotations'][0].update(bbox=[1, 2, 3]), 'needs four numbers'),
        ('coco', lambda each: each['annotations'][0].update(bbox=[float('nan'), 1, 2, 3]), 'is not finite'),
        ('coco', lambda each: each['annotations'][3]['segmentation'].update(size=[3, 4]), 'has size [3, 4]'),
        ('coco', lambda each: each['annotations'][3]['segmentation'].update(counts=[5]), 'sum to 5'),
        ('coco', lambda each: each['categories'][0].update(name=''), 'category 1 needs a name'),
        ('coco', lambda each: each['categories'].append(dict(id=1, name='x')), "category 1 is 'x' here"),
        ('labelme', lambda each: each.update(imageWidth='wide'), 'cannot be read'),
        ('labelme', lambda each: each['shapes'][0].update(points=[[1]]), 'a rectangle cannot be read'),
        ('labelme', lambda each: each['shapes'][3].update(mask='%'), 'a mask cannot be read'),
        ('labelme', lambda each: each['shapes'][0].update(label='new'), "the class 'new' is not in the list"),
        ('label-studio', lambda each: each.insert(1, None), 'task 2 cannot be read'),
        ('label-studio', lambda each: each[0]['data'].clear(), 'names no image'),
        (
            'label-studio',
            lambda each: each[0]['annotations'][0]['result'][0]['value'].update(x='left'),
            'a result of a b.png cannot be read',
        ),
        (
            'label-studio',
            lambda each: each[0]['annotations'][0]['result'][3]['value'].update(rle=[1, 2]),
            'a result of a b.png cannot be read',
        ),
    ],
)
def test_the_file_and_the_entry_are_named(tmp_path, format, change, reason):
    path = changed(tmp_path, format, change)
    with pytest.raises(LabelError) as failure:
        read_labels(tmp_path / 'out')
    message = str(failure.value)
    assert reason in message and message.startswith(f'{path}: ') and '\n' not in message


def test_ids_that_are_written_as_text(tmp_path):
    def write_ids_as_text(content):
        for entry in content['annotations']:
            entry['image_id'] = str(entry['image_id'])
            entry['category_id'] = str(entry['category_id'])

    changed(tmp_path, 'coco', write_ids_as_text)
    assert comparable(read_labels(tmp_path / 'out')) == comparable(
        label_set(tmp_path / 'source', 'boxes', 'masks')
    )
