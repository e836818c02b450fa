"""Files that the toolboxes unpickle by themselves: data are read, commands are not run."""

import importlib
import importlib.util
import io
import os
import pickle
import sys

import numpy as np
import pytest

import mmssl.registry  # noqa: F401
from mmssl.checkpoint import UnsafeCheckpointError, trusted
from mmssl.hosts.unpickling_patches import UNPICKLING_MODULES, PlainPickle


class Touch:
    """Pickles as a command that creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


class PythonTwoPickler(pickle._Pickler):
    """Pickler that writes bytes as the text of Python 2, in which CIFAR was published."""

    def save(self, value, **kwargs):
        if isinstance(value, bytes):
            self.write(pickle.BINSTRING + len(value).to_bytes(4, 'little') + value)
        else:
            super().save(value, **kwargs)


def cifar_file(path, entry):
    buffer = io.BytesIO()
    PythonTwoPickler(buffer, 2).dump(entry)
    path.write_bytes(buffer.getvalue().replace(b'numpy._core', b'numpy.core'))


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A function that builds CIFAR10 from a file of four images, with these keys changed."""
    module = pytest.importorskip('mmpretrain.datasets.cifar')
    files = [['data_batch_1', None]]
    monkeypatch.setattr(module.CIFAR10, 'train_list', files)
    monkeypatch.setattr(module.CIFAR10, 'test_list', files)
    monkeypatch.setattr(module.CIFAR10, 'meta', dict(filename='data_batch_1', key='label_names'))
    folder = tmp_path / module.CIFAR10.base_folder
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)

    def build(**changes):
        cifar_file(folder / 'data_batch_1', dict(dict(data=pixels, labels=[3, 1, 0, 2]), **changes))
        return module.CIFAR10(str(tmp_path), download=False)

    build.pixels = pixels
    return build


def test_cifar_is_read_as_it_was_published(cifar):
    data = cifar()
    assert [data.get_data_info(i)['gt_label'] for i in range(4)] == [3, 1, 0, 2]
    expected = cifar.pixels.reshape(4, 3, 32, 32).transpose(0, 2, 3, 1)
    assert all(np.array_equal(data.get_data_info(i)['img'], expected[i]) for i in range(4))


def test_a_command_in_cifar_is_not_run(cifar, tmp_path):
    with pytest.raises(UnsafeCheckpointError, match=r'cifar-10-batches-py: .*posix\.system.*nothing was run'):
        cifar(filenames=Touch(tmp_path / 'canary'))
    assert not (tmp_path / 'canary').exists()
    with trusted():
        cifar(filenames=Touch(tmp_path / 'canary'))
    assert (tmp_path / 'canary').exists()


def test_medical_volumes_are_read_as_data(tmp_path):
    loading = pytest.importorskip('mmseg.datasets.transforms.loading')
    volume = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    (tmp_path / 'a.pkl').write_bytes(pickle.dumps(volume))
    results = loading.LoadBiomedicalImageFromFile(decode_backend='pickle', to_xyz=False)(
        dict(img_path=str(tmp_path / 'a.pkl'))
    )
    assert np.array_equal(results['img'], volume)
    (tmp_path / 'b.pkl').write_bytes(pickle.dumps(Touch(tmp_path / 'canary')))
    readers = (
        (loading.LoadBiomedicalImageFromFile, 'img_path'),
        (loading.LoadBiomedicalAnnotation, 'seg_map_path'),
        (loading.LoadBiomedicalData, 'img_path'),
    )
    for reader, key in readers:
        with pytest.raises(UnsafeCheckpointError, match='nothing was run'):
            reader(decode_backend='pickle')({key: str(tmp_path / 'b.pkl')})
    assert not (tmp_path / 'canary').exists()


def test_the_hierarchy_of_open_images_is_an_array_of_numbers(tmp_path):
    open_images = pytest.importorskip('mmdet.datasets.openimages')
    data = open_images.OpenImagesChallengeDataset.__new__(open_images.OpenImagesChallengeDataset)
    data.backend_args = None
    tree = np.arange(16).reshape(4, 4)
    np.save(tmp_path / 'tree.npy', tree)
    assert np.array_equal(data._get_relation_matrix(str(tmp_path / 'tree.npy')), tree[1:, 1:])
    np.save(tmp_path / 'bad.npy', np.array([Touch(tmp_path / 'canary')], object), allow_pickle=True)
    with pytest.raises(UnsafeCheckpointError, match=r'bad\.npy holds no array of numbers'):
        data._get_relation_matrix(str(tmp_path / 'bad.npy'))
    assert not (tmp_path / 'canary').exists()


@pytest.mark.parametrize('before', [True, False])
def test_a_module_is_patched_whenever_it_is_imported(tmp_path, monkeypatch, before):
    """The tags of RAM need transformers, so a module with its lines takes the place of RAM's."""
    from mmssl.hosts import patching, unpickling_patches

    name = f'tags_{before}'
    (tmp_path / f'{name}.py').write_text(
        "import pickle\n\n\ndef load_tag_list(file):\n    with open(file, 'rb') as f:\n"
        '        return pickle.load(f)\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(unpickling_patches, 'UNPICKLING_MODULES', (name,))
    if before:
        importlib.import_module(name)
    unpickling_patches.read_pickled_data_sets_safely()
    module = importlib.import_module(name)
    monkeypatch.delitem(patching._WATCHER.functions, name, raising=False)
    monkeypatch.delitem(sys.modules, name)
    (tmp_path / 'tags.pickle').write_bytes(pickle.dumps(['dog', 'Katze']))
    (tmp_path / 'bad.pickle').write_bytes(pickle.dumps([Touch(tmp_path / 'canary')]))
    assert module.load_tag_list(tmp_path / 'tags.pickle') == ['dog', 'Katze']
    with pytest.raises(UnsafeCheckpointError, match=r'bad\.pickle holds posix\.system'):
        module.load_tag_list(tmp_path / 'bad.pickle')
    assert not (tmp_path / 'canary').exists()
    assert 'pickle' in vars(module) and isinstance(module.pickle, PlainPickle)


def test_no_other_module_of_the_toolboxes_unpickles_files():
    """Finds new calls in the toolboxes' code; what else calls pickle reads what its own job has written."""
    own_files = {
        'mmdet.evaluation.metrics.base_video_metric',  # parts of the results, of the ranks
        'mmdet.utils.dist_utils',  # messages of the ranks
        'mmengine.dist.dist',  # the same, and parts of the results
        'mmengine.dataset.base_dataset',  # entries that it has serialised in memory
        'mmengine.fileio.handlers.pickle_handler',  # patched in file_patches
    }
    found = set()
    for package in ('mmengine', 'mmcv', 'mmdet', 'mmseg', 'mmpretrain'):
        spec = importlib.util.find_spec(package)
        for folder in spec.submodule_search_locations if spec else ():
            for root, folders, files in os.walk(folder):
                folders[:] = [each for each in folders if each != '.mim']
                for file in files:
                    path = os.path.join(root, file)
                    if file.endswith('.py') and _unpickles(path):
                        module = os.path.relpath(path, os.path.dirname(folder))[: -len('.py')]
                        found.add(module.replace(os.sep, '.'))
    expected = {*own_files, *UNPICKLING_MODULES, 'mmdet.datasets.openimages'}
    assert found - expected == {'mmengine.runner.checkpoint'}  # patched in checkpoint_patches


def _unpickles(path):
    with open(path, encoding='utf-8') as file:
        text = file.read()
    calls = ('pickle.load(', 'pickle.loads(', 'Unpickler(', 'allow_pickle=True', 'weights_only=False)')
    return any(call in text for call in calls)
