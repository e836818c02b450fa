"""Memory does not grow with the iterations of a run or the images of an evaluation."""

import importlib.util
import sys

import pytest


@pytest.fixture(scope='module')
def script(repo_root):
    spec = importlib.util.spec_from_file_location('memory_trials', repo_root / 'tools/trials/memory.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # what a fork sends back is pickled by name
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_growth_is_that_of_the_last_tenth(script):
    curve = script.Curve(list(range(0, 101, 10)), [[50.0] * 2 + [100.0] * 8 + [110.0], [80.0] * 11])
    assert curve.growth(20) == [pytest.approx(0.1), 0]
    assert script.resident() > 10


@pytest.mark.parametrize('system', ['mae'])
def test_training_with_workers(system, script, with_demo, tmp_path):
    curve = script.in_a_fork(script.training, system, with_demo(tmp_path), 120, 2, 10)
    assert len(curve.processes) == 3 and len(curve.iterations) == 12
    assert max(curve.growth(60)) < 0.05


@pytest.mark.parametrize('metric', ['segmentation_metric', 'click_metric'])
def test_metrics_that_keep_a_sum(metric, script):
    few, many = script.in_a_fork(script.feeding, getattr(script, metric), (10, 60))
    assert many < few * 1.02
