"""Curves of several runs."""

from mmssl.visualization.curves import run_names


def test_names_of_runs(tmp_path):
    assert run_names([tmp_path / 'a/run', tmp_path / 'b/run']) == ['a', 'b']
    assert run_names([tmp_path / 'a/x', tmp_path / 'b/y']) == ['x', 'y']
    assert run_names([tmp_path / 'a/x', tmp_path / 'b/x', tmp_path / 'b/y']) == ['a/x', 'b/x', 'b/y']
    assert run_names([tmp_path]) == [tmp_path.name]
