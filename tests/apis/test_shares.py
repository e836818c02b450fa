"""Three processes share ``annotate``, ``duplicates`` and ``pack``; one is killed, and started again."""

import json
import multiprocessing
import os
import signal
import warnings

import numpy as np
import pytest
from sam_case import GENERATOR, write_model, write_photographs

from mmssl.cli import main

pytestmark = pytest.mark.processes
WORLD_SIZE = 3


@pytest.fixture(scope='module')
def case(tmp_path_factory, data_root):
    """A model, nine photographs, and a file of features in which three pairs are equal."""
    from mmssl.evaluation.feature_files import write_features

    folder = tmp_path_factory.mktemp('shares')
    write_model(folder)
    write_photographs(data_root, folder / 'images', 9)
    paths = sorted(map(str, (folder / 'images').iterdir()))
    copies = [str(folder / f'copy-{index}.jpg') for index in range(3)]
    for source, copy in zip(paths[::3], copies, strict=True):
        os.symlink(source, copy)
    vectors = np.eye(9, dtype=np.float32)
    vectors = np.concatenate([vectors, vectors[::3]])
    write_features(folder / 'features.npy', [([*paths, *copies], vectors)], 12, (9,), {})
    return folder


def commands(folder, out):
    """Return the arguments of the commands, which write to a folder."""
    sides = [f'--{name.replace("_", "-")}={value}' for name, value in GENERATOR.items()]
    model = [f'--model={folder}/sam.py', f'--checkpoint={folder}/sam.pth', '--device=cpu', *sides]
    return dict(
        annotate=[f'{folder}/images', f'--out={out}/masks', f'--coco={out}/masks.json', *model],
        duplicates=[f'{folder}/features.npy', f'--out={out}/pairs.json', f'--drop={out}/drop.txt'],
        pack=[f'{folder}/images', f'{out}/packed', '--shard-size=2'],
    )


def run_rank(rank, command, arguments, killed_at):
    """Run a command as one of three processes, which SIGKILL ends before a replacement of a file."""
    names = zip(('RANK', 'WORLD_SIZE', 'LOCAL_RANK'), (rank, WORLD_SIZE, rank), strict=True)
    os.environ.update({name: str(value) for name, value in names})
    replace, count = os.replace, 0

    def counted(*paths, **options):
        nonlocal count
        count += 1
        if count == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths, **options)

    os.replace = counted
    warnings.simplefilter('ignore')
    os._exit(main([command, *arguments]))


def content_of(folder):
    """Return the files of a folder, without hidden ones."""
    files = [file for file in folder.rglob('*') if file.is_file() and '/.' not in str(file)]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.mark.parametrize(('command', 'killed_at'), [('annotate', 3), ('duplicates', 1), ('pack', 1)])
def test_processes_write_what_one_would(case, tmp_path, command, killed_at):
    if command == 'duplicates':
        pytest.importorskip('imagehash')
    context = multiprocessing.get_context('fork')
    whole, shared = tmp_path / 'whole', tmp_path / 'shared'
    for folder in (whole, shared):
        folder.mkdir()
    statuses = []
    for rank, replaces in ((0, -1), (1, killed_at), (2, -1), (1, -1)):
        arguments = commands(case, shared)[command]
        process = context.Process(target=run_rank, args=(rank, command, arguments, replaces))
        process.start()
        process.join(60)
        statuses.append(process.exitcode)
    assert statuses == [0, -signal.SIGKILL, 0, 0]
    assert main([command, *commands(case, whole)[command]]) == 0
    assert content_of(shared) == content_of(whole) and content_of(whole)
    if command == 'duplicates':
        assert len(json.loads((shared / 'pairs.json').read_text())['pairs']) == 3
        assert [file.name for file in shared.iterdir() if file.name.startswith('.')] == []
    elif command == 'pack':
        assert [file.name for file in shared.iterdir()] == ['packed']
