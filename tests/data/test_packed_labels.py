"""Classes of tables and of WebDataset survive packing; other runs leave nothing behind in an archive."""

import io
import os
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from mmssl.apis.packing import pack
from mmssl.data.archives import read_bytes
from mmssl.data.folder import ImageFolder

FORMATS = ['tar', 'zip', 'lmdb', 'parquet']
ODD = ['a b', 'x#1', 'com,ma', 'per%20cent', '-dash', 'br[1]', 'star*', 'q"uote', '日本', 'new\nline']
ODD += ['e\u0301', '\u00e9']  # one letter, spelled in two ways


def write_image(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 5, 3), np.uint8)
    Image.fromarray(pixels).save(path, 'PNG')


def labelled(root, prefix=''):
    """(bytes, class) of the images."""
    dataset = ImageFolder(str(root), data_prefix=prefix)
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    return [(read_bytes(info['img_path']), dataset.CLASSES[info['gt_label']]) for info in infos]


@pytest.mark.parametrize('to', FORMATS)
def test_odd_names_and_folders_come_back(tmp_path, to):
    for number, name in enumerate(ODD):
        write_image(tmp_path / 'source' / ('ünï', 'dog s')[number % 2] / f'{name}.PNG', number)
    out = str(tmp_path / f'out_{to}')
    pack(str(tmp_path / 'source'), out, to, 5)
    assert labelled(out) == labelled(tmp_path / 'source') and len(labelled(out)) == len(ODD)


@pytest.mark.parametrize('to', FORMATS)
def test_classes_of_a_table_become_folders(tmp_path, to):
    for number in range(4):
        write_image(tmp_path / 'scans' / ('train', 'val')[number % 2] / f'{number}.png', number)
    rows = [f'scans/{part}/{number}.png; {name}' for part, number, name in (
        ('train', 0, 'dog'), ('train', 2, 'cat'), ('val', 1, 'dog'), ('val', 3, 'cat'))]  # fmt: skip
    (tmp_path / 'table.csv').write_text('path;label\n' + '\r\n'.join(rows))
    out = str(tmp_path / f'out_{to}')
    pack(str(tmp_path / 'table.csv'), out, to)
    for part in ('train', 'val'):
        pairs = labelled(tmp_path / 'table.csv', part)
        assert sorted(labelled(out, part)) == sorted(pairs) and {name for _, name in pairs} == {'cat', 'dog'}
    if to == 'parquet':
        from pyarrow.parquet import read_table

        assert sorted(read_table(f'{out}/00000.parquet')['label'].to_pylist()) == [0, 0, 1, 1]


@pytest.mark.parametrize('label', ['', ' ', 'a/b', '..'])
def test_classes_that_are_no_folders_are_refused(tmp_path, label):
    write_image(tmp_path / 'a.png', 0)
    (tmp_path / 'table.csv').write_text(f'path,label\na.png,{label}\n')
    with pytest.raises(ValueError, match='has no label|cannot be the name of a folder'):
        pack(str(tmp_path / 'table.csv'), str(tmp_path / 'out'), 'tar')
    assert not list(tmp_path.glob('out*'))


@pytest.mark.parametrize('to', FORMATS)
def test_an_interrupted_run_of_other_images_and_shards_leaves_nothing(tmp_path, to):
    source, out = tmp_path / 'source', tmp_path / f'out_{to}'
    for number in range(9):
        write_image(source / 'ab'[number % 2] / f'{number}.png', number)
    pack(str(source), str(out), to, 2)
    rounds = [(4, ()), (2, range(2, 9))]
    for size, removed in rounds[to == 'lmdb' :]:  # an LMDB that has been read is open in this process
        os.replace(out, f'{out}.partial')
        for number in removed:
            (source / 'ab'[number % 2] / f'{number}.png').unlink()
        pack(str(source), str(out), to, size)
        assert labelled(out) == labelled(source)


def test_a_damaged_shard_of_an_interrupted_run_is_written_again(tmp_path):
    pytest.importorskip('pyarrow')
    for number in range(4):
        write_image(tmp_path / 'source' / 'ab'[number % 2] / f'{number}.png', number)
    for to in ('tar', 'parquet'):
        out = tmp_path / f'out_{to}'
        pack(str(tmp_path / 'source'), str(out), to, 2)
        shutil.move(out, f'{out}.partial')
        shard = tmp_path / f'out_{to}.partial/00001.{to}'
        shard.write_bytes(shard.read_bytes()[:300])
        pack(str(tmp_path / 'source'), str(out), to, 2)
        assert labelled(out) == labelled(tmp_path / 'source')


def test_classes_of_webdataset(tmp_path):
    with tarfile.open(tmp_path / '0.tar', 'w') as archive:
        for number, label in enumerate((9, 10, 9)):
            image = io.BytesIO()
            Image.new('RGB', (4, 4), (number, 0, 0)).save(image, 'PNG')
            for ending, data in (
                ('left.png', image.getvalue()),
                ('cls', str(label).encode()),
                ('json', b'{}'),
            ):
                member = tarfile.TarInfo(f'{number:04}.{ending}')
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    dataset = ImageFolder(str(tmp_path / '0.tar'))
    assert dataset.CLASSES == ('09', '10')
    assert [dataset.get_data_info(index)['gt_label'] for index in range(3)] == [0, 1, 0]
