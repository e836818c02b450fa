"""Boundary scores against their definitions, worked out pixel by pixel."""

import cv2
import numpy as np
import pytest
import torch

from mmssl.evaluation.boundary import BoundaryMetric, boundary_band, inner_boundary


def label_map():
    label = np.kron(np.random.default_rng(0).integers(0, 4, (4, 5)), np.ones((8, 9), int)).astype(np.uint8)
    label[10:20, 14:25] = 255
    return label


def test_band_by_brute_force():
    label = label_map()
    height, width = label.shape
    edges = [
        (y, x)
        for y in range(height)
        for x in range(width)
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0))
        if 0 <= y + dy < height
        and 0 <= x + dx < width
        and 255 not in (label[y, x], label[y + dy, x + dx])
        and label[y, x] != label[y + dy, x + dx]
    ]
    rows, columns = np.mgrid[:height, :width]
    distance = np.min([np.hypot(rows - y, columns - x) for y, x in edges], axis=0)
    assert np.array_equal(boundary_band(label, 4), distance <= 4)
    assert not boundary_band(np.ones((5, 5), int), 7).any()


@pytest.mark.parametrize('distance', [1, 3])
def test_contours_are_what_repeated_erosion_takes(distance):
    label = label_map()
    contour = inner_boundary(label, distance)
    for value in np.unique(label):
        mask = (label == value).astype(np.uint8)
        eroded = cv2.erode(
            cv2.copyMakeBorder(mask, *[1] * 4, cv2.BORDER_CONSTANT, value=0),
            np.ones((3, 3), np.uint8),
            iterations=distance,
        )
        assert np.array_equal(contour & (label == value), (mask - eroded[1:-1, 1:-1]).astype(bool))


def sample(pred, label):
    return {
        'pred_sem_seg': {'data': torch.from_numpy(pred)[None]},
        'gt_sem_seg': {'data': torch.from_numpy(label)[None]},
    }


def test_metric_by_hand():
    label = np.zeros((40, 40), np.int64)
    label[:, 20:] = 1
    pred = label.copy()
    pred[:, 20:22] = 0  # wrong within the band
    pred[0, :5] = 1  # and outside it
    metric = BoundaryMetric(width=3, dilation_ratio=0.02)
    metric.dataset_meta = {'classes': ('left', 'right')}
    metric.process(None, [sample(pred, label)])
    scores = metric.evaluate(1)
    assert scores['boundary_acc'] == pytest.approx(100 * (8 - 2) / 8)  # columns 16 to 23
    assert scores['interior_acc'] == pytest.approx(100 * (32 * 40 - 5) / (32 * 40))
    assert 0 < scores['boundary_IoU'] < 100
    metric.process(None, [sample(label, label)])
    assert metric.evaluate(1) == {'boundary_acc': 100, 'interior_acc': 100, 'boundary_IoU': 100}


def test_accuracy_of_trimaps_of_several_widths():
    label = np.zeros((10, 40), np.int64)
    label[:, 20:] = 1
    label[:5] = 255
    pred = label.copy()
    pred[:, 20:22] = 0
    metric = BoundaryMetric(trimap_widths=(0, 1, 4.5))
    metric.dataset_meta = {'classes': ('left', 'right')}
    metric.process(None, [sample(pred, label), sample(label, label)])
    scores = metric.evaluate(2)
    # columns 19 and 20, 18 to 21, 15 to 24; two of them wrong in one of two images
    for width, columns, wrong in (('0', 2, 1), ('1', 4, 2), ('4.5', 10, 2)):
        assert scores[f'trimap_acc.{width}'] == pytest.approx(100 * (1 - wrong / columns / 2))
    metric.process(None, [sample(np.zeros((8, 8), np.int64), np.zeros((8, 8), np.int64))])
    assert not any('trimap' in name for name in metric.evaluate(1))
    with pytest.raises(ValueError, match=r'trimap_widths=\(1, -2\)'):
        BoundaryMetric(trimap_widths=(1, -2))


@pytest.mark.parametrize('void', [255, 0])
def test_the_border_to_void_counts_for_both_maps(void):
    """A prediction that is right wherever something is known has 100, whatever it says about the rest."""
    label = np.ones((60, 60), np.uint8)
    label[:, 30:] = 2
    label[:20] = void
    pred = label.copy()
    pred[:20] = 1
    metric = BoundaryMetric(ignore_index=void)
    metric.dataset_meta = {'classes': ('void', 'left', 'right')}
    metric.process(None, [sample(pred, label)])
    assert metric.evaluate(1)['boundary_IoU'] == 100


def test_a_predicted_class_that_is_ignored_is_wrong():
    label = np.ones((20, 20), np.uint8)
    pred = label.copy()
    pred[:10] = 0
    metric = BoundaryMetric(ignore_index=0)
    metric.process(None, [sample(pred, label)])
    assert metric.evaluate(1)['interior_acc'] == 50


@pytest.mark.parametrize('size, value, words', [(40, 7, 'label holds 7'), (20, 1, 'shape')])
def test_wrong_labels_and_sizes_name_the_file(size, value, words):
    label = np.zeros((40, 40), np.uint8)
    label[:, 20:] = value
    metric = BoundaryMetric()
    metric.dataset_meta = {'classes': ('a', 'b', 'c')}
    with pytest.raises(ValueError, match=rf'y\.png: .*{words}'):
        metric.process(None, [{**sample(np.zeros((size, 40), np.uint8), label), 'seg_map_path': 'y.png'}])


def test_what_does_not_exist_is_left_out():
    metric = BoundaryMetric()
    metric.process(None, [sample(np.zeros((8, 8), np.int64), np.zeros((8, 8), np.int64))])
    assert 'boundary_acc' not in metric.evaluate(1)
    with pytest.raises(ValueError, match='empty'):
        metric.evaluate(1)
