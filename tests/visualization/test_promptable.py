"""Masks, points and boxes over images."""

import numpy as np
import pytest

from mmssl.visualization.promptable import NEGATIVE, POSITIVE, draw_prompts, overlay_masks


def test_small_masks_are_drawn_over_large_ones():
    image, masks = np.full((20, 30, 3), 100, np.uint8), np.zeros((2, 20, 30), bool)
    masks[0, 8:12, 8:12] = masks[1, 4:16, 4:24] = True
    out = overlay_masks(image, masks, [(200, 0, 0), (0, 200, 0)])
    assert (
        out[0, 0].tolist() == [100, 100, 100]
        and out[4, 4].tolist() == [0, 200, 0]
        and out[8, 8].tolist() == [200, 0, 0]
    )
    assert out[6, 20].tolist() == [50, 150, 50] and out[9, 9].tolist() == [125, 75, 25]
    with pytest.raises(ValueError, match=r'masks of shape \(1, 2, 2\) over an image of 20x30'):
        overlay_masks(image, np.zeros((1, 2, 2), bool))


def test_points_and_boxes():
    out = draw_prompts(
        np.zeros((40, 60, 3), np.uint8), [[10, 10], [30, 30], [50, 5]], [1, 0, -1], [[40, 20, 55, 35]]
    )
    assert (
        tuple(out[10, 10]) == POSITIVE
        and tuple(out[30, 30]) == NEGATIVE
        and not out[5, 50].any()
        and out[20, 45].any()
    )
