"""SegmentationMetric: the numbers, the names, the files, and the same of any number of processes."""

import json
import re
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.evaluation.confusion import confusion_matrix, mean_iou
from mmssl.evaluation.segmentation import SegmentationMetric

CLASSES = ('road', 'tree', 'car')


def image(number, size=(9, 11), classes=3):
    rng = np.random.default_rng(number)
    label = rng.integers(0, classes, size)
    pred = np.where(rng.random(size) < 0.6, label, rng.integers(0, classes, size))
    label[rng.random(size) < 0.1] = 255
    return pred, label


def sample(pred, label, path='a/b.jpg'):
    return {
        'pred_sem_seg': {'data': torch.as_tensor(pred)[None]},
        'gt_sem_seg': {'data': torch.as_tensor(label)[None]},
        'img_path': path,
        'seg_map_path': path.replace('.jpg', '.png'),
    }


def metric(classes=CLASSES, **kwargs):
    made = SegmentationMetric(**kwargs)
    made.dataset_meta = {'classes': classes}
    return made


def evaluate(numbers, size, **kwargs):
    made = metric(**kwargs)
    for number in numbers:
        made.process(None, [sample(*image(number))])
    return made.evaluate(size)


def test_scores_are_those_of_all_pixels_together():
    matrix = sum(confusion_matrix(*image(number), 3) for number in range(4))
    scores = evaluate(range(4), 4)
    assert scores['mIoU'] == 100 * mean_iou(matrix)
    assert set(scores) == {
        'PA',
        'MPA',
        'mIoU',
        'FWIoU',
        'mDice',
        'mFscore',
        'mPrecision',
        'mRecall',
        *(f'{name}.{label}' for name in ('IoU', 'Acc') for label in CLASSES),
    }


def test_scores_of_each_image():
    scores = evaluate(range(4), 4, average='image', per_class=False)
    assert scores['mIoU'] == pytest.approx(
        100 * np.mean([mean_iou(confusion_matrix(*image(number), 3)) for number in range(4)]), abs=1e-12
    )


def results_of(rank, world):
    """All scores of a process, as text."""
    results = {}
    for average in ('dataset', 'image'):
        for size in (1, 2, 5, 6):
            # as mmengine's DefaultSampler pads
            padded = [index % size for index in range(-(-size // world) * world)]
            results[f'{average} {size}'] = evaluate(padded[rank::world], size, average=average)
    return json.dumps(results)


def test_any_number_of_processes_gives_the_same(two_ranks):
    expected = results_of(0, 1)
    for world in (2, 3):
        assert two_ranks(results_of, world, count=world) == [expected] * world  # to the last digit


def test_a_single_class_is_foreground_and_background():
    made = metric(classes=('crack',))
    made.process(None, [sample([[0, 1, 1, 0]], [[0, 1, 0, 0]])])
    scores = made.evaluate(1)
    assert scores['IoU.background'] == pytest.approx(100 * 2 / 3) and scores['IoU.crack'] == 50


def test_an_absent_class_is_left_out_and_logged(caplog):
    made = metric()
    made.process(None, [sample([[0, 1]], [[0, 1]])])
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    logger.addHandler(caplog.handler)
    try:
        scores = made.evaluate(1)
    finally:
        logger.removeHandler(caplog.handler)
    assert (
        scores['mIoU'] == 100
        and 'IoU.car' not in scores
        and not any(np.isnan(value) for value in scores.values())
    )
    assert 'left out of the means: car' in caplog.text


def test_labels_out_of_range_name_the_file():
    with pytest.raises(ValueError, match=re.escape('a/b.png: the label holds 3')):
        metric().process(None, [sample([[0, 1]], [[0, 3]])])


def test_nothing_to_count_is_an_error():
    made = metric()
    made.process(None, [sample([[0, 1]], [[255, 255]])])
    with pytest.raises(ValueError, match='no pixel counts'):
        made.evaluate(1)
    with pytest.raises(ValueError, match='empty'):
        made.evaluate(0)


def test_memory_does_not_grow():
    made = metric()
    samples = [sample(*image(number, (8, 8))) for number in range(10)]
    made.process(None, samples)
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(100):
        made.process(None, samples)
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 1e5 and made.num_samples == 1010


def test_files(tmp_path):
    made = metric(output_dir=str(tmp_path / 'out'), matrix_file=str(tmp_path / 'matrix.csv'))
    pred, label = image(0)
    made.process(None, [sample(pred, label)])
    made.evaluate(1)
    assert np.array_equal(np.asarray(Image.open(tmp_path / 'out/b.png')), pred)
    rows = [line.split(',') for line in (tmp_path / 'matrix.csv').read_text().splitlines()]
    assert rows[0][1:] == list(CLASSES)
    assert np.array_equal(np.array([row[1:] for row in rows[1:]], int), confusion_matrix(pred, label, 3))
    assert Image.open(tmp_path / 'matrix.png').width > 300
    only = metric(output_dir=str(tmp_path / 'only'), format_only=True)
    only.process(None, [{key: value for key, value in sample(pred, label).items() if key != 'gt_sem_seg'}])
    assert only.evaluate(1) == {} and (tmp_path / 'only/b.png').exists()


def test_images_of_the_same_name_have_files_of_their_own(tmp_path):
    made = metric(output_dir=str(tmp_path / 'out'), format_only=True)
    for _ in range(2):  # every evaluation writes to the same names
        for folder, value in (('x/one', 0), ('x/two', 1), ('y/two', 2)):
            made.process(None, [dict(sample([[value]], [[0]]), img_path=f'{folder}/1.jpg')])
        made.evaluate(3)
    files = {path.name: int(np.asarray(Image.open(path))[0, 0]) for path in (tmp_path / 'out').iterdir()}
    assert files == {'1.png': 0, 'two_1.png': 1, 'y_two_1.png': 2}


@pytest.mark.parametrize(
    'wrong, words',
    [
        (dict(average='mean'), "average='mean'"),
        (dict(beta=0), 'beta=0'),
        (dict(format_only=True), 'output_dir'),
        (dict(matrix_file='a.txt'), '.csv or .npy'),
    ],
)
def test_wrong_arguments(wrong, words):
    with pytest.raises(ValueError, match=words):
        SegmentationMetric(**wrong)
