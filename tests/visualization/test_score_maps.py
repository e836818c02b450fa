"""Position-sensitive score maps over images."""

import numpy as np
import pytest
import torch

from mmssl.visualization.heat import HEAT_COLORS
from mmssl.visualization.score_maps import position_sensitive_head, score_map_figure


def test_score_map_is_at_its_grid_position_and_aligned_with_the_image():
    image = np.full((40, 40, 3), 100, np.uint8)
    maps = torch.zeros(2, 2, 5, 5)
    maps[1, 0] = 1  # second row, first column
    figure = np.asarray(score_map_figure(image, maps, 8, tile_height=40))
    left, top = 40 + 40 + 8 + 8 + 8 - 1, 8 + 24  # the image as high as the grid of 83, gaps and header
    grid = figure[top : top + 83, figure.shape[1] - 8 - 83 : figure.shape[1] - 8]
    brightest = 0.6 * HEAT_COLORS[-1] + 0.4 * 100
    assert np.abs(grid[63, 20] - brightest).max() <= 1 and np.abs(grid[20, 20] - 0.4 * 100).max() <= 3
    assert np.abs(grid[63, 63] - 0.4 * 100).max() <= 3 and left > 0
    framed = np.asarray(score_map_figure(image, maps, 8, box=(8, 8, 32, 32), tile_height=40))
    corner = framed[top : top + 83, framed.shape[1] - 8 - 83 : framed.shape[1] - 8]
    assert tuple(corner[8 + 43, 63]) != tuple(grid[8 + 43, 63])  # the upper right bin of the lower right map
    assert tuple(corner[8, 8]) == (0, 255, 120)


def test_a_model_without_score_maps_is_rejected():
    with pytest.raises(ValueError, match='has no position-sensitive score maps'):
        position_sensitive_head(torch.nn.Linear(1, 1))
