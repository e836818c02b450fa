"""Which masks are right, against loops over pixels."""

import numpy as np
import pytest

from mmssl.apis.mask_confidence import confident_threshold, match_masks
from mmssl.data.label_formats.records import ImageLabels, ObjectLabel


def image(objects):
    return ImageLabels('a', '', 40, 40, objects)


def square(left, top, side, score=None, label=0, crowd=False):
    box = (left, top, left + side, top + side)
    outline = [left, top, left + side, top, left + side, top + side, left, top + side]
    return ObjectLabel(label, box, polygons=[outline], score=score, crowd=crowd)


def iou(first, second):
    masks = np.zeros((2, 40, 40), bool)
    for mask, each in zip(masks, (first, second), strict=True):
        left, top, right, bottom = map(int, each.box)
        mask[top:bottom, left:right] = True
    return (masks[0] & masks[1]).sum() / (masks[0] | masks[1]).sum()


def reference(predicted, truth, min_iou, by_class):
    free, right = list(truth), []
    for each in sorted(predicted, key=lambda each: -each.score):
        options = [other for other in free if not by_class or other.label == each.label]
        best = max(options, key=lambda other: iou(each, other), default=None)
        right.append(best is not None and iou(each, best) >= min_iou)
        if right[-1]:
            free.remove(best)
    return right


@pytest.mark.parametrize('by_class', [False, True])
def test_each_labelled_mask_is_found_once_by_the_most_confident(by_class):
    generator = np.random.default_rng(0)

    def objects(count, score):
        numbers = generator.integers(0, 24, (count, 2)), generator.integers(6, 16, count)
        scores = generator.random(count) if score else [None] * count
        labels = generator.integers(0, 2, count)
        return [square(*map(int, corner), int(side), value, int(label)) for corner, side, value, label
                in zip(*numbers, scores, labels, strict=True)]  # fmt: skip

    found = 0
    for _ in range(30):
        predicted, truth = objects(8, True), objects(5, False)
        matches = match_masks(image(predicted), image(truth), 0.4, by_class)
        assert matches.right.tolist() == reference(predicted, truth, 0.4, by_class)
        assert matches.scores.tolist() == sorted((each.score for each in predicted), reverse=True)
        found += matches.right.sum()
    assert found > 20


def test_masks_on_crowds_do_not_count():
    truth = image([square(0, 0, 20, crowd=True)])
    matches = match_masks(image([square(0, 0, 10, 0.9), square(25, 25, 10, 0.8)]), truth, 0.5, False)
    assert matches.scores.tolist() == [0.8] and matches.right.tolist() == [False]


def test_the_threshold_keeps_the_promised_share():
    truth = [image([square(0, 0, 10)]) for _ in range(10)]
    right, wrong = square(0, 0, 10, 0.9), square(20, 20, 10, 0.4)
    predicted = [image([right, wrong]) for _ in range(10)]
    assert confident_threshold(predicted, truth, 1.0, 0.75, False) == 0.9
    assert confident_threshold([image([wrong])] * 10, truth, 0.9, 0.75, False) == np.inf
