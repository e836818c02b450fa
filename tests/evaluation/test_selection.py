"""Neighbours and selections by features, against plain loops."""

import numpy as np
import pytest
import torch

from mmssl.evaluation import neighbours
from mmssl.evaluation.feature_files import normalized
from mmssl.evaluation.selection import (
    _by_typicality,
    select_diverse,
    select_like,
    select_outliers,
    select_typical,
)
from mmssl.evaluation.selection_kmeans import spherical_kmeans


def directions(*degrees):
    """Features on the unit circle."""
    angles = np.deg2rad(np.array(degrees, dtype=np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def clouds(sizes, dimensions=8, seed=0):
    """Features around a centre for each size."""
    generator = np.random.default_rng(seed)
    centres = np.linalg.qr(generator.normal(size=(dimensions, dimensions)))[0][: len(sizes)]
    rows = [
        centre + 0.1 * generator.normal(size=(size, dimensions))
        for centre, size in zip(centres, sizes, strict=True)
    ]
    return np.concatenate(rows).astype(np.float32)


@pytest.mark.parametrize('block_rows', [1, 3, 100])
def test_neighbours_are_those_of_a_full_sort(block_rows):
    features = np.random.default_rng(0).normal(size=(23, 5)).astype(np.float32)
    queries = normalized(features[4:9])
    rows = torch.arange(4, 9)
    similarities, nearest = neighbours.nearest_rows(features, queries, 6, rows, block_rows)
    full = queries @ normalized(features).T
    full[torch.arange(5), rows] = -2
    expected = full.sort(dim=1, descending=True)
    assert torch.equal(nearest, expected.indices[:, :6])
    torch.testing.assert_close(similarities, expected.values[:, :6])


def test_equal_neighbours_come_in_the_order_of_their_rows():
    features = directions(0, 10, 0, 0, 10)
    for block_rows in (1, 2, 5):
        _, rows = neighbours.nearest_rows(features, normalized(features[:1]), 5, block_rows=block_rows)
        assert rows.tolist() == [[0, 2, 3, 1, 4]]


def test_there_are_no_more_neighbours_than_other_rows():
    features = directions(0, 10)
    assert neighbours.neighbour_similarities(features, 10).shape == (2, 1)


def test_an_index_of_faiss_finds_the_neighbours(monkeypatch):
    pytest.importorskip('faiss')
    features = clouds([300] * 8)
    exact = neighbours.neighbour_similarities(features, 5)
    monkeypatch.setattr(neighbours, 'MAX_EXACT_ROWS', 100)
    assert not neighbours.is_exact(len(features))
    approximate = neighbours.neighbour_similarities(features, 5)
    assert (approximate - exact).abs().mean() < 1e-3


def test_diverse_rows_are_the_farthest_from_those_before():
    # the mean points to 73 degrees; 170 is farther from 80 than 0 is
    features = directions(0, 40, 80, 95, 170)
    assert select_diverse(features, 4) == [2, 4, 0, 1]
    assert select_diverse(features, 2) == [2, 4]


def test_diverse_rows_against_a_plain_loop():
    features = np.random.default_rng(1).normal(size=(40, 6)).astype(np.float32)
    unit = features.astype(np.float64) / np.linalg.norm(features, axis=1, keepdims=True)
    centres = [3, 17]
    while len(centres) < 12:
        distances = (1 - unit @ unit[centres].T).min(axis=1)
        centres.append(int(distances.argmax()))
    assert select_diverse(features, 10, [3, 17]) == centres[2:]


def test_equal_features_are_selected_once_each():
    features = directions(0, 0, 0, 90)
    assert sorted(select_diverse(features, 4)) == [0, 1, 2, 3]
    assert sorted(select_typical(features, 4)) == [0, 1, 2, 3]


def test_clusters_of_separate_clouds():
    clusters = spherical_kmeans(clouds([30, 20, 10]), 3)
    parts = [set(part.tolist()) for part in clusters.split([30, 20, 10])]
    assert all(len(part) == 1 for part in parts) and len(set.union(*parts)) == 3


def test_typical_rows_come_from_all_clouds_the_largest_first():
    selected = select_typical(clouds([30, 20, 10]), 3)
    assert selected[0] < 30 <= selected[1] < 50 <= selected[2]


def test_typical_rows_avoid_clouds_that_have_labels():
    selected = select_typical(clouds([30, 20, 10]), 2, excluded=[5])
    assert 5 not in selected and all(row >= 30 for row in selected)


def test_typicality_against_a_plain_loop():
    features = clouds([25], seed=3)
    unit = normalized(features).double().numpy()
    distances = np.sort(np.linalg.norm(unit[:, None] - unit[None], axis=2), axis=1)[:, 1:21].mean(axis=1)
    assert _by_typicality(features, np.arange(25)).tolist() == distances.argsort().tolist()


def test_outliers_are_far_from_their_neighbours():
    features = np.concatenate([clouds([40, 40]), -np.ones((1, 8), np.float32)])
    assert select_outliers(features, 1) == [80]
    assert 80 not in select_outliers(features, 3, excluded=[80])


def test_rows_like_any_of_the_queries():
    features = directions(0, 5, 20, 90, 93, 200)
    assert select_like(features, normalized(features[[0, 3]]), 3, excluded=[0, 3]) == [4, 1, 2]


@pytest.mark.parametrize('select', [select_diverse, select_typical, select_outliers])
def test_selections_are_deterministic_and_checked(select):
    features = clouds([20, 20])
    assert select(features, 6) == select(features, 6)
    assert len(set(select(features, 40))) == 40
    with pytest.raises(ValueError, match='41 images cannot be selected: 40 are left'):
        select(features, 41)
    with pytest.raises(ValueError, match='at least 1'):
        select(features, 0)
