"""Files as the toolboxes read them: nothing is executed, nothing waits, and errors name the file."""

import io
import os
import pickle

import mmengine
import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.structures import InstanceData

import mmssl.registry  # noqa: F401
from mmssl.checkpoint import UnsafeCheckpointError, load_file, trusted
from mmssl.checkpoint.plain_pickles import load_plain_pickle


class Call:
    """Pickles as a call with these arguments and state."""

    def __init__(self, function, arguments, state=None):
        self.parts = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.parts


STORAGE = torch.storage.TypedStorage(
    wrap_storage=torch.zeros(2).untyped_storage(), dtype=torch.float32, _internal=True
)


def dataset(path):
    return BaseDataset(ann_file=str(path), serialize_data=False)


@pytest.mark.parametrize('protocol', range(6))
def test_a_pickled_annotation_file_is_read(tmp_path, protocol):
    entry = dict(
        img_path='a.jpg',
        box=np.array([[1.5, 2]], order='F'),
        label=np.int64(3),
        names={'a', 'b'},
        raw=b'\xff\0',
        score=np.float32(0.5),
        empty=np.zeros((0, 4)),
    )
    proposals = InstanceData(metainfo=dict(size=(3, 4)), bboxes=torch.rand(3, 4)[1:], scores=np.arange(2.0))
    content = dict(metainfo=dict(classes=('x',)), data_list=[entry])
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(content, protocol))
    read = dataset(tmp_path / 'a.pkl')
    assert read.metainfo['classes'] == ('x',)
    for name, value in entry.items():
        result = read.get_data_info(0)[name]
        assert type(result) is type(value) and np.array_equal(result, value), name
    (tmp_path / 'p.pkl').write_bytes(pickle.dumps({'a.jpg': proposals}, protocol))
    loaded = mmengine.load(tmp_path / 'p.pkl')['a.jpg']
    assert isinstance(loaded, InstanceData) and loaded.size == (3, 4) and len(loaded) == 2
    assert torch.equal(loaded.bboxes, proposals.bboxes) and loaded.scores.tolist() == [0, 1]


def test_a_pickle_that_calls_something_is_refused_by_name(tmp_path):
    canary = tmp_path / 'canary'
    content = dict(metainfo={}, data_list=[Call(os.system, (f'touch {canary}',))])
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(content))
    with pytest.raises(UnsafeCheckpointError, match=r'a\.pkl: .*posix\.system.*nothing was run'):
        dataset(tmp_path / 'a.pkl')
    assert not canary.exists()
    with trusted():
        mmengine.load(tmp_path / 'a.pkl')
    assert canary.exists()


@pytest.mark.parametrize(
    'content',
    [
        Call(np.ndarray, ((2,), 'O', b'\x41' * 16)),
        Call(np.dtype, ([('a', 'O')],)),
        Call(torch._utils._rebuild_tensor_v2, (b'', 0, (4,), (1,))),
        Call(torch._utils._rebuild_tensor_v2, (STORAGE, 0, (4,), (1,))),
        Call(torch._utils._rebuild_tensor_v2, (STORAGE, 1, (2,), (1,))),
        Call(torch._utils._rebuild_tensor_v2, (STORAGE, 0, (1 << 62, 1 << 62), (0, 1))),
        Call(torch.storage._load_from_bytes, (b'\x80\x02csubprocess\ncall\n.',)),
        Call(InstanceData.__new__, (InstanceData,), dict(_data_fields={'a'})),
        Call(getattr, ({}, 'clear')),
        Call(set, (), (None, {'add': 1})),
    ],
)
def test_a_crafted_pickle_is_refused(content):
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        load_plain_pickle(io.BytesIO(pickle.dumps(content)))


def test_a_file_cannot_change_what_the_next_one_is_read_with():
    name = (
        'numpy._core.multiarray'
        if np.lib.NumpyVersion(np.__version__) >= '2.0.0'
        else 'numpy.core.multiarray'
    )
    spoil = f'c{name}\nscalar\n(N}}(V__defaults__\n(I1\ntub.'.encode()
    with pytest.raises(pickle.UnpicklingError):
        load_plain_pickle(io.BytesIO(spoil))
    assert load_plain_pickle(io.BytesIO(pickle.dumps(np.float32(2)))) == 2


@pytest.mark.parametrize(
    'name,content',
    [
        ('a.json', b'{"metainfo": '),
        ('a.json', b'\xff\xfe'),
        ('a.yaml', b'a: [b'),
        ('a.pkl', b'\x80\x04]q'),
        ('a.pkl', b''),
    ],
)
def test_a_damaged_annotation_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf'{tmp_path}/{name} cannot be read: .*; repair or replace it'):
        dataset(tmp_path / name)


def test_special_files_are_refused_by_the_loaders_of_the_toolboxes(tmp_path):
    transforms = pytest.importorskip('mmcv.transforms')
    paths = [tmp_path / name for name in ('fifo.png', 'device.png', 'fifo.pth')]
    for path in (paths[0], paths[2]):
        os.mkfifo(path)
    paths[1].symlink_to('/dev/zero')
    for path, kind in zip(paths[:2], ('FIFO', 'character device'), strict=True):
        for read in (
            lambda path=path: transforms.LoadImageFromFile()(dict(img_path=str(path))),
            lambda path=path: transforms.LoadAnnotations(with_bbox=False, with_label=False, with_seg=True)(
                dict(seg_map_path=str(path))
            ),
            lambda path=path: mmengine.load(path, file_format='json'),
            lambda path=path: mmengine.list_from_file(path),
            lambda path=path: mmengine.fileio.get_local_path(path).__enter__(),
        ):
            with pytest.raises(OSError, match=rf'{path} is a {kind}, not a regular file'):
                read()
    with pytest.raises(FileNotFoundError, match='it is a FIFO, which is not read'):
        load_file(paths[2])


def test_texts_are_read_with_their_encoding_and_line_ends(tmp_path):
    (tmp_path / 'a.txt').write_bytes('ä\r\nb\n'.encode('latin1'))
    assert mmengine.list_from_file(tmp_path / 'a.txt', encoding='latin1') == ['ä', 'b']
