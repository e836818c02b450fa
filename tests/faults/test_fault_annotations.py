"""Mistakes in annotation files give the right numbers or one line of error, as in the script of trials."""

import importlib.util
import json
import logging
import random
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

CLASSES = [f'digit_{number}' for number in range(10)]


@pytest.fixture(scope='module')
def script(repo_root):
    path = repo_root / 'tools/trials/mutate_annotations.py'
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    sys.path[:] = before
    return module


@pytest.fixture
def data(script, demo_data, tmp_path):
    script.write_data(tmp_path / 'data', demo_data)
    return tmp_path / 'data'


@pytest.mark.parametrize('kind, seed', [('label maps', 1)])
def test_a_mistake_ends_in_one_line_or_in_the_right_numbers(script, demo_data, monkeypatch, kind, seed):
    from yapf.yapflib import yapf_api

    pytest.importorskip('mmdet')
    monkeypatch.setattr(yapf_api, 'FormatCode', lambda text, **options: (text, True))
    monkeypatch.setattr(logging, 'raiseExceptions', False)
    (trial,) = script.trials(1, seed, (kind,), demo_data, limit=120)
    assert trial.outcome in script.GOOD, trial


@pytest.mark.parametrize('kind', ['COCO', 'VOC', 'label maps'])
def test_mutations_change_a_file_and_are_the_same_for_a_seed(script, data, kind):
    for change in set(script.files.MUTATIONS[kind]):
        results = []
        for _ in range(2):
            copy = shutil.copytree(data, data.with_name(f'copy{len(results)}'), symlinks=True)
            rng = random.Random(5)
            file = copy / script.target(kind, 'train', rng)
            before = file.read_bytes()
            text = change(rng, file)
            after = file.read_bytes() if file.is_file() and not file.is_fifo() else None
            results.append((text, after))
            changed_list = text.startswith('list of images')
            assert text and (after != before or changed_list)
            shutil.rmtree(copy)
        assert results[0] == results[1]


def test_the_reference_reads_what_was_written(script, data, demo_data):
    content = json.loads((data / 'coco/train.json').read_text())
    boxes = script.reference.read_coco(data / 'coco/train.json', CLASSES)
    assert sum(map(len, boxes.values())) == len(content['annotations'])
    voc = script.reference.read_voc(data / 'VOC2007', 'train', CLASSES, keeps_flat=False)
    # corners of pixels, which VOC counts from 1 and COCO from 0
    expected = {
        name: sorted([*row[:4], row[4] - 1, row[5] - 1] for row in rows) for name, rows in boxes.items()
    }
    assert script.reference.differences(voc, expected) == ''
    assert script.reference.differences(voc, {**expected, 'scene_0001.jpg': []}).startswith(
        'scene_0001.jpg: '
    )
    areas = script.reference.read_masks(data / 'coco/train.json')
    assert sum(map(sum, areas.values())) == sum(entry['area'] for entry in content['annotations'])
    label = data / 'labels/train/scene_0001.png'
    assert (script.reference.read_labels(label) == np.asarray(Image.open(label))).all()
    script.files._flip_in_pixels(label, random.Random(0))
    assert script.reference.read_labels(label) is None


def test_outcomes(script, tmp_path):
    where = tmp_path / 'a.png', 'train'
    line = 'mmssl train: error: '
    fine, problem = (0, 'a', ''), (1, 'problem: a', '')
    assert script.judge((0, '', ''), fine, False, where) == ('right', '')
    assert script.judge((1, '', f'{line}a.png: x'), problem, False, where) == ('refused', 'a.png: x')
    assert script.judge((1, '', f'{line}b: x'), problem, False, where)[0] == 'unnamed'
    assert script.judge((1, '', f'{line}a.png: x'), fine, False, where)[0] == 'check-data differs'
    assert script.judge((0, '', ''), problem, False, where)[0] == 'check-data differs'
    assert script.judge((1, '', f'{line}a.png: x'), problem, True, where)[0] == 'left over'
    assert script.judge((1, '', f'{line}a.png: x'), problem, True, (where[0], 'val'))[0] == 'stopped'
    assert script.judge((None, '', ''), fine, False, where)[0] == 'hang'
    assert script.judge((0, '', ''), (1, '', 'Traceback'), False, where)[0] == 'traceback'
    seen = (1, 'problem: no pixel of 2 classes', '')
    assert script.judge((0, 'WARNING no pixel of 2 classes', ''), seen, False, where)[0] == 'right'
