"""Overlays of classes with a legend."""

import numpy as np
import pytest

from mmssl.visualization.colours import class_colour
from mmssl.visualization.segmentation import legend, overlay, segmentation_picture


def test_colours_are_mixed_where_there_is_a_class():
    image = np.full((2, 3, 3), 100, np.uint8)
    classes = np.array([[0, 1, 255], [1, 1, 0]])
    out = overlay(image, classes, [[0, 0, 0], [200, 100, 0]], opacity=0.5)
    assert (
        out[0, 0].tolist() == [50, 50, 50]
        and out[1, 1].tolist() == [150, 100, 50]
        and out[0, 2].tolist() == [100, 100, 100]
    )
    with pytest.raises(ValueError, match=r'\(2, 2\)'):
        overlay(image, classes[:, :2], [[0, 0, 0]])


@pytest.mark.parametrize('number', [2, 21, 150])
def test_colours_differ(number):
    assert len({class_colour(index) for index in range(number)}) == number


def test_a_legend_wraps():
    names = [f'class {number}' for number in range(12)]
    colours = [class_colour(index) for index in range(12)]
    assert legend(names, colours, 200).height > legend(names, colours, 2000).height


def test_only_classes_that_are_there_are_named():
    image = np.zeros((40, 60, 3), np.uint8)
    classes = np.zeros((40, 60), np.uint8)
    palette = [[250, 0, 0], [0, 250, 0]]
    pixels = (
        np.asarray(segmentation_picture(image, {'prediction': classes}, ['sky', 'road'], palette))
        .reshape(-1, 3)
        .tolist()
    )
    assert [250, 0, 0] in pixels and [0, 250, 0] not in pixels
