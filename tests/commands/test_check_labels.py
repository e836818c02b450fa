"""``mmssl check-data DIR``: three lines about labels of any format, bad images, the exit status."""

import json

import pytest
from PIL import Image

from mmssl.cli import main


@pytest.fixture
def folder(tmp_path):
    """Class folders of four images."""
    for name in ('cat/1.png', 'cat/2.png', 'dog/1.png', 'dog/2.png'):
        path = tmp_path / 'data' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (8, 8)).save(path)
    return tmp_path / 'data'


def check(capsys, *arguments):
    status = main(['check-data', *map(str, arguments)])
    done = capsys.readouterr()
    return status, done.out, done.err


def test_three_lines_and_a_verdict(folder, tmp_path, capsys):
    status, out, _ = check(capsys, folder, '--out', tmp_path / 'out')
    assert status == 0
    assert out.splitlines() == [
        f'{folder}: class folders (2 class folders)',
        '4 images, 2 classes: cat, dog',
        'a class for each image: cat 2, dog 2',
        '',
        f'{folder}: all images can be read',
    ]
    content = json.loads((tmp_path / 'out/check.json').read_text())
    assert content['facts'] == dict(format='classes', images=4, classes=dict(cat=2, dog=2))
    assert (tmp_path / 'out/bad_files.txt').read_text() == ''


def test_images_that_cannot_be_read_are_named(folder, tmp_path, capsys):
    (folder / 'dog/2.png').write_bytes(b'no image')
    status, out, _ = check(capsys, folder, '--out', tmp_path / 'out')
    assert status == 1
    assert f'{folder}/dog/2.png: no known image format' in out and '1 images cannot be read' in out
    assert (tmp_path / 'out/bad_files.txt').read_text() == f'{folder}/dog/2.png\tno known image format\n'


def test_a_file_of_labels_and_boxes_beyond_images(folder, capsys):
    (folder / 'boxes.csv').write_text('path,x1,y1,x2,y2,label\ncat/1.png,0,0,12,4,cat\n')
    status, out, _ = check(capsys, folder / 'boxes.csv')
    assert status == 0
    assert '1 boxes reach beyond their images (the first is (0.0, 0.0, 12.0, 4.0) of 1.png)' in out


def test_labels_that_cannot_be_read_end_in_a_line(folder, tmp_path, capsys):
    (folder / 'labels.json').write_text('{"images": [')
    status, out, err = check(capsys, folder)
    assert (status, out) == (1, '')
    assert f'mmssl check-data: error: {folder}/labels.json: not JSON' in err.splitlines()[0]
    (folder / 'labels.json').unlink()
    status, _, err = check(capsys, folder, '--data', tmp_path)
    assert status == 1 and 'is no config' in err
    status, _, err = check(capsys, folder, '--format', 'coco')
    assert status == 1 and "holds no labels of the format 'coco'; formats there: classes" in err


def test_a_task_decides_between_formats_as_in_finetune(folder, capsys):
    for name in ('1.png', '2.png'):
        path = folder / 'masks/cat' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (8, 8)).save(path)
    Image.new('L', (8, 8), 1).save(folder / 'masks/cat/1.png')
    (folder / 'boxes.csv').write_text('path,x1,y1,x2,y2,label\ncat/1.png,0,0,4,4,cat\n')
    for task, title in (('detect', 'CSV'), ('semantic', 'label maps')):
        status, out, _ = check(capsys, folder, '--task', task)
        assert status == 0 and title in out.splitlines()[0], out
    status, _, err = check(capsys, folder, '--task', 'instance')
    assert status == 1 and 'which cannot be used for the task' in err
