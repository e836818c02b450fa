"""Few-label curves: the subsets, runs that are interrupted anywhere, and the answers of the table."""

import json
import math
import random
import shutil
import warnings

import numpy as np
import pytest
from PIL import Image

from mmssl.apis import finetune, finetune_results
from mmssl.apis.finetune_data import prepare_data
from mmssl.apis.finetune_subsets import drawing_order, image_classes, parse_labels
from mmssl.apis.finetune_summary import LabelCurve, Score, answers, labels_for, table_lines, write_summary
from mmssl.apis.training import train, training_arguments
from mmssl.cli import main
from mmssl.errors import UserError

NARROW = 'tutorial/pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool'
FAST = (
    'default_hooks.logger.interval=1',
    'default_hooks.checkpoint.interval=1',
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_dataloader.num_workers=0',
    'val_dataloader.persistent_workers=False',
    'model.backbone.base_channels=8',
    'model.backbone.stem_channels=8',
    'model.head.in_channels=64',
)


@pytest.fixture(scope='module')
def things(tmp_path_factory, data_root):
    """Class folders: 2 classes with 4 training and 3 validation images each."""
    folder = tmp_path_factory.mktemp('things')
    for split, count in (('train', 4), ('val', 3)):
        for wnid in sorted((data_root / 'imagenette' / split).iterdir())[:2]:
            (folder / split / wnid.name).mkdir(parents=True)
            for image in sorted(wnid.iterdir())[:count]:
                shutil.copy(image, folder / split / wnid.name)
    return folder


def curve(things, work_dir, **options):
    settings = dict(
        backbone_config=NARROW, iters=2, size=64, labels='2,all', seeds=(1,), cfg_options=FAST, **options
    )
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return finetune('random', 'classify', things, work_dir, **settings)


def rows(folder):
    """Losses of a run by step."""
    lines = [line for log in folder.glob('*/vis_data/scalars.json') for line in log.read_text().splitlines()]
    return {entry['step']: entry['loss'] for entry in map(json.loads, lines) if 'loss' in entry}


@pytest.mark.slow
def test_a_curve_that_is_interrupted_trains_what_is_missing_and_ends_the_same(things, tmp_path, monkeypatch):
    tuned = curve(things, tmp_path / 'a')
    table = (tmp_path / 'a/table.json').read_text()
    assert [(row.labels, set(row.values)) for row in tuned.curve.rows] == [(2, {1}), (8, {1})]
    assert tuned.config == str(tmp_path / 'a/random-all-seed1/config.py') and not tuned.model.training
    with Image.open(tmp_path / 'a/curve.png') as picture:
        assert picture.width > 900
    # each run is `mmssl train` of its config
    few, every = tmp_path / 'a/random-2-seed1', tmp_path / 'a/random-all-seed1'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        train(training_arguments(str(few / 'config.py'), cfg_options=FAST, work_dir=str(tmp_path / 'again')))
    assert len(rows(few)) == 2 and rows(few) == rows(tmp_path / 'again') != rows(every)

    trained = []
    train_config = finetune_results.train_config

    def recorded(path, settings, resume):
        trained.append((path.parent.name, resume))
        train_config(path, settings, resume)

    monkeypatch.setattr(finetune_results, 'train_config', recorded)
    curve(things, tmp_path / 'a')
    (few / 'result.json').unlink()  # killed before it was written
    curve(things, tmp_path / 'a')
    assert trained == []
    # killed after the first step; killed while it was set up
    for path in (*few.glob('*iter_2.pth'), few / 'last_checkpoint', few / 'result.json'):
        path.unlink()
    shutil.rmtree(next(few.glob('2*')))
    shutil.rmtree(every)
    every.mkdir()
    curve(things, tmp_path / 'a')
    assert trained == [('random-2-seed1', 'auto'), ('random-all-seed1', None)]
    assert (tmp_path / 'a/table.json').read_text() == table
    # other settings are refused, and change nothing
    before = (few / 'config.py').read_text()
    with pytest.raises(UserError, match=r'is the result of other inputs \(config\); remove'):
        curve(things, tmp_path / 'a', batch_size=1)
    assert (few / 'config.py').read_text() == before


def test_dry_run_of_the_command_writes_subsets_and_configs(things, tmp_path, capsys):
    arguments = ['finetune', 'random', '--backbone-config', NARROW, '--task', 'classify', '--data', things,
                 '--work-dir', tmp_path, '--labels', '25%,all', '--seeds', '0,3', '--dry-run']  # fmt: skip
    assert main([*map(str, arguments)]) == 0
    said = capsys.readouterr().out
    assert 'subsets are nested' in said and '4 runs, 4 of them still to train' in said
    text = (tmp_path / 'random-25%-seed3/config.py').read_text()
    assert 'randomness = dict(seed=3)' in text and '2 training and 6 validation images' in text
    names = (tmp_path / 'subsets/25%-seed3.txt').read_text().split()
    assert len(names) == 2 and len({name.split('/')[-2] for name in names}) == 2  # a class each
    assert set(names) < set((tmp_path / 'subsets/all-seed3.txt').read_text().split())
    assert main([*map(str, arguments), '--seeds', '0,x']) == 1
    assert '--seeds 0,x must be whole numbers' in capsys.readouterr().err


@pytest.mark.parametrize(('data', 'task'), [('bccd', 'detect'), ('coco_mini', 'instance')])
def test_subsets_cover_the_classes_and_follow_their_rule(data_root, tmp_path, data, task):
    prepared = prepare_data(str(data_root / data), task, tmp_path, {})
    classes = image_classes(prepared, task)
    order = drawing_order(prepared, classes, 0)
    names = [image.name for image in order]
    assert sorted(names) == sorted(image.name for image in prepared.split.train.images)
    assert names != [image.name for image in drawing_order(prepared, classes, 1)]
    members = {}
    for image in order:
        for label in {each.label for each in image.objects if not each.crowd} or {-1}:
            members.setdefault(label, set()).add(image.name)
    drawn = set()
    for index, image in enumerate(order):  # the rule, from the beginning for each image
        left = {label: group for label, group in members.items() if group - drawn}
        fractions = {label: len(group & drawn) / len(group) for label, group in left.items()}
        least = min(fractions.values())
        assert any(image.name in left[label] for label, value in fractions.items() if value == least), index
        drawn.add(image.name)
    covered = next(
        count for count in range(1, len(order) + 1) if all(set(names[:count]) & g for g in members.values())
    )
    assert covered <= len(members)


def test_entries_of_labels():
    assert parse_labels('10,50,1%,10%,all', 205) == {'1%': 2, '10': 10, '10%': 20, '50': 50, 'all': 205}
    assert parse_labels('all, 100%,0.1%', 30) == {'0.1%': 1, 'all': 30}
    for text, words in (('0', 'has 30 images'), ('31', 'has 30 images'), ('ten', 'neither a number'),
                        ('101%', 'at most 100'), (',', 'names no number')):  # fmt: skip
        with pytest.raises(UserError, match=words):
            parse_labels(text, 30)


def test_numbers_of_labels_are_read_from_the_curve():
    generator = random.Random(0)
    for _ in range(20):
        counts = sorted(generator.sample(range(1, 5000), 4))
        values = sorted(generator.uniform(0, 100) for _ in counts)
        value = generator.uniform(values[0], values[-1])
        expected = 2 ** np.interp(value, values, np.log2(counts))
        assert labels_for(list(zip(counts, values, strict=True)), value) == round(expected)
    assert labels_for([(10, 5.0), (20, 9.0)], 4.0) == 10 and labels_for([(10, 5.0), (20, 9.0)], 9.1) is None


def test_table_answers_and_files(tmp_path):
    values = {
        ('moco', 10): (30, 32),
        ('random', 10): (10, 14),
        ('moco', 40): (50, 52),
        ('random', 40): (31, 31),
    }
    scores = [
        Score(start, count, seed, value)
        for (start, count), pair in values.items()
        for seed, value in enumerate(pair)
    ]
    result = LabelCurve('classify', ['moco', 'random'], scores)
    assert table_lines(result)[2:] == [
        '|     10 | 31.0 ± 1.4 | 12.0 ± 2.8 | +19.0 ± 1.4 |                       40 |',
        '|     40 | 51.0 ± 1.4 | 31.0 ± 0.0 | +20.0 ± 1.4 |             more than 40 |',
    ]
    gain, other, growth = answers(result)
    assert gain == (
        'with 10 labels moco has +19.0 ± 1.4 points of top-1 accuracy over random, which needs about 40 '
        'labels for as much'
    )
    assert other.endswith('which needs more than 40 labels for as much')
    needed = math.ceil(40 * 2 ** (1 / 10)), math.ceil(40 * 2 ** (5 / 10))
    assert f'+10.0 points for each doubling; a straight line gives +1 point at {needed[0]} labels' in growth
    assert f'+5 points at {needed[1]} labels ({needed[1] - 40} more)' in growth
    lines = write_summary(result, tmp_path)
    assert lines[2:6] == table_lines(result)
    content = json.loads((tmp_path / 'table.json').read_text())
    assert content['gains'][0]['equivalent'] == 40 and content['rows'][0]['values'] == {'0': 30, '1': 32}
    assert (tmp_path / 'table.md').read_text().count('\n|') == 4
    points = ((10, 0, 40), (10, 1, 50), (20, 0, 43), (20, 1, 49))
    flat = LabelCurve('classify', ['moco'], [Score('moco', *point) for point in points])
    assert 'no more than the spread of the seeds' in answers(flat)[-1]
    undefined = LabelCurve('semantic', ['moco'], [Score('moco', 10, 0, None)])
    assert table_lines(undefined)[-1].split('|')[2].strip() == '-' and answers(undefined) == []
