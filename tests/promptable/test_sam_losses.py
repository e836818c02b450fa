"""Losses and prompts of interactive training: against plain loops and cases worked out by hand."""

import math

import numpy as np
import pytest
import torch

from mmssl.promptable.losses import MaskLosses, dice_loss, focal_loss, mask_iou
from mmssl.promptable.prompts import (
    boxes_of,
    distance_inside,
    error_points,
    next_click,
    noisy_boxes,
    pick_pixels,
    silent_rounds,
    uniform,
)


def maps(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_focal_loss_is_the_mean_of_the_focal_loss_of_each_pixel():
    logits, target = 3 * maps(2, 3, 4, 5), maps(2, 1, 4, 5, seed=1) > 0
    loss = focal_loss(logits, target)
    for row in range(2):
        for mask in range(3):
            total = 0.0
            for y in range(4):
                for x in range(5):
                    p = 1 / (1 + math.exp(-logits[row, mask, y, x].item()))
                    p, alpha = (p, 0.25) if target[row, 0, y, x] else (1 - p, 0.75)
                    total -= alpha * (1 - p) ** 2 * math.log(p)
            assert loss[row, mask].item() == pytest.approx(total / 20, rel=1e-10)


def test_focal_loss_of_sure_pixels_is_finite_and_focuses():
    logits = torch.tensor([[[200.0, -200.0]]])
    assert focal_loss(logits, torch.tensor([[[1, 0]]])).item() == 0
    wrong = focal_loss(logits.requires_grad_(), torch.tensor([[[0, 1]]]))
    wrong.backward()
    assert wrong.item() == pytest.approx(200 / 2) and bool(torch.isfinite(logits.grad).all())
    # the average of a pixel that is right and one that is wrong is not the loss of their average
    assert (
        focal_loss(torch.tensor([[2.0, -2.0]]), torch.ones(1, 2)).item()
        > 3 * focal_loss(torch.zeros(1, 2), torch.ones(1, 2)).item()
    )


def test_dice_loss_by_hand():
    logits = torch.full((1, 2, 2), 1000.0)  # all four pixels; two are right
    target = torch.tensor([[[1, 1], [0, 0]]])
    assert dice_loss(logits, target).item() == pytest.approx(1 - (2 * 2 + 1) / (4 + 2 + 1))
    assert dice_loss(-logits, torch.zeros(1, 2, 2)).item() == 0


def test_gradients():
    logits, target = maps(2, 3, 3).requires_grad_(), maps(2, 3, 3, seed=1) > 0
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, target), logits)
    assert torch.autograd.gradcheck(lambda x: dice_loss(x, target), logits)


def test_iou():
    single, none = torch.tensor([[[True, False]]]), torch.zeros(1, 1, 2, dtype=torch.bool)
    assert (
        mask_iou(single, single).tolist() == [1.0]
        and mask_iou(single, ~single).tolist() == [0.0]
        and mask_iou(none, none).tolist() == [1.0]
    )
    assert mask_iou(single, torch.ones_like(single)).tolist() == [0.5]


def test_the_best_mask_learns_and_every_predicted_iou():
    target = torch.zeros(1, 4, 4, dtype=torch.bool)
    target[:, :2] = True
    logits = torch.stack(
        [torch.where(target[0], -3.0, 3.0), torch.where(target[0], 3.0, -3.0), torch.full((4, 4), 3.0)]
    )[None].requires_grad_()
    ious = torch.tensor([[0.5, 0.5, 0.5]], requires_grad=True)
    losses = MaskLosses()(logits, ious, target)
    assert losses['true_ious'].tolist() == [[0.0, 1.0, 0.5]]
    assert losses['focal'].item() == pytest.approx(20 * focal_loss(logits[0, 1], target[0]).item())
    sum(losses[name].sum() for name in ('focal', 'dice', 'iou')).backward()
    assert logits.grad[0, 1].abs().sum() > 0 and logits.grad[0, [0, 2]].abs().sum() == 0
    assert ious.grad.tolist() == [[pytest.approx(1 / 3), pytest.approx(-1 / 3), 0]]
    alone = MaskLosses(supervise_all_ious=False)(logits, ious, target)
    assert alone['iou'].item() == pytest.approx(0.25)
    with pytest.raises(ValueError, match='dice_weight=-1'):
        MaskLosses(dice_weight=-1)


def test_pixels_are_drawn_uniformly_from_the_region():
    region = torch.zeros(1, 3, 4, dtype=torch.bool)
    region[0, 0, 1] = region[0, 1, 3] = region[0, 2, 0] = True
    draws = torch.tensor([0.0, 0.32, 0.34, 0.66, 0.67, 0.999])
    points = pick_pixels(region.expand(6, -1, -1), draws)
    assert points.tolist() == [[1, 0], [1, 0], [3, 1], [3, 1], [0, 2], [0, 2]]
    assert pick_pixels(torch.zeros(1, 3, 4, dtype=torch.bool), draws[:1]).tolist() == [[-1, -1]]
    assert pick_pixels(region[:0], draws[:0]).shape == (0, 2)
    assert pick_pixels(torch.ones(1, 3, 4, dtype=torch.bool), torch.tensor([1 - 1e-9])).tolist() == [[3, 2]]


def test_draws_come_from_the_generator():
    draws = [uniform(3, 2, torch.device('cpu'), torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_boxes():
    masks = torch.zeros(2, 5, 7, dtype=torch.bool)
    masks[0, 1:3, 2:6] = masks[1, 4, 6] = True
    assert boxes_of(masks).tolist() == [[2, 1, 6, 3], [6, 4, 7, 5]]
    with pytest.raises(ValueError, match=r'masks \[1\] are empty'):
        boxes_of(torch.stack([masks[0], torch.zeros(5, 7, dtype=torch.bool)]))


def test_noise_of_boxes_is_a_tenth_of_the_side_and_at_most_twenty_pixels():
    boxes = torch.tensor([[100.0, 100.0, 140.0, 120.0], [100.0, 100.0, 900.0, 900.0]])
    moved = noisy_boxes(boxes, (1000, 1000), torch.tensor([[1.0, 1.0, -1.0, -1.0], [1.0, 1.0, -1.0, -1.0]]))
    assert moved.tolist() == [[104, 102, 136, 118], [120, 120, 880, 880]]
    assert noisy_boxes(boxes[:1], (110, 120), torch.ones(1, 4)).tolist() == [[104, 102, 120, 110]]
    turned = noisy_boxes(
        torch.tensor([[10.0, 10.0, 14.0, 14.0]]), (50, 50), torch.tensor([[30.0, 0.0, -30.0, 0.0]])
    )
    assert turned[0, 0] <= turned[0, 2]


def test_points_of_the_error_region():
    target = torch.zeros(1, 4, 4, dtype=torch.bool)
    target[0, 0, 0] = True
    missed, surplus = target.clone(), target.clone()
    missed[:] = False
    surplus[0, 3, 2] = True
    draw = torch.tensor([0.5])
    assert [value.tolist() for value in error_points(missed, target, None, draw)] == [[[0, 0]], [1]]
    assert [value.tolist() for value in error_points(surplus, target, None, draw)] == [[[2, 3]], [0]]
    padded = torch.ones(1, 4, 4, dtype=torch.bool)
    padded[0, 3] = False  # an error on the padding is none: the object itself is clicked
    assert [value.tolist() for value in error_points(surplus, target, padded, draw)] == [[[0, 0]], [1]]
    nothing = torch.zeros_like(target)
    points, labels = error_points(nothing, nothing, padded, draw)
    assert labels.tolist() == [0] and points[0, 1] < 3


def test_rounds_without_a_prompt():
    assert silent_rounds(11, 2, 0.0) == {1, 10} and silent_rounds(11, 2, 0.999) == {9, 10}
    assert (
        silent_rounds(5, 1, 0.3) == {4}
        and silent_rounds(5, 0, 0.3) == set()
        and silent_rounds(1, 0, 0.3) == set()
    )
    for rounds, silent in ((1, 1), (2, 2), (0, 0), (5, 3)):
        with pytest.raises(ValueError, match=f'rounds={rounds}'):
            silent_rounds(rounds, silent, 0.0)


def test_the_next_click_lies_farthest_inside_the_larger_error():
    target, pred = np.zeros((20, 30), bool), np.zeros((20, 30), bool)
    target[5:14, 10:19] = True  # 9 x 9: its centre
    assert next_click(pred, target) == (14, 9, 1)
    pred[5:14, 10:19] = True
    assert next_click(pred, target) is None
    pred[14:19, 10:19] = True  # five rows too much
    pred[5:8, 10:19] = False  # three rows missed
    x, y, label = next_click(pred, target)
    assert (y, label) == (16, 0) and 12 <= x <= 16
    clicked = np.zeros_like(pred)
    clicked[y, x] = True
    assert next_click(pred, target, clicked) != (x, y, label)


def test_distance_inside_by_brute_force():
    region = np.random.default_rng(0).random((7, 9)) < 0.8
    padded = np.pad(region, 1)
    outside = np.argwhere(~padded)
    expected = np.array(
        [[math.sqrt(((outside - (y + 1, x + 1)) ** 2).sum(1).min()) for x in range(9)] for y in range(7)]
    )
    assert np.allclose(distance_inside(region), expected, atol=1e-3)
