"""ClickMetric: the numbers, and the same of any number of processes."""

import json

import numpy as np
import pytest
import torch

from mmssl.evaluation.clicks import ClickMetric, number_of_clicks


def sample(number, objects=3):
    rng = np.random.default_rng(number)
    ious = np.sort(rng.random((objects, 5)), axis=1)
    fields = dict(
        click_ious=ious,
        best_ious=ious[:, 0] + 0.01,
        box_ious=ious[:, 3],
        boundary_ious=ious / 2,
        areas=rng.integers(1, 20_000, objects),
    )
    return {'pred_instances': {name: torch.from_numpy(value).float() for name, value in fields.items()}}


def evaluate(numbers, size):
    metric = ClickMetric()
    for number in numbers:
        metric.process(None, [sample(number)])
    return metric.evaluate(size)


def test_number_of_clicks_by_hand():
    ious = [[0.2, 0.9, 0.5], [0.85, 0.8, 0.9], [0.1, 0.2, 0.3]]
    assert number_of_clicks(ious, 0.85).tolist() == [2, 1, 3]


def test_means_over_objects():
    ious = np.concatenate([sample(number)['pred_instances']['click_ious'] for number in range(4)]).astype(
        np.float64
    )
    scores = evaluate(range(4), 4)
    for click in range(5):
        assert scores[f'mIoU@{click + 1}'] == pytest.approx(100 * ious[:, click].mean(), abs=1e-6)
    assert scores['box_mIoU'] == pytest.approx(scores['mIoU@4'])
    assert scores['oracle_mIoU@1'] == pytest.approx(scores['mIoU@1'] + 1, abs=1e-5)
    assert scores['BIoU@5'] == pytest.approx(scores['mIoU@5'] / 2)
    assert scores['NoC@85'] == number_of_clicks(ious, 0.85).mean() and scores['NoF@90'] == pytest.approx(
        100 * (ious.max(1) < 0.9).mean()
    )
    areas = np.concatenate([sample(number)['pred_instances']['areas'] for number in range(4)])
    medium = (areas >= 32**2) & (areas < 96**2)
    assert scores['mIoU@1_medium'] == pytest.approx(100 * ious[medium, 0].mean(), abs=1e-6)


def test_show_dir_asks_the_model_for_masks_and_draws_pictures_and_the_curve(tmp_path):
    from argparse import Namespace

    from mmengine.config import Config
    from PIL import Image

    from mmssl.commands.test import apply_options
    from mmssl.registry import METRICS

    cfg = Config(
        dict(
            default_scope='mmpretrain',
            model=dict(type='mmssl.InteractiveSAM'),
            test_cfg=dict(),
            test_evaluator=dict(type='mmssl.ClickMetric'),
        )
    )
    apply_options(
        cfg, Namespace(config='config.py', out=None, tta=False, amp=False, show_dir=str(tmp_path / 'drawn'))
    )
    assert cfg.model.clicks.keep_masks
    Image.new('RGB', (40, 30)).save(tmp_path / 'x.png')
    masks = torch.zeros(3, 30, 40, dtype=torch.bool)
    result = sample(0)
    result['pred_instances'].update(first_masks=masks, last_masks=~masks, points=torch.ones(3, 5, 3))
    metric = METRICS.build(cfg.test_evaluator)
    metric.process(None, [dict(result, img_path=str(tmp_path / 'x.png'), gt_instances=dict(masks=masks))])
    metric.evaluate(1)
    assert sorted(path.name for path in (tmp_path / 'drawn').iterdir()) == ['mIoU_by_clicks.png', 'x.png']


def results_of(rank, world):
    """All scores of a process, as text."""
    results = {}
    for size in (1, 4, 5):
        padded = [index % size for index in range(-(-size // world) * world)]
        results[size] = evaluate(padded[rank::world], size)
    return json.dumps(results)


def test_two_processes_give_the_same_to_the_last_digit(two_ranks):
    assert two_ranks(results_of, 2) == [results_of(0, 1)] * 2


def test_errors_and_images_without_objects():
    metric = ClickMetric()
    metric.process(None, [sample(0, objects=0), sample(1)])
    assert metric.evaluate(2)['mIoU@1'] == pytest.approx(
        100 * float(sample(1)['pred_instances']['click_ious'][:, 0].mean()), abs=1e-5
    )
    metric.process(None, [sample(0, objects=0)])
    with pytest.raises(ValueError, match='no object was evaluated'):
        metric.evaluate(1)
    with pytest.raises(ValueError, match='needs pred_instances.click_ious'):
        metric.process(None, [{}])
    with pytest.raises(ValueError, match='thresholds'):
        ClickMetric(thresholds=(0, 85))
