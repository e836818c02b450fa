"""Duplicates by features and perceptual hashes."""

import numpy as np
import pytest

from mmssl.evaluation.duplicates import (
    Fingerprint,
    Pair,
    candidate_pairs,
    confirm,
    fingerprint,
    is_same_picture,
    rows_to_drop,
)


def picture(seed, height=120, width=160):
    """Smooth random colors."""
    import cv2

    small = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


@pytest.mark.parametrize('block_rows', [1, 4, 100])
def test_candidates_are_the_pairs_above_the_threshold(block_rows):
    features = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    similarities = unit @ unit.T
    expected = [(i, j) for i in range(11) for j in range(i + 1, 11) if similarities[i, j] >= 0.5]
    pairs = sorted(candidate_pairs(features, threshold=0.5, block_rows=block_rows))
    assert [pair[:2] for pair in pairs] == expected
    assert all(abs(pair.similarity - similarities[pair.first, pair.second]) < 1e-6 for pair in pairs)
    between = sorted(candidate_pairs(features[:5], features[5:], 0.5, block_rows))
    assert [pair[:2] for pair in between] == [(i, j - 5) for i, j in expected if i < 5 <= j]


def test_pictures_that_differ_in_size_side_and_margin_are_the_same():
    pytest.importorskip('imagehash')
    image = picture(0)
    first = fingerprint(image)
    for other in (image, image[:, ::-1], image[::2, ::2], image[3:117, 4:156], image[6:, 8:][:, ::-1]):
        assert is_same_picture(first, fingerprint(np.ascontiguousarray(other)))
    for seed in range(1, 6):
        assert not is_same_picture(first, fingerprint(picture(seed)))


def test_flat_images_are_told_apart_by_color():
    pytest.importorskip('imagehash')
    red, blue = (
        fingerprint(np.full((20, 30, 3), color, np.uint8)) for color in ((200, 20, 20), (20, 20, 200))
    )
    assert not is_same_picture(red, blue) and is_same_picture(red, red)
    assert fingerprint(np.zeros((1, 1, 3), np.uint8)).pixels == 1


def test_unreadable_images_confirm_nothing():
    zeros = np.zeros((1, 16), np.uint8)
    print_of_row = {0: Fingerprint(zeros, zeros, np.zeros(3), 1), 1: None}.get
    pairs = [Pair(0, 0, 1.0), Pair(0, 1, 1.0), Pair(1, 0, 1.0)]
    assert list(confirm(pairs, print_of_row, print_of_row)) == [Pair(0, 0, 1.0)]


def test_of_each_group_the_largest_image_is_left():
    pairs = [Pair(0, 2, 1.0), Pair(2, 5, 1.0), Pair(1, 3, 1.0)]
    pixels = {0: 10, 2: 40, 5: 20, 1: 7, 3: 7}.get
    assert rows_to_drop(pairs, pixels) == [0, 3, 5]
