"""Colors of classes."""

import pytest

from mmssl.data.colors import class_color


@pytest.mark.parametrize('num_classes', [2, 21, 150])
def test_colors_differ(num_classes):
    assert len({class_color(index) for index in range(num_classes)}) == num_classes
