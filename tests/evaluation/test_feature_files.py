"""Files of features: written whole, read back, refused with reason and cure."""

import json

import numpy as np
import pytest

from mmssl.evaluation import feature_files
from mmssl.evaluation.feature_files import read_description, read_features, write_features

FEATURES = np.arange(12, dtype=np.float32).reshape(4, 3)
PATHS = ['/a/1.jpg', '/a/ü.jpg', '/b/3.jpg', '/b/4.jpg']


def write(path, features=FEATURES, paths=PATHS, **description):
    parts = [(paths[:3], features[:3]), (paths[3:], features[3:])]
    write_features(path, parts, len(features), features.shape[1:], description)
    return path


@pytest.fixture(params=['.parquet', '.npy'])
def suffix(request):
    if request.param == '.parquet':
        pytest.importorskip('pyarrow')
    return request.param


def test_features_are_read_as_they_were_written(tmp_path, suffix):
    path = write(tmp_path / f'f{suffix}', pool='avg')
    content = read_features(path)
    assert content.paths == PATHS and np.array_equal(content.features, FEATURES)
    assert content.description == read_description(path) == {'pool': 'avg'}


def test_large_files_are_mapped(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(feature_files, 'MAX_BYTES_IN_MEMORY', 8)
    monkeypatch.setattr(feature_files, '_ROWS', 2)
    content = read_features(write(tmp_path / f'f{suffix}'))
    assert isinstance(content.features, np.memmap) and np.array_equal(content.features, FEATURES)


def test_features_of_patches(tmp_path, suffix):
    patches = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    path = write(tmp_path / f'f{suffix}', patches)
    assert np.array_equal(read_features(path, vectors=False).features, patches)
    with pytest.raises(ValueError, match='features of patches, 2 for each image.*--pool avg or cls'):
        read_features(path)


def test_a_parquet_file_has_the_columns_path_and_feature(tmp_path):
    parquet = pytest.importorskip('pyarrow.parquet')
    schema = parquet.read_schema(write(tmp_path / 'f.parquet'))
    assert [(field.name, str(field.type)) for field in schema] == [
        ('path', 'string'),
        ('feature', 'fixed_size_list<element: float>[3]'),
    ]


def test_lists_of_other_programs_are_read(tmp_path):
    pyarrow = pytest.importorskip('pyarrow')
    import pyarrow.parquet as parquet

    def table(*rows, **columns):
        feature = pyarrow.array(rows, pyarrow.list_(pyarrow.float64()))
        paths = [f'{index}.jpg' for index in range(len(rows))]
        parquet.write_table(
            pyarrow.table({'path': paths, 'feature': feature, **columns}), tmp_path / 'f.parquet'
        )
        return tmp_path / 'f.parquet'

    content = read_features(table([1, 2], [3, 4]))
    assert content.features.tolist() == [[1, 2], [3, 4]] and content.description == {}
    for rows in ([[1, 2], [3]], [[1, 2], [3], [4, 5, 6]], [[1], None], [[], []]):
        with pytest.raises(ValueError, match="the column 'feature'"):
            read_features(table(*rows))
    with pytest.raises(ValueError, match='holds no features'):
        read_features(table())


def test_an_interrupted_writer_leaves_the_file_before(tmp_path, suffix):
    path = write(tmp_path / f'f{suffix}')

    def parts():
        yield PATHS[:3], FEATURES[:3]
        raise OSError('disk full')

    with pytest.raises(OSError, match='disk full'):
        write_features(path, parts(), 4, (3,), {})
    assert np.array_equal(read_features(path).features, FEATURES)
    assert {file.name for file in tmp_path.iterdir()} <= {path.name, 'f.json'}


def test_wrong_files_are_refused(tmp_path, suffix):
    path = tmp_path / f'f{suffix}'
    with pytest.raises(FileNotFoundError, match='does not exist'):
        read_features(path)
    path.write_bytes(b'nothing of the kind')
    with pytest.raises(ValueError, match=f'{path}: is not a'):
        read_features(path)
    assert read_description(path) is None
    with pytest.raises(ValueError, match=r'\.parquet or \.npy'):
        read_features(tmp_path / 'f.csv')
    with pytest.raises(ValueError, match='names an image twice'):
        read_features(write(path, paths=['a', 'b', 'c', 'a']))
    with pytest.raises(ValueError, match=r'the feature of /b/3\.jpg contains NaN'):
        read_features(write(path, np.where(FEATURES == 7, np.nan, FEATURES)))


def test_an_array_needs_its_names(tmp_path):
    path = write(tmp_path / 'f.npy')
    names = tmp_path / 'f.json'
    names.write_text(json.dumps({'paths': PATHS[:2]}))
    with pytest.raises(ValueError, match='has 4 rows, but 2 paths'):
        read_features(path)
    names.write_text('[]')
    with pytest.raises(ValueError, match='does not list "paths"'):
        read_features(path)
    names.unlink()
    with pytest.raises(ValueError, match=r'f\.json, which names its images, is not beside it'):
        read_features(path)


def test_a_parquet_file_needs_both_columns(tmp_path):
    pyarrow = pytest.importorskip('pyarrow')
    import pyarrow.parquet as parquet

    parquet.write_table(pyarrow.table({'path': ['a'], 'vector': [[1.0]]}), tmp_path / 'f.parquet')
    with pytest.raises(ValueError, match="has no column 'feature'"):
        read_features(tmp_path / 'f.parquet')
