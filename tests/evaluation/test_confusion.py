"""The confusion matrix and its scores against scikit-learn and by hand."""

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from mmssl.evaluation.confusion import (
    class_scores,
    confusion_matrix,
    frequency_weighted_iou,
    mean_iou,
    mean_pixel_accuracy,
    pixel_accuracy,
)
from mmssl.ops import switch


@pytest.fixture(params=[False, True], ids=['fast', 'plain'])
def form(request, monkeypatch):
    """The fast form, then the plain one."""
    monkeypatch.setattr(switch, '_plain_only', request.param)


def maps(classes=6, shape=(37, 53), dtype=np.int64, ignore=255, seed=0):
    rng = np.random.default_rng(seed)
    label, pred = rng.integers(0, classes, shape), rng.integers(0, classes, shape)
    pred[rng.random(shape) < 0.5] = label[rng.random(shape) < 1][:1][0]
    label[rng.random(shape) < 0.1] = ignore
    return pred.astype(dtype), label.astype(dtype)


@pytest.mark.parametrize(
    'classes, dtype, ignore',
    [(6, np.uint8, 255), (6, np.int64, 255), (300, np.int32, 65535), (6, np.int16, -1), (256, np.uint8, 7)],
)
def test_equals_scikit_learn(form, classes, dtype, ignore):
    pred, label = maps(classes, dtype=dtype, ignore=ignore)
    pred[0, :3] = label[0, :3] = ignore
    counted = label != ignore
    ours = confusion_matrix(pred, label, classes, ignore)
    assert ours.dtype == np.int64
    assert np.array_equal(ours, sk.confusion_matrix(label[counted], pred[counted], labels=range(classes)))


def test_scores_equal_scikit_learn():
    pred, label = maps(5)
    known = label != 255
    matrix = confusion_matrix(pred, label, 5)
    truth, guess = label[known], pred[known]
    scores = class_scores(matrix, beta=2)
    expected = {
        'Acc': sk.recall_score(truth, guess, average=None),
        'IoU': sk.jaccard_score(truth, guess, average=None),
        'Dice': sk.f1_score(truth, guess, average=None),
        'Fscore': sk.fbeta_score(truth, guess, beta=2, average=None),
        'Precision': sk.precision_score(truth, guess, average=None),
        'Recall': sk.recall_score(truth, guess, average=None),
    }
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], value, atol=1e-12, rtol=0, err_msg=name)
    assert pixel_accuracy(matrix) == pytest.approx(sk.accuracy_score(truth, guess), abs=1e-12)
    assert mean_pixel_accuracy(matrix) == pytest.approx(sk.balanced_accuracy_score(truth, guess), abs=1e-12)
    assert mean_iou(matrix) == pytest.approx(sk.jaccard_score(truth, guess, average='macro'), abs=1e-12)
    assert frequency_weighted_iou(matrix) == pytest.approx(
        sk.jaccard_score(truth, guess, average='weighted'), abs=1e-12
    )


def test_by_hand():
    matrix = np.array([[3, 1, 0], [2, 4, 0], [0, 0, 0]])
    assert pixel_accuracy(matrix) == 7 / 10
    assert mean_pixel_accuracy(matrix) == pytest.approx((3 / 4 + 4 / 6) / 2)
    assert mean_iou(matrix) == pytest.approx((3 / 6 + 4 / 7) / 2)
    assert frequency_weighted_iou(matrix) == pytest.approx((4 * 3 / 6 + 6 * 4 / 7) / 10)
    assert np.isnan(class_scores(matrix)['IoU'][2])  # in neither map: left out of the means, not 0


def test_a_class_that_is_only_predicted_counts_as_wrong():
    matrix = confusion_matrix(np.array([0, 1]), np.array([0, 0]), 2)
    assert mean_iou(matrix) == pytest.approx((0.5 + 0) / 2) and mean_pixel_accuracy(matrix) == 0.5


def test_tensors_any_layout_and_empty(form):
    pred, label = maps(4)
    tensors = torch.from_numpy(pred).T, torch.from_numpy(label).T
    assert not tensors[0].is_contiguous()
    result = confusion_matrix(*tensors, 4)
    assert isinstance(result, torch.Tensor) and result.dtype == torch.int64
    assert np.array_equal(result.numpy(), confusion_matrix(pred, label, 4))
    assert not confusion_matrix(np.zeros((0, 5), np.int64), np.zeros((0, 5), np.int64), 3).any()
    assert np.array_equal(
        confusion_matrix(np.array([True, False]), np.array([True, True]), 2), [[0, 0], [1, 1]]
    )


def test_a_large_image_of_a_single_class_is_exact():
    """A float32 counter stops at 2^24 = 16,777,216, which is where mmseg's does on one thread."""
    label = np.zeros((5000, 5000), np.uint8)
    pred = label.copy()
    pred[:1000] = 1
    assert confusion_matrix(pred, label, 2).tolist() == [[20_000_000, 5_000_000], [0, 0]]


@pytest.mark.parametrize(
    'pred, label, words',
    [
        ([0, 7], [0, 1], 'prediction holds 7'),
        ([0, 1], [0, 3], 'label holds 3'),
        ([0, 1], [0, -1], 'label holds -1'),
        ([0, 1], [0, 511], 'label holds 511'),
        ([0.0, 1.0], [0, 1], 'float64'),
        ([0, 1, 0], [0, 1], 'shape'),
    ],
)
@pytest.mark.parametrize('ignore', [255, 1000])
def test_what_is_no_class_is_refused(form, pred, label, words, ignore):
    with pytest.raises(ValueError, match=words):
        confusion_matrix(np.array(pred), np.array(label), 3, ignore)


def test_what_is_no_class_is_refused_under_ignored_pixels(form):
    for pred, label, words in (([255, 0], [9, 0], 'label holds 9'), ([9, 0], [255, 0], 'prediction holds 9')):
        with pytest.raises(ValueError, match=words):
            confusion_matrix(np.array(pred, np.uint8), np.array(label, np.uint8), 3)


def test_an_ignored_class_that_is_predicted_is_wrong(form):
    """Half of the pixels of class 1 are predicted as class 0, whose labels are ignored."""
    label = np.array([1, 1, 1, 1, 0, 0], np.uint8)
    pred = np.array([1, 1, 0, 0, 1, 0], np.uint8)
    matrix = confusion_matrix(pred, label, 2, ignore_index=0)
    assert matrix.tolist() == [[0, 0], [2, 2]]
    assert pixel_accuracy(matrix) == 0.5


def test_the_ignored_value_is_no_prediction_for_a_label(form):
    label = np.array([0, 1, 255], np.uint8)
    assert confusion_matrix(np.array([0, 1, 255], np.uint8), label, 2).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match='prediction holds 255, which is not a class'):
        confusion_matrix(np.array([0, 255, 255], np.uint8), label, 2)


@pytest.mark.parametrize('pixels', [1, 2, 3, 4, 5, 2**19 - 1, 2**19 + 2, 2**20 + 7])
def test_every_number_of_pixels_from_memory_that_is_read_only(form, pixels):
    rng = np.random.default_rng(pixels)
    pred, label = (
        np.frombuffer(rng.integers(0, 7, pixels, dtype=np.uint8).tobytes(), np.uint8) for _ in range(2)
    )
    matrix = confusion_matrix(pred, label, 7)
    assert np.array_equal(matrix, np.bincount(label.astype(int) * 7 + pred, minlength=49).reshape(7, 7))


@pytest.mark.parametrize('num_classes', [1, 2, 11, 19, 30, 31, 32, 150, 255])
@pytest.mark.parametrize('ignore_index', [255, 11, 31, 40])
@pytest.mark.parametrize('dtype', [np.uint8, np.int64])
def test_every_number_of_classes_and_ignored_value(form, num_classes, ignore_index, dtype):
    rng = np.random.default_rng(num_classes)
    values = [*range(num_classes), ignore_index]
    pred, label = (rng.choice(values, (37, 53)).astype(dtype) for _ in range(2))
    if ignore_index >= num_classes:
        pred[label != ignore_index] %= num_classes
    expected = np.zeros((num_classes, num_classes), np.int64)
    valid = label != ignore_index
    np.add.at(expected, (label[valid], pred[valid]), 1)
    assert np.array_equal(confusion_matrix(pred, label, num_classes, ignore_index), expected)
    for invalid in {num_classes, 31, 32, 127, 254, 255} - set(values):
        if invalid >= num_classes:
            for wrong in (0, 1):
                maps = [pred.copy(), label.copy()]
                maps[wrong][5, 7] = invalid
                with pytest.raises(
                    ValueError, match=f'the {("prediction", "label")[wrong]} holds {invalid}, '
                ):
                    confusion_matrix(*maps, num_classes, ignore_index)
