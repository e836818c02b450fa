"""Mistakes in configs end in one line and leave nothing behind (tools/trials/mutate_configs.py has more)."""

import importlib.util
import logging
import math
import random
import re
import sys
from collections import Counter

import pytest
from mmengine.visualization import Visualizer

from mmssl.cli import main

TRIALS = 8
# one of every kind of file that a model may begin with, and of both kinds of loops; the script takes every
# config there is
STEPS = (
    'beit/beit_vit-mini-p8_1xb64-kmeans-amp-coslr-18e_tiny-imagenet',
    'infomax/benchmarks/convnet_1xb64-linear-coslr-100e_cifar10',
    'camvid/gcn-k3_mobilenetv2_1xb6-amp-400i_camvid-256x256',
)
# the quick ones of every system; the script takes every config there is
CONFIGS = [f'configs/smoke/{name}.py' for name in ('mae', 'moco', 'swav', 'gcn', 'rfcn', 'sam')]


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def script(repo_root):
    return load(repo_root / 'tools/trials/mutate_configs.py')


@pytest.fixture(scope='module')
def demo(tmp_path_factory, with_demo):
    return with_demo(tmp_path_factory.mktemp('configs'))


def test_random_mistakes_are_harmless_or_refused_in_one_line(script, demo, forget_runs, monkeypatch):
    monkeypatch.setattr(
        logging, 'raiseExceptions', False
    )  # loggers of other tests write to streams that are closed
    found = script.trials(TRIALS, 7, demo / 'data/demo', CONFIGS, limit=120)
    counts = Counter(trial.outcome for trial in found)
    assert not [trial for trial in found if trial.outcome in script.FAULTS]
    assert counts['refused'] > TRIALS // 5 and all(
        trial.message for trial in found if trial.outcome == 'refused'
    )
    assert not [
        trial
        for trial in found
        if trial.outcome == 'runs'
        and trial.mistake == 'misspelled'
        and trial.description.endswith("'")  # a type
        and not trial.description.startswith('vis_backends.')  # only the visualizer's own list is used
    ]


def test_configs_train_two_steps_in_full_size(repo_root, demo, tmp_path, forget_runs, monkeypatch):
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setattr(logging, 'raiseExceptions', False)
    script = load(repo_root / 'tools/trials/all_configs.py')
    data = script.layouts.write_layouts(tmp_path, demo / 'data/demo')
    runs = [script.train(f'configs/{name}.py', data, 300) for name in STEPS]
    assert [run.fault for run in runs] == [''] * len(STEPS)
    assert [len(run.losses) for run in runs] == [2, 2, 2] and [run.validates for run in runs] == [
        False,
        True,
        True,
    ]
    assert 'accuracy/top1' in runs[1].scores and 'mIoU' in runs[2].scores
    assert '3 of 3 configs train' in script.table(runs, 'command')
    wrong = (
        runs[1]._replace(scores={}),
        runs[1]._replace(losses=[1.0, math.nan]),
        runs[1]._replace(outcome='killed', message='signal 9'),
    )
    assert [run.fault for run in wrong] == [
        'no score from the validation',
        'losses [1.0, nan], not 2 finite ones',
        'killed: signal 9',
    ]


def test_mutations_are_one_mistake_each_and_the_same_for_a_seed(script):
    config = script.read('configs/smoke/mae.py')
    first, again = ([script.mutate(config, random.Random(seed))[1:] for seed in range(30)] for _ in range(2))
    assert first == again and len(set(first)) > 20 and {kind for kind, _ in first} == set(script.MISTAKES)
    assert config == script.read('configs/smoke/mae.py')


def test_outcomes(script):
    line = 'mmssl train: error: '
    assert script.judge(0, '', True)[0] == 'runs'
    assert script.judge(1, f'{line}no such key\n', False) == ('refused', 'no such key')
    assert script.judge(1, f'{line}no such key\n', True)[0] == 'left over'
    assert script.judge(1, f'{line}training failed at iteration 2: x\n', True)[0] == 'stopped'
    assert script.judge(1, 'Traceback (most recent call last):\nKeyError\n', False)[0] == 'traceback'
    assert script.judge(-9, '', False)[0] == 'killed'


def train(demo, monkeypatch, capsys, tmp_path, text, *arguments):
    """Exit status and error lines of ``mmssl train`` on a config that begins as configs/smoke/mae.py."""
    monkeypatch.chdir(demo)
    Visualizer._instance_dict.clear()  # that of a run before would write into its folder
    path = tmp_path / 'mine.py'
    path.write_text(text if '_base_' in text else "_base_ = 'mmssl::smoke/mae.py'\n" + text)
    status = main(['train', str(path), '--work-dir', str(tmp_path / 'runs/one'), *arguments])
    return status, [line for line in capsys.readouterr().err.splitlines() if 'error: ' in line]


@pytest.mark.parametrize(
    'text, message',
    [
        (
            'default_hooks = dict(checkpoint=dict(intervall=1))',
            "no argument 'intervall'; did you mean 'interval'",
        ),
        ('custom_hooks = 5', 'custom_hooks = 5 has to be a list of dicts'),
        ('env_cfg = dict(_delete_=True, dist_cfg=[])', r'env_cfg\.dist_cfg = \[\] has to be a dict'),
        ("default_hooks = dict(checkpoint='no')", "default_hooks.checkpoint = 'no' has to be a dict"),
        (
            "train_dataloader = dict(dataset=dict(type='ConcatDataset', datasets=['x']))",
            r"dataset\.datasets\[0\] = 'x' has to be a dict",
        ),
        ('optim_wrapper = dict(optimizer=dict(lr=None))', 'while building AdamW'),
        ("resume = 'False'", "resume = 'False' must be True or False"),
        ("data_preprocessor = dict(to_rgb='off')", "to_rgb = 'off' is a text, which counts as True"),
        ("_base_ = 'gone.py'", 'mine.py inherits from .*gone.py, which does not exist'),
        ("_base_ = 'mine.py'", 'mine.py inherits from itself: mine.py -> mine.py'),
        ('_base_ = []\nmodle = dict()', "has no 'model'; did you mean 'modle'"),
        ('_base_ = []\nx = 1', "has no 'model'"),
        ('model = dict(', 'mine.py cannot be read as a config: SyntaxError'),
        ('a = 1 / 0', 'mine.py cannot be read as a config: ZeroDivision'),
    ],
)
def test_one_line_and_nothing_left(text, message, demo, monkeypatch, capsys, tmp_path):
    status, lines = train(demo, monkeypatch, capsys, tmp_path, text)
    assert status == 1 and len(lines) == 1 and re.search(message, lines[0]), lines
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize(
    'option, message',
    [
        ('x=[1,(2', r'x=\[1,\(2: Imbalanced brackets'),
        ('model.type.inner=3', 'do not fit'),
        ('train_pipeline.99.type=X', 'do not fit'),
        ('modle.type=X', "did you mean 'model'"),
    ],
)
def test_options_that_cannot_be(option, message, demo, monkeypatch, capsys, tmp_path):
    status, lines = train(demo, monkeypatch, capsys, tmp_path, '', '--cfg-options', option)
    assert status == 1 and len(lines) == 1 and re.search(message, lines[0]), lines


def test_a_name_of_ones_own_beside_a_setting_is_no_mistake(tmp_path):
    from mmssl.config.check import check_settings
    from mmssl.config.load import load_config

    (tmp_path / 'mine.py').write_text("_base_ = 'mmssl::smoke/mae.py'\ntrain_cfgs = dict(a=1)\n")
    check_settings(load_config(str(tmp_path / 'mine.py')))


def test_names_that_read_as_switches_stay():
    from mmssl.config.values import refuse_text_switches

    refuse_text_switches(dict(metainfo=dict(task='on'), names=['yes', 'no'], mode='whole'), 'dataset')
    with pytest.raises(ValueError, match=r"dataset\.steps\.1\.keep = 'No' is a text"):
        refuse_text_switches(dict(steps=[dict(type='A'), dict(keep='No')]), 'dataset')


def test_a_failure_in_the_first_step_leaves_nothing_and_a_later_one_its_traceback(
    demo, monkeypatch, capsys, tmp_path
):
    from mmssl.selfsup.mae import MAE

    host, calls = MAE.loss, []

    def loss(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == fail_at:
            raise AttributeError('a fault of the model')
        return host(self, *args, **kwargs)

    monkeypatch.setattr(MAE, 'loss', loss)
    fail_at = 1
    status, lines = train(demo, monkeypatch, capsys, tmp_path, '')
    assert status == 1 and re.search(
        r'AttributeError: a fault of the model \(test_fault_configs.py:\d+: raise', lines[0]
    )
    assert not (tmp_path / 'runs').exists()
    calls.clear()
    fail_at = 3
    status, lines = train(demo, monkeypatch, capsys, tmp_path, '')
    assert status == 1 and 'training failed at iteration 2: AttributeError: a fault of the model' in lines[0]
    (kept,) = (tmp_path / 'runs/one').glob('*/error_rank0.txt')
    assert str(kept) in lines[0] and 'Traceback (most recent call last)' in kept.read_text()
