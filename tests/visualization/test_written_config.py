"""Reading config files without executing them."""

import pytest

from mmssl.visualization.written_config import read_settings


@pytest.mark.parametrize(
    'text', ['import os', 'x = open("a")', 'x = dict(**y)', 'x += 1', 'a.b = 1', 'x = [']
)
def test_configs_are_not_executed(text):
    with pytest.raises(ValueError, match='not a config of plain values|malformed'):
        read_settings(text)
