"""Files from elsewhere: nothing in them is executed, and none of them crashes the process."""

import importlib.util
import pickle
import sys
from pathlib import Path

import mmengine
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer

from mmssl.checkpoint import load_file
from mmssl.config.load import load_config
from mmssl.hosts import patches

TRIAL = Path(__file__).parents[2] / 'tools' / 'trials' / 'mutate_checkpoints.py'


class Call:
    """Pickles as a call with these arguments and state."""

    def __init__(self, function, arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


def saved(content, path):
    """Write content as a stream whose pickle torch reads as it is."""
    torch.save(content, path, _use_new_zipfile_serialization=False, pickle_module=pickle)
    return path


reconstruct = np.zeros(1).__reduce__()[0]
OBJECT = Call(np.dtype, ('O8', False, True))
FLOAT = np.dtype('f8')


@pytest.mark.parametrize(
    'content',
    [
        Call(np.ndarray, ((2,), 'O', b'\x41' * 16)),
        Call(np.ndarray, ((1 << 40,), 'f8')),
        Call(np.dtype, ([('a', 'O')],)),
        Call(np.dtype, ('f8', False, True), (3, '<', ('O', (2,)), None, None, -1, -1, 0)),
        Call(np.dtype, ('V8', False, True), (3, '|', None, ('a',), {'a': (np.dtype('f8'), 0)}, 8, 8, 63)),
        Call(reconstruct, (np.ndarray, (2,), 'O')),
        Call(reconstruct, (np.ndarray, (0,), b'b'), (1, (2,), OBJECT, False, b'\x41' * 16)),
        Call(reconstruct, (np.ndarray, (0,), b'b'), (1, (2,), FLOAT, False, b'\x41' * 8)),
        Call(reconstruct, (np.ndarray, (0,), b'b'), (1, (-2, -1), FLOAT, False, b'\x41' * 16)),
        Call(reconstruct, (np.ndarray, (0,), b'b'), (1, (1 << 62, 1 << 62), FLOAT, False, b'')),
        Call(reconstruct, (np.ndarray, (0,), b'b')),
        Call(HistoryBuffer, (), dict(_log_history=3, _count_history=4, max_length=5)),
        Call(HistoryBuffer, (), dict(_log_history=np.ones(2), _count_history=np.ones(3), max_length=5)),
    ],
)
def test_what_numpy_would_take_for_addresses_is_refused(content, tmp_path):
    with pytest.raises(ValueError, match='file.pth') as caught:
        load_file(saved(dict(meta=[content]), tmp_path / 'file.pth'))
    assert '\n' not in str(caught.value)


@pytest.mark.parametrize('archive', [True, False])
def test_arrays_and_histories_are_read(tmp_path, archive):
    array = np.asfortranarray(np.arange(6, dtype='>i2').reshape(2, 3))
    content = dict(
        arrays=[array, (array, np.zeros((0, 2), np.float16)), np.array(['a', 'bc']), np.array(3.5)],
        scalars=(np.float32(2.5), np.int64(-3), np.bool_(True), np.complex64(1j)),
        dtype=np.dtype('<f4'),
        history=HistoryBuffer([1.0, 3.0], [1, 2]),
    )
    torch.save(content, tmp_path / 'file.pth', _use_new_zipfile_serialization=archive)
    loaded = load_file(tmp_path / 'file.pth')
    first, (again, empty), words, scalar = loaded['arrays']
    assert first is again and first.flags.writeable and first.tolist() == array.tolist()
    assert first.dtype == array.dtype and empty.shape == (0, 2) and empty.dtype == np.float16
    assert words.tolist() == ['a', 'bc'] and scalar.shape == () and scalar == 3.5
    assert loaded['scalars'] == content['scalars'] and type(loaded['scalars'][0]) is np.float32
    assert loaded['dtype'] == np.dtype('<f4')
    assert type(loaded['history']) is HistoryBuffer and loaded['history'].mean() == pytest.approx(4 / 3)


def test_mutated_files_load_or_are_refused():
    spec = importlib.util.spec_from_file_location('mutate_checkpoints', TRIAL)
    module = importlib.util.module_from_spec(spec)
    sys.modules['mutate_checkpoints'] = module
    spec.loader.exec_module(module)
    outcomes, wrong = module.trial(90, start=5000)
    assert not wrong and sum(outcomes.values()) == 90 and set(outcomes) == {'loaded', 'refused'}


def test_yaml_creates_no_objects(tmp_path):
    patches.apply()
    path = tmp_path / 'config.yaml'
    touch = (
        f'!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ["{tmp_path}/ran"]]'
    )
    path.write_text(f'model: {touch}\n')
    for read in (mmengine.load, Config.fromfile, load_config):
        with pytest.raises(Exception, match='python/object/apply'):
            read(str(path))
    with pytest.raises(ValueError, match='cannot be read'):
        load_config(str(path))
    assert not (tmp_path / 'ran').exists()
    config = Config(dict(sizes=(1, 2), names=['a']))
    config.dump(tmp_path / 'written.yaml')
    assert Config.fromfile(tmp_path / 'written.yaml').sizes == (1, 2)
