"""Shards, Parquet and URLs train like their folder, bit for bit: workers, ranks, resuming, bad files."""

import json
import signal
import types
from pathlib import Path

import pytest
import source_toy as toy
import torch
from mmengine.runner import loops

from mmssl.apis.packing import pack
from mmssl.data.bad_files import read_list

pytestmark = pytest.mark.slow

PROGRAM = Path(toy.__file__)
SOURCES = ['tar', 'parquet', 'memory']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('sources')
    toy.make_images(root / 'images')
    for to in ('tar', 'parquet'):
        pack(str(root / 'images'), str(root / to), to, 7)
        assert len(list((root / to).glob(f'*.{to}'))) == 3
    return root


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    # mmengine sleeps two seconds whenever a finite loader starts again
    monkeypatch.setattr(loops, 'time', types.SimpleNamespace(sleep=lambda _: None, time=loops.time.time))
    monkeypatch.setenv('MMSSL_CACHE_DIR', str(tmp_path / 'cache'))
    torch.set_num_threads(1)


@pytest.fixture(scope='module')
def straight(folder, tmp_path_factory):
    """Losses and weights of twenty steps on the folder."""
    return toy.train(tmp_path_factory.mktemp('straight'), folder, 'images')


@pytest.fixture
def start(warm_cli, folder):
    """``start(work_dir, sources)`` trains on each source in a process of its own, or in several."""

    def start(work_dir, *sources, ranks=1, **options):
        options['launcher'] = 'pytorch' if ranks > 1 else 'none'
        return warm_cli(
            work_dir,
            folder,
            ','.join(sources),
            json.dumps(options),
            program=PROGRAM,
            ranks=ranks,
            env={'CUDA_VISIBLE_DEVICES': ''},
        )

    return start


def after(losses, step):
    return {each: loss for each, loss in losses.items() if each > step}


@pytest.mark.parametrize('source', SOURCES)
def test_losses_are_those_of_the_folder_also_after_resuming(source, folder, straight, tmp_path):
    losses, digest = straight
    assert len(losses) == 20
    assert toy.train(tmp_path / 'a', folder, source, interval=7) == straight
    assert toy.train(tmp_path / 'b', folder, source, workers=2) == straight
    resumed = toy.train(tmp_path / 'c', folder, source, workers=2, resume=tmp_path / 'a' / 'iter_7.pth')
    assert resumed == (after(losses, 7), digest)
    for run in 'abc':
        ((path, reason),) = read_list(tmp_path / run / 'bad_files.txt')
        assert path == f'{toy.root_of(source, folder)}/07.png' and 'truncated' in reason


@pytest.mark.parametrize('source', SOURCES)
def test_a_killed_run_continues_bit_for_bit(source, folder, straight, start, tmp_path):
    losses, digest = straight
    killed = start(tmp_path, source, workers=2, interval=5, kill_after=12)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    resumed = toy.train(tmp_path / source, folder, source, interval=5, resume='auto')
    assert resumed == (after(losses, 10), digest)


def test_two_ranks_are_those_of_the_folder(start, tmp_path):
    run = start(tmp_path, 'images', *SOURCES, ranks=2)
    assert run.returncode == 0, run.stderr[-2000:]
    results = {
        (source, rank): json.loads((tmp_path / source / f'result{rank}.json').read_text())
        for source in ('images', *SOURCES)
        for rank in (0, 1)
    }
    assert results['images', 0][0] != results['images', 1][0]
    for (source, rank), result in results.items():
        assert result == results['images', rank], source
