"""``mmssl report`` and ``mmssl visualize curves`` on work directories of every type, whole and damaged."""

import json
import math
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmssl.cli import main
from mmssl.visualization.runs import Run

CONFIG = """default_scope = 'mmpretrain'
model = dict(
    type='mmssl.MAE', note='<script>alert(1)</script>', keys=dict({'a.b': (1, )}))
optim_wrapper = dict(optimizer=dict(lr=float('inf')))
train_cfg = dict(max_iters=100, type='IterBasedTrainLoop')
"""
LOG = """2026/11/23 {0} - mmengine - INFO -
------------------------------------------------------------
System environment:
    Python: 3.11.7 (main) [GCC 12]
    PyTorch: 2.11.0+cu130
    PyTorch compiling details: PyTorch built with:
  - GCC 13.3
    TorchVision: <b>0.26</b>

Runtime environment:
    seed: 0
------------------------------------------------------------
2026/11/23 {1} - mmengine - INFO - Iter(train) [ 10/100]
"""


def start(folder, stamp, rows, begin='10:00:00', end='10:30:00', config=CONFIG):
    """A folder of logs as mmengine writes it."""
    logs = folder / stamp
    (logs / 'vis_data').mkdir(parents=True)
    (logs / 'vis_data/scalars.json').write_text(''.join(json.dumps(row) + '\n' for row in rows))
    (logs / 'vis_data/config.py').write_text(config)
    (logs / f'{stamp}.log').write_text(LOG.format(begin, end))
    return folder


def trained(first, last, loss=lambda step: 1 / step, interval=10):
    return [
        dict(lr=0.1, loss=loss(step), loss_a=0.5, loss_b=0.25, time=0.1, data_time=0.01, iter=step, step=step)
        for step in range(first, last + 1, interval)
    ]


@pytest.fixture
def work_dir(tmp_path):
    folder = tmp_path / 'work'
    rows = [
        *trained(10, 50),
        {'mIoU': 30.0, 'IoU.sky': 1.0, 'IoU.<i>': 2.0, 'data_time': 1.0, 'time': 2.0, 'step': 50},
    ]
    start(folder, '20261123_100000', rows)
    rows = [*trained(50, 100, lambda step: 2.0), {'mIoU': 40.0, 'IoU.sky': 3.0, 'IoU.<i>': 4.0, 'step': 100}]
    start(folder, '20261123_110000', rows, '11:00:00', '11:12:30')
    (folder / 'mine.py').write_text(CONFIG)
    for name, time in (('iter_50.pth', 1), ('best_mIoU_iter_100.pth', 2)):
        (folder / name).write_bytes(b'x' * 2048)
        os.utime(folder / name, (time, time))
    (folder / 'vis_image').mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1200, 900, 3), dtype=np.uint8)).save(
        folder / 'vis_image/a&b.png'
    )
    (folder / 'vis_image/broken.png').write_bytes(b'no image')
    (folder / 'bad_files.txt').write_text('x<y.jpg\tthe file is empty\n')
    return folder


class Page(HTMLParser):
    """Tags, addresses and text of a page; open tags must be closed."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.links, self.text = [], [], [], []
        self.feed(text)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [
            value for name, value in attrs if name in ('src', 'href', 'srcset', 'action', 'background')
        ]
        assert not [name for name, _ in attrs if name.startswith('on')]
        if tag not in ('meta', 'img'):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_a_measure_at_the_end_counts_as_an_iteration_too(tmp_path):
    start(tmp_path, '20261123_100000', [*trained(10, 50), {'mIoU': 30.0, 'step': 53}])
    assert Run(tmp_path).last_iteration == 53


def test_run_that_was_resumed(work_dir):
    run = Run(work_dir)
    assert run.curves['loss'] == [(10, 0.1), (20, 0.05), (30, 1 / 30), (40, 0.025)] + [
        (step, 2.0) for step in range(50, 101, 10)
    ]
    assert run.curves['mIoU'] == [(100, 40.0)] and run.curves['IoU.sky'] == [
        (100, 3.0)
    ]  # what was measured at 50 was trained over
    assert run.metric_keys == ['mIoU', 'IoU.sky', 'IoU.<i>']
    assert [(start.first, start.last, start.seconds) for start in run.starts] == [
        (10, 50, 1800),
        (50, 100, 750),
    ]
    assert (run.last_iteration, run.planned_iterations(), run.config_name, run.seconds) == (
        100,
        100,
        'mine',
        2550,
    )
    assert (
        run.settings()['model']['keys'] == {'a.b': (1,)}
        and run.settings()['optim_wrapper']['optimizer']['lr'] == math.inf
    )
    assert dict(run.environment())[
        'TorchVision'
    ] == '<b>0.26</b>' and 'PyTorch compiling details' not in dict(run.environment())
    assert [path.name for path in run.checkpoints()] == ['iter_50.pth', 'best_mIoU_iter_100.pth']


def test_metrics_by_epoch_stand_where_they_were_measured(tmp_path):
    rows = [{'knn/top1': 9.0, 'step': 0}]
    for epoch in (1, 2):
        rows += [dict(loss=1.0, epoch=epoch, iter=step, step=step) for step in (20 * epoch - 10, 20 * epoch)]
        rows += [{'accuracy/top1': 50.0 + epoch, 'step': epoch}]
    run = Run(start(tmp_path / 'run', '20260101_000000', rows))
    assert (
        run.curves['accuracy/top1'] == [(20, 51.0), (40, 52.0)]
        and run.curves['knn/top1'] == [(0, 9.0)]
        and run.epochs == 2
    )


def test_damaged_files(tmp_path):
    rows = trained(10, 30, lambda step: math.nan if step == 20 else 1.0)
    folder = start(tmp_path / 'run', '20260101_000000', rows, config='x = open("a")\n')
    scalars = folder / '20260101_000000/vis_data/scalars.json'
    scalars.write_text(scalars.read_text() + '[1]\n{"loss": 3, "it')
    (folder / '20260101_000000/20260101_000000.log').write_bytes(b'\xff no times')
    run = Run(folder)
    assert (
        len(run.curves['loss']) == 3
        and run.settings() == {}
        and run.planned_iterations() is None
        and run.seconds >= 0
    )
    assert main(['report', str(folder)]) == 0
    Page((folder / 'report.html').read_text())


def test_page(work_dir, capsys):
    (work_dir / 'error_rank0.txt').write_text('Traceback\nValueError: <bad> end\n')
    assert main(['report', str(work_dir), '--base', 'smoke/mae.py']) == 0, capsys.readouterr().err
    assert re.search(r'report.html: \d+ curves, 100 iterations in 42 min', capsys.readouterr().out)
    source = (work_dir / 'report.html').read_text()
    page = Page(source)
    text = ' '.join(page.text)
    assert page.links and all(link.startswith('data:image/') for link in page.links)
    assert not re.search(
        r'(https?:)?//\w|url\(|@import', re.sub(r'data:image/[^"]+', '', source).replace(str(work_dir), '')
    )
    assert (
        'script' not in page.tags
        and '<script>alert(1)</script>' in text
        and '<b>0.26</b>' in text
        and 'x<y.jpg' in text
    )
    assert 'prefers-color-scheme: dark' in source and 'width=device-width' in source
    for words in (
        'mine',
        '40',
        'mIoU, best, at 100',
        'best_mIoU_iter_100.pth',
        '20261123_110000',
        '42 min',
        'wall time, 2 starts',
        'vis_image/a&b.png',
        'failed: ValueError: <bad> end',
        '1 files could not be decoded',
        '2 of single classes',
        'What differs from smoke/mae.py',
        'train_cfg.max_iters: 10 -> 100',
        '2.11.0+cu130',
    ):
        assert words in text, words
    assert page.tags.count('svg') >= 3 and page.tags.count('img') == 1
    assert len(source) < 3e6


def test_shipped_config_of_the_same_name_is_the_base(work_dir, capsys):
    (work_dir / 'mine.py').rename(work_dir / 'mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py')
    assert main(['report', str(work_dir), '--out', str(work_dir / 'deep/page.html')]) == 0
    assert (
        'What differs from mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py'
        in (work_dir / 'deep/page.html').read_text()
    )


def test_folder_of_a_test(tmp_path, capsys):
    folder = tmp_path / 'test' / '20260101_000000'
    folder.mkdir(parents=True)
    (folder / '20260101_000000.json').write_text(json.dumps({'mIoU': 12.5, 'time': 1.0}))
    assert main(['report', str(tmp_path / 'test')]) == 0
    text = ' '.join(Page((tmp_path / 'test/report.html').read_text()).text)
    assert '12.5' in text and 'Curves' not in text


@pytest.mark.parametrize('command', [('report',), ('visualize', 'curves')])
def test_folders_of_no_run(command, tmp_path, capsys):
    out = ['--out', str(tmp_path / 'x.png')]
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').touch()
    (tmp_path / 'begun/20260101_000000').mkdir(parents=True)
    for name, words in (
        ('empty', 'empty is not the work directory of a run'),
        ('empt', "did you mean 'empty'"),
        ('file', 'is a file; name the work directory'),
        ('begun', 'begun has no'),
        ('.', f'did you mean {tmp_path}/begun?'),
        ('begun/20260101_000000', f'did you mean {tmp_path}/begun?'),
    ):
        assert main([*command, str(tmp_path / name), *out]) == 1
        error = capsys.readouterr().err
        assert words in error and not Path(out[1]).exists(), error


def test_curves_of_several_runs(work_dir, tmp_path, capsys):
    long = start(tmp_path / 'long', '20260101_000000', trained(1, 200, lambda step: 3 - step / 100, 1))
    out = tmp_path / 'pictures/curves.svg'
    assert (
        main(
            [
                'visualize',
                'curves',
                str(work_dir),
                str(long),
                '--keys',
                'loss,lr,mIoU,time',
                '--out',
                str(out),
            ]
        )
        == 0
    )
    assert f'{out}: loss, lr, mIoU, time of 2 runs' in capsys.readouterr().out
    svg = out.read_text()
    assert svg.count('#3b6fd4') >= 4 and svg.count('#e07b00') >= 3
    assert (
        main(
            [
                'visualize',
                'curves',
                str(work_dir),
                '--smooth',
                '3',
                '--log',
                '--out',
                str(tmp_path / 'one.png'),
            ]
        )
        == 0
    )
    assert np.asarray(Image.open(tmp_path / 'one.png').convert('RGB')).std() > 5
    for more, words in (
        (['--keys', 'los'], "--keys los: no run has logged it; did you mean 'loss'?"),
        (['--names', 'a'], 'give 2 different names'),
        (['--smooth', '-1'], '--smooth -1 must be at least 0'),
        (['--out', 'x.txt'], 'ends in .png, .svg or .pdf'),
    ):
        assert (
            main(['visualize', 'curves', str(work_dir), str(long), '--out', str(tmp_path / 'x.png'), *more])
            == 1
        )
        assert words in capsys.readouterr().err
