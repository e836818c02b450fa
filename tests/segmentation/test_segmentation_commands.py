"""GCN's smoke config from the command line: train, test, masks and overlays, alone and in two processes."""

import re

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(tmp_path_factory, with_demo):
    return with_demo(tmp_path_factory.mktemp('runs'))


@pytest.fixture(scope='module')
def checkpoint(warm_cli, folder):
    done = warm_cli(
        'train', 'configs/smoke/gcn.py', '--work-dir', folder / 'train', '--no-validate', cwd=folder
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / 'train/iter_10.pth'


def scores(text):
    """Name to the digits printed on the last line with scores."""
    line = [line for line in text.splitlines() if 'mIoU:' in line and '(test)' in line][-1]
    return dict(re.findall(r'([\w.]+): (\d+\.\d+)', line.split(']', 1)[1]))


@pytest.fixture(scope='module')
def single(warm_cli, checkpoint, folder):
    done = warm_cli(
        'test',
        'configs/smoke/gcn.py',
        checkpoint,
        '--work-dir',
        folder / 'one',
        '--out',
        folder / 'masks',
        '--show-dir',
        folder / 'pictures',
        '--cfg-options',
        f'test_evaluator.0.matrix_file={folder / "matrix.npy"}',
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return scores(done.stdout + done.stderr)


def test_masks_and_pictures_of_every_image(single, folder):
    images = sorted(path.stem for path in (folder / 'data/demo/scenes/images/val').iterdir())
    assert (
        images
        and [sorted(path.stem for path in (folder / name).iterdir()) for name in ('masks', 'pictures')]
        == [images] * 2
    )
    matrix = np.zeros((11, 11), np.int64)
    for name in images:
        mask = np.asarray(Image.open(folder / f'masks/{name}.png'))
        label = np.asarray(Image.open(folder / f'data/demo/scenes/labels/val/{name}.png'))
        assert mask.shape == label.shape and mask.dtype == np.uint8 and mask.max() < 11
        np.add.at(matrix, (label, mask), 1)
    assert np.array_equal(matrix, np.load(folder / 'matrix.npy'))
    iou = np.diagonal(matrix) / (matrix.sum(0) + matrix.sum(1) - np.diagonal(matrix))
    assert abs(100 * iou.mean() - float(single['mIoU'])) < 1e-4
    assert Image.open(folder / f'pictures/{images[0]}.png').width > 3 * 320


def test_two_processes_print_the_same(single, checkpoint, folder, warm_cli):
    done = warm_cli(
        'test', 'configs/smoke/gcn.py', checkpoint, '--work-dir', folder / 'two', cwd=folder, ranks=2
    )
    assert done.returncode == 0, done.stderr[-3000:]
    two = scores(done.stdout + done.stderr)
    assert {name: value for name, value in two.items() if 'time' not in name} == {
        name: value for name, value in single.items() if 'time' not in name
    }
    assert {'PA', 'MPA', 'mIoU', 'FWIoU', 'boundary_acc', 'interior_acc'} <= set(two)
