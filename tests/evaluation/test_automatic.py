"""Average recall of automatic masks."""

import numpy as np
import pytest
import torch
from pycocotools import mask as coco

from mmssl.evaluation.automatic import AverageRecall, matched


def square(left, width=10):
    mask = np.zeros((20, 60), bool)
    mask[5:15, left : left + width] = True
    return mask


def test_every_object_needs_a_mask_of_its_own():
    ious = np.array([[0.9, 0.8], [0.85, 0.3], [0.2, 0.6]])
    # the first mask takes the first object; the second finds it taken; the third takes the second object up
    # to 0.60
    assert matched(ious, np.array([0.5, 0.6, 0.65, 0.95])).tolist() == [2, 2, 1, 0]
    assert matched(np.zeros((0, 2))).tolist() == [0] * 10 and matched(np.zeros((2, 0))).tolist() == [0] * 10


@pytest.mark.parametrize('as_runs', [False, True])
def test_average_recall_by_hand(as_runs):
    masks = [square(0), square(20, 12), square(45)]  # IoU 1 and 10 / 12, and one of nothing
    objects = torch.from_numpy(np.stack([square(0), square(20)]))
    predicted = (
        [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
        if as_runs
        else torch.from_numpy(np.stack(masks))
    )
    sample = dict(
        pred_instances=dict(masks=predicted, scores=torch.tensor([0.1, 0.9, 0.5])),
        gt_instances=dict(masks=objects),
    )
    metric = AverageRecall()
    metric.process(None, [sample])
    scores = metric.evaluate(1)
    assert scores == {
        'AR@1000': pytest.approx(100 * (7 * 2 + 3) / 20),
        'AR50@1000': 100,
        'masks_per_image': 3,
    }
    few = AverageRecall(max_masks=1)  # the most confident one
    few.process(None, [sample])
    assert few.evaluate(1)['AR@1'] == pytest.approx(100 * 7 / 20)


def test_no_masks_and_no_objects():
    nothing = torch.zeros(0, 20, 60, dtype=torch.bool)
    objects = torch.from_numpy(square(0))[None]
    metric = AverageRecall()
    metric.process(
        None,
        [dict(pred_instances=dict(masks=nothing, scores=torch.zeros(0)), gt_instances=dict(masks=objects))],
    )
    assert metric.evaluate(1)['AR@1000'] == 0
    with pytest.raises(ValueError, match='no object was evaluated'):
        metric.evaluate(0)
    with pytest.raises(ValueError, match='max_masks=0'):
        AverageRecall(max_masks=0)
