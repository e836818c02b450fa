"""Line charts as SVG."""

import math

from mmssl.visualization.charts import line_chart


def test_points_that_are_not_finite_leave_gaps_and_names_are_escaped():
    assert line_chart({'a': [(0, math.nan)]}) == '' and '<circle' in line_chart(
        {'a<b': [(0, 1.0), (1, math.nan), (2, 3.0)]}
    )
    assert 'a&lt;b' in line_chart({'a<b': [(0, 1.0)]})
