"""The label loop: killed anywhere, what a person changed, and clicks per mask."""

import json
import multiprocessing
import os
import signal
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from sam_case import GENERATOR, of_images, write_model, write_photographs

from mmssl.apis import finetune_run
from mmssl.apis.loop import run_loop
from mmssl.apis.loop_measure import clicks_per_mask, compare
from mmssl.apis.loop_state import STATE_FILE, read_state
from mmssl.cli import main
from mmssl.data.label_formats.records import ImageLabels, ObjectLabel

pytestmark = pytest.mark.processes
FAST = [
    'train_dataloader.num_workers=0',
    'train_dataloader.persistent_workers=False',
    'val_cfg=None',
    'val_dataloader=None',
    'val_evaluator=None',
    'optim_wrapper.optimizer.lr=0.01',
]


@pytest.fixture(scope='module')
def case(tmp_path_factory, data_root):
    """A model, four photographs, and their masks."""
    folder = tmp_path_factory.mktemp('loop')
    write_model(folder)
    return folder, write_photographs(data_root, folder / 'images', 4)


def settings_of(folder):
    return dict(
        images=str(folder / 'images'),
        model=str(folder / 'sam.py'),
        checkpoint=str(folder / 'sam.pth'),
        number=2,
        min_iou=0.3,
        max_clicks=1,
        iters=1,
        generator={**GENERATOR, 'points_per_side': 1},
        cfg_options=FAST,
    )


def correct(loop, truth):
    """Write what a perfect person makes of the images of the last round."""
    last = read_state(loop).rounds[-1]
    file = loop / f'round-{last.number}/corrected.json'
    file.write_text(json.dumps(of_images(truth, last.images)))


def instead_of_training(checkpoint, task, data, work_dir, **options):
    """Write other weights, as the last step of a training does."""
    weights = {name: value * 1.01 for name, value in torch.load(checkpoint).items()}
    work_dir.mkdir(exist_ok=True)
    torch.save(weights, work_dir / 'sam.part')
    os.replace(work_dir / 'sam.part', work_dir / 'sam.pth')


def run_until_killed(loop, settings, replaces):
    """Run the loop in a process that ends by SIGKILL before (odd) or after a replacement of a file."""
    finetune_run.finetune = instead_of_training
    replace, count = os.replace, 0

    def counted(*arguments, **options):
        nonlocal count
        count += 1
        if count == replaces and count % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*arguments, **options)
        if count == replaces:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = counted
    run_loop(loop, **settings)


def status_of(*arguments):
    """Run a process that may be killed; return its exit status."""
    process = multiprocessing.get_context('fork').Process(target=run_until_killed, args=arguments)
    process.start()
    process.join(120)
    return process.exitcode


def test_a_loop_that_is_killed_again_and_again_ends_like_one_that_is_not(case, tmp_path):
    folder, truth = case
    killed, whole = tmp_path / 'killed', tmp_path / 'whole'
    statuses = []
    for _ in range(3):  # until the first masks are pre-filled, the second ones, and all are done
        for replaces in (1, 4, -1):
            statuses.append(status_of(killed, settings_of(folder), replaces))
            if statuses[-1] == 0:
                correct(killed, truth)
                break
    assert statuses.count(-signal.SIGKILL) >= 5 and set(statuses) == {0, -signal.SIGKILL}
    for _ in range(3):
        assert status_of(whole, settings_of(folder), -1) == 0
        correct(whole, truth)
    states = [(loop / STATE_FILE).read_text().replace(str(loop), 'LOOP') for loop in (killed, whole)]
    assert states[0] == states[1]
    rounds = read_state(killed).rounds
    assert [each.stage for each in rounds] == ['done', 'done']
    names = [name for each in rounds for name in each.images]
    assert sorted(names) == sorted(image['file_name'] for image in truth['images'])
    for each in rounds:
        files = (killed / f'round-{each.number}/masks').glob('*.json')
        assert sorted(file.stem for file in files) == sorted(name[:-4] for name in each.images)
        changed = each.changed
        corrected = len(of_images(truth, each.images)['annotations'])
        assert changed['accepted'] + changed['edited'] + changed['added'] == corrected
        assert each.shown['masks'] == changed['accepted'] + changed['edited'] + changed['deleted']
        assert each.clicks_per_mask > 0 and set(each.before) == set(each.after) == {'clicks', 'box_iou'}
        assert set(each.validation) < set(each.images)


def test_a_round_trains_on_the_corrections(case, tmp_path):
    folder, truth = case
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        run_loop(tmp_path, **{**settings_of(folder), 'number': 4})
        correct(tmp_path, truth)
        state = run_loop(tmp_path)
    (last,) = state.rounds
    assert last.stage == 'done' and Path(last.next_checkpoint).is_file()
    before, after = torch.load(folder / 'sam.pth'), torch.load(tmp_path / 'round-1/train/sam.pth')
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert {name.split('.')[0] for name in changed} >= {'image_encoder', 'mask_decoder'}
    data = json.loads((tmp_path / 'round-1/train/data/train.json').read_text())
    names = {each['file_name'] for each in data['images']}
    assert names == set(last.images) - set(last.validation) and len(last.validation) == 1
    masks = len(of_images(truth, list(names))['annotations'])
    assert len(data['annotations']) == masks > 2


def box_mask(left, top, right, bottom, label=0):
    outline = [left, top, right, top, right, bottom, left, bottom]
    return ObjectLabel(label, (left, top, right, bottom), polygons=[outline])


def test_changes_are_counted_one_to_one():
    first = [box_mask(0, 0, 20, 20), box_mask(40, 0, 60, 20), box_mask(0, 60, 9, 69)]
    shown = [ImageLabels('a', '', 100, 100, first), ImageLabels('b', '', 100, 100, [box_mask(0, 0, 10, 10)])]
    # accepted; edited from 20 to 16 columns, IoU 0.8; added; the class changed
    first = [box_mask(0, 0, 20, 20), box_mask(40, 0, 56, 20), box_mask(70, 70, 90, 90)]
    second = [box_mask(0, 0, 10, 10, label=1)]
    corrected = [ImageLabels('a', '', 100, 100, first), ImageLabels('b', '', 100, 100, second)]
    changes = compare(shown, corrected, classes=True)
    counts = (changes.accepted, changes.edited, changes.added, changes.deleted, changes.masks)
    assert counts == (1, 2, 1, 1, 4)
    np.testing.assert_allclose(sorted(changes.ious), [0, 0.8, 1, 1])
    assert [len(changes.redrawn[name]) for name in 'ab'] == [2, 0]
    assert compare(shown, corrected, classes=False).accepted == 2
    # two masks of 3 and 4 clicks, one deleted, of four masks
    assert clicks_per_mask(changes, np.array([3, 4])) == 2.0


def test_a_new_loop_needs_settings_and_an_old_one_keeps_them(case, tmp_path, capsys):
    folder, _ = case
    assert main(['loop', str(tmp_path / 'new')]) == 1
    assert 'is a new loop, which needs --images DIR' in capsys.readouterr().err
    assert not (tmp_path / 'new').exists()
    settings = settings_of(folder)
    arguments = [f'--{name}={settings[name]}' for name in ('images', 'model', 'checkpoint', 'number')]
    sides = [f'--{name.replace("_", "-")}={value}' for name, value in GENERATOR.items()]
    loop = tmp_path / 'loop'
    assert main(['loop', str(loop), '--device', 'cpu', *arguments, *sides]) == 0
    out = capsys.readouterr().out
    assert (
        'round 1: 2 images chosen' in out
        and f'--order {loop}/round-1/images.txt --prefill {loop}/round-1/prefilled.json' in out
    )
    listed = (loop / 'round-1/images.txt').read_text().splitlines()
    assert len(listed) == 2 and all(os.path.isfile(path) for path in listed)
    assert main(['loop', str(loop), '--number', '4']) == 1
    assert 'was started with number=2, not 4' in capsys.readouterr().err
    half = json.loads((loop / 'round-1/prefilled.json').read_text())
    half = of_images(half, [half['images'][0]['file_name']])
    (loop / 'round-1/corrected').mkdir()
    (loop / 'round-1/corrected/annotations.json').write_text(json.dumps(half))
    assert main(['loop', str(loop), '--device', 'cpu']) == 0
    assert '1 of 2 images are not in' in capsys.readouterr().out
    (loop / STATE_FILE).write_text('{"version": 1, "set')
    assert main(['loop', str(loop)]) == 1
    assert 'is not JSON' in capsys.readouterr().err
