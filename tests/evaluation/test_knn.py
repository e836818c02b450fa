"""The vote against hand-computed values and against scikit-learn."""

import math

import numpy as np
import pytest
import torch

from mmssl.evaluation import knn_accuracy, knn_classify, knn_scores

BANK = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0], [-1.0, 0.0]])
LABELS = torch.tensor([0, 1, 1, 2])


def clusters(classes=4, each=30, width=16, spread=1.5, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(classes).repeat_interleave(each)
    return (centres[labels] + spread * torch.randn(len(labels), width, generator=generator)).to(dtype), labels


def test_scores_by_hand():
    # cosines of (1, 0) with the bank: 1, 0, 1/sqrt(2), -1; the three nearest vote
    weights = [math.exp(1 / 0.5), math.exp(0.0), math.exp(math.sqrt(0.5) / 0.5)]
    expected = torch.tensor([[weights[0], weights[1] + weights[2], 0.0]]) / sum(weights)
    scores = knn_scores(BANK, LABELS, torch.tensor([[5.0, 0.0]]), k=3, temperature=0.5)
    torch.testing.assert_close(scores, expected)
    # one neighbour against two: the temperature decides
    assert knn_classify(BANK, LABELS, torch.tensor([[5.0, 0.0]]), k=3, temperature=0.5).tolist() == [0]
    assert knn_classify(BANK, LABELS, torch.tensor([[5.0, 0.0]]), k=3, temperature=5.0).tolist() == [1]


@pytest.mark.parametrize('k', [1, 5, 20])
@pytest.mark.parametrize('temperature', [0.07, 1.0])
def test_equals_scikit_learn_in_cosine_space(k, temperature):
    neighbors = pytest.importorskip('sklearn.neighbors')
    bank, labels = clusters(dtype=torch.float64)
    queries, _ = clusters(seed=1, dtype=torch.float64)
    model = neighbors.KNeighborsClassifier(
        n_neighbors=k,
        metric='cosine',
        algorithm='brute',
        weights=lambda distances: np.exp((1 - distances) / temperature),
    )
    model.fit(bank.numpy(), labels.numpy())
    scores = knn_scores(bank, labels, queries, k, temperature)
    assert scores.dtype == torch.float64
    np.testing.assert_allclose(scores.numpy(), model.predict_proba(queries.numpy()), atol=1e-10)
    assert (
        knn_classify(bank, labels, queries, k, temperature).tolist()
        == model.predict(queries.numpy()).tolist()
    )


def test_blocks_do_not_change_the_result():
    bank, labels = clusters()
    queries, _ = clusters(seed=1)
    whole = knn_scores(bank, labels, queries)
    torch.testing.assert_close(knn_scores(bank, labels, queries, max_entries=7 * len(bank)), whole)


def test_length_of_features_and_small_temperature_do_not_matter():
    bank, labels = clusters()
    queries, _ = clusters(seed=1)
    torch.testing.assert_close(
        knn_scores(1e4 * bank, labels, 1e-4 * queries),
        knn_scores(bank, labels, queries),
        atol=1e-4,
        rtol=1e-4,
    )
    scores = knn_scores(bank, labels, queries, temperature=1e-4)
    assert torch.isfinite(scores).all()
    assert scores.argmax(1).tolist() == knn_classify(bank, labels, queries, k=1).tolist()


def test_more_neighbours_than_features_warns_and_uses_all():
    with pytest.warns(UserWarning, match='k=9 exceeds the 4 training features'):
        scores = knn_scores(BANK, LABELS, BANK, k=9)
    torch.testing.assert_close(scores, knn_scores(BANK, LABELS, BANK, k=4))


def test_accuracy_counts_only_classes_with_votes():
    bank = torch.eye(6)
    labels = torch.arange(6)
    for truth in range(6):  # one vote, for class 3: the four other places of the top five are nobody's
        expected = 100.0 * (truth == 3)
        assert knn_accuracy(bank, labels, torch.eye(6)[[3]], torch.tensor([truth]), k=1) == dict(
            top1=expected, top5=expected
        )
    assert knn_accuracy(BANK, LABELS, BANK, LABELS, k=1) == dict(top1=100.0, top5=100.0)


def test_half_precision_features_are_compared_in_float32():
    bank, labels = clusters()
    queries, _ = clusters(seed=1)
    assert knn_scores(bank.half(), labels, queries.half()).dtype == torch.float32


def broken(**kwargs):
    values = dict(train_features=BANK, train_labels=LABELS, features=BANK, labels=LABELS) | kwargs
    return knn_accuracy(**values)


@pytest.mark.parametrize(
    ('kwargs', 'error', 'message'),
    [
        (
            dict(features=torch.tensor([[float('nan'), 0.0]]), labels=torch.tensor([0])),
            ValueError,
            '1 of 1 validation features contain NaN',
        ),
        (dict(train_features=torch.full((4, 2), float('inf'))), ValueError, '4 of 4 training features'),
        (
            dict(features=torch.ones(4, 3)),
            ValueError,
            'training features have 2 dimensions, validation features 3',
        ),
        (dict(features=torch.ones(2, 2)), ValueError, '2 features, but labels have shape'),
        (dict(train_labels=torch.tensor([0, 1, -1, 2])), ValueError, 'labels contain -1'),
        (dict(labels=torch.tensor([0, 1, 1, 3]), k=1), ValueError, 'go up to 3, but there are 3 classes'),
        (dict(num_classes=2), ValueError, 'go up to 2, but there are 2 classes'),
        (dict(k=0), ValueError, 'k=0'),
        (dict(k=2.5), ValueError, 'k=2.5'),
        (dict(temperature=0.0), ValueError, 'temperature=0.0'),
        (dict(train_features=torch.ones(4, 2, dtype=torch.long)), TypeError, 'floating point'),
        (dict(labels=LABELS.float()), TypeError, 'must be integers'),
        (
            dict(features=torch.ones(0, 2), labels=torch.ones(0, dtype=torch.long)),
            ValueError,
            'N and D above 0',
        ),
    ],
)
def test_bad_input_is_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        broken(**kwargs)
