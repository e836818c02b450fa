"""Images behind URLs: equal to the folder's, through a cache, with errors that name URL and reason."""

import fsspec
import numpy as np
import pytest
from PIL import Image

from mmssl.apis.packing import pack
from mmssl.cli import main
from mmssl.data import remote
from mmssl.data.archives import open_archive, read_bytes
from mmssl.data.folder import ImageFolder
from mmssl.errors import RemoteError

FILES = fsspec.filesystem('memory')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Fourteen images in two class folders, packed in every way; all of it on disk and in ``memory://data``."""
    root = tmp_path_factory.mktemp('remote') / 'data'
    rng = np.random.default_rng(0)
    for number in range(14):
        path = root / 'images' / ('cat', 'dog')[number % 2] / f'{number:02}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 10, 3), dtype=np.uint8)).save(path)
    for to in ('tar', 'parquet', 'lmdb'):
        pack(str(root / 'images'), str(root / to), to, 5)
    pack(str(root / 'images'), str(root / 'all.zip'), 'zip')
    (root / 'foreign').mkdir()
    for shard in sorted((root / 'tar').glob('*.tar')):
        (root / 'foreign' / shard.name).write_bytes(shard.read_bytes())
    names = sorted(path.relative_to(root).as_posix() for path in root.glob('images/*/*.png'))
    (root / 'list.txt').write_text('\n'.join(names))
    (root / 'table.csv').write_text('path,label\n' + '\n'.join(f'{name},{name[7:10]}' for name in names))
    FILES.put(str(root), '/data', recursive=True)
    yield root
    FILES.rm('/data', recursive=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('MMSSL_CACHE_DIR', str(tmp_path / 'cache'))
    monkeypatch.setattr(remote, '_FIRST_WAIT', 0.001)
    return tmp_path / 'cache'


@pytest.fixture
def requests(monkeypatch):
    """Paths of which bytes were fetched."""
    fetched, fetch = [], type(FILES).cat_file

    def cat_file(self, path, *args, **kwargs):
        fetched.append(path)
        return fetch(self, path, *args, **kwargs)

    monkeypatch.setattr(type(FILES), 'cat_file', cat_file)
    return fetched


def contents(data):
    dataset = ImageFolder(data)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return [(read_bytes(info['img_path']), info.get('gt_label')) for info in infos]


@pytest.mark.parametrize(
    'name', ['images', 'tar', 'foreign', 'parquet', 'all.zip', 'list.txt', 'table.csv', 'images/*/*.png']
)
def test_everything_behind_a_url_equals_the_folder(folder, name):
    expected = contents(str(folder / 'images'))
    if '*' in name:
        expected = [(data, None) for data, _ in expected]
    assert contents(f'memory://data/{name}') == expected


def test_several_urls_and_a_prefix(folder):
    assert len(contents('memory://data/images/cat,memory://data/images/dog')) == 14
    assert len(ImageFolder('memory://data/images', 'cat')) == 7
    assert len(ImageFolder('memory://data/images', 'train')) == 14
    with pytest.raises(FileNotFoundError, match="memory://data/images has no 'val'; it has cat, dog"):
        ImageFolder('memory://data/images', 'val')


def test_bytes_are_fetched_once_and_again_when_the_file_changes(folder, requests, cache):
    contents('memory://data/images')
    assert len(requests) == 14
    contents('memory://data/images')
    assert len(requests) == 14 and sum(path.is_file() for path in cache.glob('??/*')) == 14
    FILES.pipe('/data/images/cat/00.png', b'other')
    try:
        assert contents('memory://data/images')[0] == (b'other', 0)
    finally:
        FILES.put(str(folder / 'images/cat/00.png'), '/data/images/cat/00.png')
    assert len(requests) == 15


@pytest.mark.parametrize('known', ['created', 'Last-Modified', None])
@pytest.mark.parametrize('name', ['images', 'tar', 'all.zip', 'images/*/*.bmp'])
def test_files_of_the_same_size_are_not_mixed_up(tmp_path, monkeypatch, name, known):
    note = remote._note_version

    def note_what_is_known(url, info):
        time = info.get('created')
        return note(url, {'size': info['size'], **({known: time} if known else {})})

    monkeypatch.setattr(remote, '_note_version', note_what_is_known)
    for seed in range(2):
        root = tmp_path / str(seed)
        path = root / 'images/cat/0.bmp'
        path.parent.mkdir(parents=True)
        pixels = np.random.default_rng(seed).integers(0, 255, (12, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
        pack(str(root / 'images'), str(root / 'tar'), 'tar', 5)
        pack(str(root / 'images'), str(root / 'all.zip'), 'zip')
        FILES.put(str(root), '/same', recursive=True)
        try:
            assert [content for content, _ in contents(f'memory://same/{name}')] == [path.read_bytes()]
        finally:
            FILES.rm('/same', recursive=True)


def test_one_request_an_image_of_a_zip_and_a_shard(folder, requests):
    for name in ('all.zip', 'tar'):
        archive = open_archive(f'memory://data/{name}')
        requests.clear()
        archive.read(archive.names()[3])
        assert len(requests) == 1, name


def test_the_cache_stays_below_its_size(folder, cache, monkeypatch):
    monkeypatch.setenv('MMSSL_CACHE_SIZE', '2K')
    for _ in range(2):
        contents('memory://data/images')
        assert 0 < sum(path.stat().st_size for path in cache.glob('??/*')) <= 2048
    monkeypatch.setenv('MMSSL_CACHE_SIZE', 'much')
    with pytest.raises(RemoteError, match="MMSSL_CACHE_SIZE: 'much' is no size"):
        contents('memory://data/images')


def test_a_failing_network_is_repeated_and_is_never_a_bad_image(folder, monkeypatch):
    fetch, failures = type(FILES).cat_file, []

    def fail(self, path, *args, **kwargs):
        if len(failures) < limit:
            failures.append(path)
            raise TimeoutError('the connection\ntimed out')
        return fetch(self, path, *args, **kwargs)

    monkeypatch.setattr(type(FILES), 'cat_file', fail)
    limit = 3
    dataset = ImageFolder('memory://data/images', pipeline=[dict(type='mmssl.LoadImage')])
    assert dataset.prepare_data(0)['img'].shape == (12, 10, 3) and len(failures) == 3
    limit = 100
    with pytest.raises(RemoteError) as error:
        dataset.prepare_data(1)
    assert len(failures) == 7 and not dataset.bad_files._reasons
    assert str(error.value) == (
        'memory://data/images/cat/02.png cannot be read, in 4 attempts: the connection timed out; what is '
        'cached and saved stays, the same command continues'
    )


@pytest.mark.parametrize(
    'url, message',
    [
        ('memory://data/nothing', 'memory://data/nothing does not exist'),
        ('memory://data/bird*', r'nothing matches the pattern memory://data/bird\*'),
        ('memory://data/lmdb', 'an LMDB is read from disk only; copy it, or pack images with --to tar'),
        ('nosuch://a/b', 'nosuch://a/b: Protocol not known: nosuch'),
    ],
)
def test_errors_name_the_url(folder, url, message):
    with pytest.raises((FileNotFoundError, ValueError, RemoteError), match=message):
        ImageFolder(url)


def test_a_missing_package_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, 'fsspec.core', None)
    with pytest.raises(ImportError, match=r"s3://a/b is read by fsspec.*pip install 'mmssl\[remote\]'"):
        ImageFolder('s3://a/b')


def test_a_file_that_is_gone_is_a_bad_file(folder):
    dataset = ImageFolder('memory://data/images', pipeline=[dict(type='mmssl.LoadImage')])
    FILES.mv('/data/images/cat/00.png', '/gone.png')
    try:
        assert dataset.prepare_data(0) is None
        assert list(dataset.bad_files._reasons.values()) == ['memory://data/images/cat/00.png does not exist']
    finally:
        FILES.mv('/gone.png', '/data/images/cat/00.png')


def test_stats_of_a_url(folder, capsys):
    assert main(['stats', 'memory://data/tar', '--workers', '0', '--json']) == 0
    of_url = capsys.readouterr().out
    assert main(['stats', str(folder / 'images'), '--workers', '0', '--json']) == 0
    assert of_url == capsys.readouterr().out
