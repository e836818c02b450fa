"""Resuming in real processes: killed in the middle, and on two ranks."""

import json
import signal
from pathlib import Path

import pytest
import resume_toy as toy

pytestmark = pytest.mark.slow

PROGRAM = Path(toy.__file__)


@pytest.fixture
def start(warm_cli):
    """``start(work_dir, images, **options)`` runs the toy in a process of its own, or in several."""

    def start(work_dir, images, ranks=1, **options):
        options['launcher'] = 'pytorch' if ranks > 1 else 'none'
        return warm_cli(
            work_dir,
            images,
            json.dumps(options),
            program=PROGRAM,
            ranks=ranks,
            env={'CUDA_VISIBLE_DEVICES': ''},
            timeout=120,
        )

    return start


def result(work_dir, rank=0):
    losses, digest = json.loads((work_dir / f'result{rank}.json').read_text())
    return {int(step): loss for step, loss in losses.items()}, digest


@pytest.fixture(scope='module')
def images(tmp_path_factory):
    directory = tmp_path_factory.mktemp('data') / 'images'
    toy.make_images(directory)
    return directory


def test_killed_and_resumed(start, images, tmp_path):
    """The process is killed two steps after its last checkpoint; ``resume=True`` alone finds that one."""
    losses, digest = toy.train(tmp_path / 'straight', images)
    killed = start(tmp_path / 'run', images, kill_after=12, workers=2)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    moved = (tmp_path / 'run').rename(tmp_path / 'moved')  # last_checkpoint is relative
    resumed = start(moved, images, resume='auto')
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert result(moved) == ({step: loss for step, loss in losses.items() if step > 10}, digest)


def test_two_ranks(start, images, tmp_path):
    first = start(tmp_path / 'a', images, ranks=2, workers=0, epochs=6, validate=False)
    assert first.returncode == 0, first.stderr[-3000:]
    again = start(
        tmp_path / 'b',
        images,
        ranks=2,
        workers=0,
        epochs=6,
        validate=False,
        resume=str(tmp_path / 'a' / 'iter_10.pth'),
    )
    assert again.returncode == 0, again.stderr[-3000:]
    for rank in (0, 1):
        losses, digest = result(tmp_path / 'a', rank)
        assert len(losses) == 30
        assert result(tmp_path / 'b', rank) == (
            {step: loss for step, loss in losses.items() if step > 10},
            digest,
        )
    assert (
        result(tmp_path / 'a', 0)[0] != result(tmp_path / 'a', 1)[0]
    )  # each rank has its own samples and dropout

    # one process takes over from two
    losses, _ = toy.train(
        tmp_path / 'c', images, epochs=6, validate=False, resume=tmp_path / 'a' / 'iter_10.pth'
    )
    assert sorted(losses) == list(range(11, 31))
