"""Loading never executes code, saving is whole or nothing."""

import os
import pickle
import random
import resource
import signal
import time

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmssl import checkpoint as ckpt
from mmssl.checkpoint import (
    CheckpointError,
    ProgressFile,
    UnsafeCheckpointError,
    load_file,
    save_file,
)


class Call:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('archive', [True, False])
def test_code_in_a_checkpoint_is_not_run(tmp_path, archive):
    canary = tmp_path / 'canary'
    path = tmp_path / 'evil.pth'
    torch.save(
        {'state_dict': Call(os.system, f'touch {canary}')}, path, _use_new_zipfile_serialization=archive
    )
    with pytest.raises(UnsafeCheckpointError, match=r'evil.pth holds posix.system.*--trust-checkpoint'):
        load_file(path)
    assert not canary.exists()
    with ckpt.trusted():
        load_file(path)
    assert canary.exists()
    with pytest.raises(UnsafeCheckpointError):
        load_file(path)


@pytest.mark.parametrize(
    'owner,name', [(HistoryBuffer, '__init__'), (HistoryBuffer, 'register_statistics'), (np.ndarray, 'dump')]
)
def test_getattr_serves_statistics_only(tmp_path, owner, name):
    torch.save(Call(getattr, owner, name), tmp_path / 'x.pth')
    with pytest.raises(UnsafeCheckpointError, match='getattr'):
        load_file(tmp_path / 'x.pth')


def test_hosts_types_are_read(tmp_path):
    saved = dict(
        history=HistoryBuffer([1, 3], [1, 1]),
        array=np.arange(3),
        number=np.float32(2),
        image=np.zeros((2, 2), np.uint8),
    )
    torch.save(saved, tmp_path / 'x.pth')
    loaded = load_file(tmp_path / 'x.pth')
    assert (
        loaded['history'].statistics('mean') == 2
        and loaded['array'].tolist() == [0, 1, 2]
        and loaded['number'] == 2
    )


@pytest.mark.parametrize('archive', [True, False])
def test_broken_files_are_named(tmp_path, archive):
    path = tmp_path / 'x.pth'
    torch.save({'a': torch.zeros(1000)}, path, _use_new_zipfile_serialization=archive)
    whole = path.read_bytes()
    for content in (b'', b'hello world', b'<html>404</html>', whole[:100], whole[:2000], whole[:-10]):
        path.write_bytes(content)
        with pytest.raises(
            CheckpointError,
            match=r'x.pth is (empty|not a whole checkpoint) \([\d,]+ bytes\).*download it again',
        ):
            load_file(path)
    with pytest.raises(FileNotFoundError, match='gone.pth'):
        load_file(tmp_path / 'gone.pth')


def test_safetensors(tmp_path):
    safetensors = pytest.importorskip('safetensors.torch')
    safetensors.save_file({'a': torch.arange(3)}, tmp_path / 'x.safetensors')
    assert load_file(tmp_path / 'x.safetensors')['a'].tolist() == [0, 1, 2]
    (tmp_path / 'x.safetensors').write_bytes(b'short')
    with pytest.raises(CheckpointError, match='not a whole safetensors file'):
        load_file(tmp_path / 'x.safetensors')


def test_full_disk_keeps_the_old_file(tmp_path):
    """The limit of a file's size stands in for a full disk: both fail in the middle of a write."""
    path = tmp_path / 'x.pth'
    save_file({'a': torch.ones(3)}, path)
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save_file({'a': torch.zeros(1_000_000)}, path)
        except OSError as error:
            os._exit(0 if str(path) in str(error) and '4,000,000 bytes are needed' in str(error) else 3)
        except BaseException:
            os._exit(4)
        os._exit(5)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert torch.equal(load_file(path)['a'], torch.ones(3))
    assert os.listdir(tmp_path) == ['x.pth']


def test_unwritable_directory_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match='cannot save the checkpoint .*file/x.pth.*--work-dir'):
        save_file({}, tmp_path / 'file' / 'x.pth')
    assert (tmp_path / 'file').read_text() == ''


def test_killed_while_saving(tmp_path):
    """Twelve processes are killed at a random moment of their writing; what is there is always whole."""
    generator = random.Random(0)
    path = tmp_path / 'iter_1.pth'
    save_file(dict(meta=dict(iter=0), a=torch.zeros(1_000_000)), path)
    for _ in range(12):
        pid = os.fork()
        if pid == 0:
            step = 0
            while True:
                step += 1
                save_file(dict(meta=dict(iter=step), a=torch.full((1_000_000,), float(step))), path)
        time.sleep(generator.uniform(0.005, 0.08))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        loaded = load_file(path)
        assert torch.equal(loaded['a'], torch.full((1_000_000,), float(loaded['meta']['iter'])))


def test_pickle_module_is_not_needed_for_plain_files(tmp_path):
    save_file({'a': torch.zeros(2), 'b': [1, 'x', None]}, tmp_path / 'x.pth')
    with pytest.raises(pickle.UnpicklingError):
        torch.load(_evil(tmp_path), weights_only=True)
    assert load_file(tmp_path / 'x.pth', mmap=True)['b'] == [1, 'x', None]


def _evil(tmp_path):
    torch.save(Call(print, 'x'), tmp_path / 'evil.pth')
    return tmp_path / 'evil.pth'


def test_progress_reports_the_bytes_read_and_written(tmp_path):
    weights = {'a': torch.randn(300, 1000), 'b': torch.arange(7)}
    path = tmp_path / 'w.pth'
    written, read = [], []
    save_file(weights, path, written.append)
    assert 1_200_000 < sum(written) <= path.stat().st_size + 4096 and len(written) > 2
    with open(path, 'rb') as file:
        loaded = load_file(ProgressFile(file, read.append))
    assert torch.equal(loaded['a'], weights['a']) and torch.equal(loaded['b'], weights['b'])
    assert 1_200_000 < sum(read) < 2 * path.stat().st_size
    cut = tmp_path / 'cut.pth'
    cut.write_bytes(path.read_bytes()[:1000])
    with open(cut, 'rb') as file, pytest.raises(CheckpointError, match='cut.pth'):
        load_file(ProgressFile(file, read.append))


def test_old_names_warn(tmp_path):
    written = []
    with pytest.warns(DeprecationWarning, match='use progress'):
        save_file({'a': torch.zeros(2)}, tmp_path / 'x.pth', tell=written.append)
    assert sum(written) > 0
    with pytest.warns(DeprecationWarning, match='ProgressFile'):
        assert ckpt.Metered is ProgressFile
