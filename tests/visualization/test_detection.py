"""Detected boxes over images."""

import numpy as np

from mmssl.data.colors import class_color
from mmssl.visualization.detection import draw_detections


def test_detections_are_drawn_in_the_color_of_their_class():
    image = np.zeros((100, 200, 3), np.uint8)
    boxes = np.array([[20.0, 30.0, 80.0, 90.0], [120.0, 40.0, 180.0, 80.0]])
    canvas = np.asarray(
        draw_detections(image, boxes, np.array([1, 0]), np.array([0.9, 0.4]), ['a', 'b'], height=200)
    )
    assert canvas.shape == (200, 400, 3)
    assert tuple(canvas[120, 40]) == class_color(1) and tuple(canvas[120, 240]) == class_color(
        0
    )  # left sides, scaled by 2
    assert tuple(canvas[179, 100]) == class_color(1) and not canvas[120, 100].any()
    empty = draw_detections(image, np.zeros((0, 4)), np.zeros(0, int), np.zeros(0), ['a'], height=100)
    assert not np.asarray(empty).any()
