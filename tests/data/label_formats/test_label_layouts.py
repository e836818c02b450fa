"""Folders as people have them are read right, or refused in a line (tools/trials/label_layouts.py)."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / 'tools/trials/label_layouts.py'
spec = importlib.util.spec_from_file_location('label_layouts', SCRIPT)
layouts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(layouts)


@pytest.mark.parametrize('name', layouts.LAYOUTS)
def test_layout(tmp_path, name):
    write, error = layouts.LAYOUTS[name]
    write(tmp_path / 'data')
    if not error:
        content, notes = layouts.read(tmp_path / 'data')
        assert layouts.is_right(content, ('cat',) if 'one_class' in name else layouts.CLASSES), notes
        return
    with pytest.raises(ValueError) as failure:
        layouts.read(tmp_path / 'data')
    assert error in str(failure.value)
    assert '\n' not in str(failure.value)


def test_there_are_forty_layouts_or_more():
    assert len(layouts.LAYOUTS) >= 40
