"""Classes over images, and their legend."""

import numpy as np
import pytest

from mmssl.data.colors import class_color
from mmssl.visualization.segmentation import draw_legend, overlay_classes, segmentation_figure


def test_colors_are_blended_only_for_pixels_with_a_class():
    image = np.full((2, 3, 3), 100, np.uint8)
    classes = np.array([[0, 1, 255], [1, 1, 0]])
    out = overlay_classes(image, classes, [[0, 0, 0], [200, 100, 0]], opacity=0.5)
    assert out[0, 0].tolist() == [50, 50, 50]
    assert out[1, 1].tolist() == [150, 100, 50]
    assert out[0, 2].tolist() == [100, 100, 100]


def test_classes_of_another_size_are_rejected():
    with pytest.raises(ValueError, match=r'\(2, 2\)'):
        overlay_classes(np.zeros((2, 3, 3), np.uint8), np.zeros((2, 2), int), [[0, 0, 0]])


def test_legend_wraps():
    names = [f'class {index}' for index in range(12)]
    colors = [class_color(index) for index in range(12)]
    assert draw_legend(names, colors, 200).height > draw_legend(names, colors, 2000).height


def test_legend_names_only_classes_in_the_maps():
    image = np.zeros((40, 60, 3), np.uint8)
    classes = np.zeros((40, 60), np.uint8)
    palette = [[250, 0, 0], [0, 250, 0]]
    figure = segmentation_figure(image, {'prediction': classes}, ['sky', 'road'], palette)
    pixels = np.asarray(figure).reshape(-1, 3).tolist()
    assert [250, 0, 0] in pixels
    assert [0, 250, 0] not in pixels
