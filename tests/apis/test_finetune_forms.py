"""``mmssl finetune`` of the same labels in several forms: equal configs, parts, labels and label maps.

``tools/trials/label_forms.py`` trains them, and compares losses, weights and metrics.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmssl.apis import finetune
from mmssl.config.load import load_config

NARROW = 'tutorial/pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool'


@pytest.fixture(scope='module')
def trial(repo_root):
    """The trial, which writes the forms by plain code."""
    path = repo_root / 'tools/trials/label_forms.py'
    spec = importlib.util.spec_from_file_location('label_forms', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def written_config(task, data, work_dir):
    """Return the config of a run without its paths."""
    tuned = finetune('random', task, data, work_dir, backbone_config=NARROW, iters=1, dry_run=True)
    content = load_config(tuned.config).to_dict()
    text = json.dumps(content, sort_keys=True, default=str)
    for path in (work_dir / 'data', work_dir, data / 'JPEGImages', data / 'images', data):
        text = text.replace(str(path), '')
    return text


def names_in(path):
    return sorted(Path(line).stem for line in path.read_text().splitlines())


def test_boxes(trial, data_root, tmp_path):
    source, small = data_root / 'bccd', tmp_path / 'source'
    (small / 'ImageSets/Main').mkdir(parents=True)
    for folder in ('JPEGImages', 'Annotations'):
        (small / folder).symlink_to(source / folder)
    for split, count in (('train', 20), ('val', 10), ('test', 5)):
        names = (source / f'ImageSets/Main/{split}.txt').read_text().split()[:count]
        (small / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names))
    results = []
    for form, data in trial.bccd_forms(small, tmp_path / 'forms').items():
        work_dir = tmp_path / form
        contents = [written_config('detect', data, work_dir)]
        for part, count in (('train', 20), ('val', 10)):
            content = json.loads((work_dir / f'data/{part}.json').read_text())
            for image in content['images']:
                image['file_name'] = Path(image['file_name']).name
            assert len(content['images']) == count == len(names_in(work_dir / f'{part}.txt'))
            contents += [content, names_in(work_dir / f'{part}.txt')]
        results.append(contents)
    assert results[0] == results[1] == results[2]


def test_label_maps(trial, data_root, tmp_path):
    results = []
    for form, data in trial.camvid_forms(data_root / 'camvid', tmp_path / 'forms', every=60).items():
        work_dir = tmp_path / form
        contents = [written_config('semantic', data, work_dir)]
        for path in sorted((work_dir / 'data/labels').rglob('*.png')):
            contents += [path.name, np.asarray(Image.open(path)).tobytes()]
        assert len(contents) == 1 + 2 * (7 + 2)
        results.append(contents)
    assert results[0] == results[1] == results[2]
