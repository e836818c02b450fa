"""Shards, Parquet, lists, tables, patterns and several folders give what the folder gives."""

import multiprocessing
import os
import random
import shutil
import signal
import tarfile

import numpy as np
import pytest
from mmengine.dataset import worker_init_fn
from PIL import Image
from torch.utils.data import DataLoader

from mmssl.apis import packing
from mmssl.apis.packing import pack
from mmssl.cli import main
from mmssl.data.archives import open_archive, read_bytes
from mmssl.data.folder import ImageFolder
from mmssl.data.shards import TarShards

PIPELINE = [dict(type='mmssl.LoadRandomResizedCrop', scale=8)]
FORMATS = ['tar', 'zip', 'lmdb', 'parquet']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('source') / 'images'
    rng = np.random.default_rng(0)
    for number in range(14):
        path = root / ('cat', 'dog')[number % 2] / f'{number:02}.v1.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 10, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture(scope='module')
def expected(folder):
    return {workers: batches(folder, workers) for workers in (0, 2)}


def packed(folder, tmp_path, to, shard_size=5):
    if to in ('parquet', 'lmdb'):
        pytest.importorskip({'parquet': 'pyarrow', 'lmdb': 'lmdb'}[to])
    out = tmp_path / f'packed_{to}'
    assert pack(str(folder), str(out), to, shard_size) == 14
    return out


def batches(root, workers):
    dataset = ImageFolder(str(root), pipeline=PIPELINE)
    loader = DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=lambda index: worker_init_fn(index, max(workers, 1), rank=0, seed=0),
    )
    random.seed(0)
    return [(sample['img'], sample['gt_label']) for sample in loader]


def same(first, second):
    return all((a == b).all() and x == y for (a, x), (b, y) in zip(first, second, strict=True))


@pytest.mark.parametrize('to', FORMATS)
def test_an_archive_equals_the_folder_with_0_and_2_workers(folder, expected, tmp_path, to):
    out = packed(folder, tmp_path, to)
    assert ImageFolder(str(out)).CLASSES == ('cat', 'dog')
    assert same(expected[0], batches(out, 0)) and same(expected[2], batches(out, 2))


@pytest.mark.parametrize('to', FORMATS)
def test_an_archive_that_is_packed_again_is_read_again(folder, tmp_path, to):
    images = tmp_path / 'images'
    shutil.copytree(folder, images)
    for change in (lambda pixels: pixels, np.flipud):
        for path in images.rglob('*.png'):
            Image.fromarray(change(np.asarray(Image.open(path)))).save(path)
        shutil.rmtree(tmp_path / f'packed_{to}', ignore_errors=True)
        (tmp_path / f'packed_{to}').unlink(missing_ok=True)
        out = packed(images, tmp_path, to)
        dataset = ImageFolder(str(out))
        info = dataset.get_data_info(0)['img_path']
        assert read_bytes(info) == (images / 'cat/00.v1.png').read_bytes()


@pytest.mark.parametrize('to', ['tar', 'parquet', 'lmdb', 'zip'])
def test_an_interrupted_run_continues(folder, expected, tmp_path, to, monkeypatch):
    if to in ('parquet', 'lmdb'):
        pytest.importorskip({'parquet': 'pyarrow', 'lmdb': 'lmdb'}[to])
    out = tmp_path / 'out'
    reads = []

    def fail(path):
        reads.append(path)
        if len(reads) == 8:
            raise KeyboardInterrupt
        return read_bytes(path)

    monkeypatch.setattr(packing, 'read_bytes', fail)
    monkeypatch.setattr(packing, '_BATCH', 3)
    with pytest.raises(KeyboardInterrupt):
        pack(str(folder), str(out), to, 3)
    assert not out.exists()
    written = len(reads) - 1
    reads.clear()
    reads += [''] * 100
    assert pack(str(folder), str(out), to, 3) == 14
    assert not (tmp_path / 'out.partial').exists()
    batch = 1 if to == 'zip' else 3
    assert len(reads) - 100 - 14 == 14 - written // batch * batch  # the rest, and all for their checksums
    assert same(expected[0], batches(out, 0))


@pytest.mark.parametrize('cut', [0, 1, 100, 900, -1, -400])
def test_a_zip_that_ends_anywhere_is_completed_to_the_same_bytes(folder, tmp_path, cut):
    out = packed(folder, tmp_path, 'zip')
    content = out.read_bytes()
    (tmp_path / 'again.partial').write_bytes(content[:cut])
    assert pack(str(folder), str(tmp_path / 'again'), 'zip') == 14
    assert (tmp_path / 'again').read_bytes() == content
    (tmp_path / 'other.partial').write_bytes(bytes(range(256)) * 10 + content[:cut])
    pack(str(folder), str(tmp_path / 'other'), 'zip')
    assert (tmp_path / 'other').read_bytes() == content


@pytest.mark.parametrize('to', FORMATS)
def test_a_killed_run_continues_to_the_same_result(folder, expected, tmp_path, to):
    """SIGKILL after 0, 7 and 13 of 14 images, as often as the run is started."""
    out = tmp_path / 'out'
    for count in (0, 7, 13):
        process = multiprocessing.get_context('fork').Process(
            target=pack_and_die, args=(str(folder), str(out), to, count)
        )
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL and not out.exists()
    assert pack(str(folder), str(out), to, 3) == 14
    assert same(expected[0], batches(out, 0)) and not (tmp_path / 'out.partial').exists()


def pack_and_die(folder, out, to, count):
    reads = []

    def read(path):
        reads.append(path)
        if len(reads) > count:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_bytes(path)

    packing.read_bytes = read
    pack(folder, out, to, 3)


def test_a_damaged_shard_and_a_changed_source_are_named(folder, tmp_path):
    out = packed(folder, tmp_path, 'tar')
    shard = out / '00001.tar'
    alone = TarShards(str(shard))
    name = alone.names()[2]
    content = bytearray(shard.read_bytes())
    content[alone._entries[name][1].offset + 40] ^= 1
    shard.write_bytes(content)
    with pytest.raises(OSError, match=f'{name}.*00001.tar is damaged'):
        TarShards(str(out)).read(name)
    dataset = ImageFolder(str(out), pipeline=PIPELINE)
    assert sum(dataset.prepare_data(index) is None for index in range(14)) == 1


def test_foreign_shards_are_read_by_their_headers(folder, expected, tmp_path):
    for number in range(2):
        with tarfile.open(tmp_path / f'{number}.tar', 'w') as archive:
            for path in sorted(folder.rglob('*.png'))[number * 7 : number * 7 + 7]:
                archive.add(path, path.relative_to(folder))
    assert same(expected[0], batches(tmp_path, 0))
    assert len(ImageFolder(str(tmp_path / '0.tar'))) == 7
    (tmp_path / '2.tar').write_bytes((tmp_path / '0.tar').read_bytes()[:-9000])
    with pytest.raises(OSError, match='2.tar is a'):
        open_archive(str(tmp_path / '2.tar'))


def test_parquet_of_labels_without_paths(folder, tmp_path):
    pyarrow = pytest.importorskip('pyarrow')
    parquet = pytest.importorskip('pyarrow.parquet')
    data = [path.read_bytes() for path in sorted(folder.rglob('*.png'))]
    table = pyarrow.table({'image': data, 'label': [index // 7 for index in range(14)]})
    parquet.write_table(table, tmp_path / 'a.parquet', row_group_size=4)
    dataset = ImageFolder(str(tmp_path / 'a.parquet'))
    assert len(dataset) == 14 and dataset.CLASSES == ('0', '1')
    assert read_bytes(dataset.get_data_info(9)['img_path']) == data[9]


def test_lists_tables_patterns_and_several_folders(folder, tmp_path):
    names = [str(path) for path in sorted(folder.rglob('*.png'))]
    (tmp_path / 'list.txt').write_text('\n'.join(names) + '\n')
    listed = ImageFolder(str(tmp_path / 'list.txt'))
    assert [listed.get_data_info(index)['img_path'] for index in range(14)] == names
    rows = [f'{name},{"even" if index % 2 else "odd"}' for index, name in enumerate(names)]
    (tmp_path / 'table.csv').write_text('path,label\n' + '\n'.join(rows))
    table = ImageFolder(str(tmp_path / 'table.csv'))
    assert len(table) == 14 and table.CLASSES == ('even', 'odd') and table.get_data_info(0)['gt_label'] == 1
    assert len(ImageFolder(f'{folder}/cat,{folder}/dog')) == 14
    assert len(ImageFolder([f'{folder}/cat', f'{folder}/dog'])) == 14
    assert len(ImageFolder(f'{folder}/*/0*.png')) == 10
    with pytest.raises(FileNotFoundError, match='nothing matches'):
        ImageFolder(f'{folder}/x*')
    (tmp_path / 'odd.csv').write_text('path,label\na.png\n')
    with pytest.raises(ValueError, match='has 1 columns, and the first has 2'):
        ImageFolder(str(tmp_path / 'odd.csv'))


def test_the_command(folder, tmp_path, capsys):
    out = tmp_path / 'out'
    assert main(['pack', str(folder), str(out), '--shard-size', '5']) == 0
    assert '14 images, all checksums match' in capsys.readouterr().out
    assert sorted(path.name for path in out.glob('*.tar')) == ['00000.tar', '00001.tar', '00002.tar']
    assert main(['pack', str(folder), str(out)]) != 0
    assert 'exists; remove it' in capsys.readouterr().err
