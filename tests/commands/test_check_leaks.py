"""``mmssl check-data --duplicates`` on photographs of which two are in both parts."""

import json
import shutil

import pytest
from PIL import Image, ImageOps

from mmssl.cli import main
from mmssl.evaluation.duplicates import fingerprint, is_same_picture, matching_pairs

pytest.importorskip('imagehash')


@pytest.fixture(scope='module')
def folder(data_root, tmp_path_factory):
    """Class folders in train and val; two of the six validation images are training images, too."""
    root = tmp_path_factory.mktemp('leaks')
    files = sorted((data_root / 'imagenette/val').rglob('*.JPEG'))[::33]
    for index, file in enumerate(files):
        target = root / ('val' if index % 2 else 'train') / 'ab'[index % 4 // 2] / f'{index:02d}.jpg'
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    train = sorted((root / 'train').rglob('*.jpg'))
    shutil.copy(train[0], root / 'val/a/copy.jpg')
    ImageOps.mirror(Image.open(train[-1]).convert('RGB')).resize((160, 120)).save(root / 'val/b/small.jpg')
    return root


def test_labels_of_a_folder(folder, tmp_path, capsys):
    out = tmp_path / 'out'
    assert main(['check-data', str(folder), '--duplicates', '--out', str(out)]) == 1
    said = capsys.readouterr().out
    assert '2 of 8 validation images are training images, too' in said
    assert said.rstrip().endswith('2 training images are validation images, too')
    pairs = json.loads((out / 'duplicates.json').read_text())['pairs']
    assert sorted(val.rpartition('/')[2] for _, val, _ in pairs) == ['copy.jpg', 'small.jpg']
    assert {value for _, val, value in pairs if val.endswith('copy.jpg')} == {1.0}
    dropped = (out / 'duplicates_to_drop.txt').read_text().splitlines()
    assert sorted(dropped) == sorted(train for train, _, _ in pairs)
    assert Image.open(out / 'duplicates.png').width > 200
    assert main(['check-data', str(folder)]) == 0


def test_the_data_of_a_config_with_features(folder, tmp_path, capsys):
    import numpy as np

    from mmssl.evaluation.feature_files import write_features

    paths = sorted(map(str, folder.rglob('*.jpg')))
    vectors = np.eye(len(paths), dtype=np.float32)
    first = next(index for index, path in enumerate(paths) if '/train/' in path)
    copy = next(index for index, path in enumerate(paths) if path.endswith('copy.jpg'))
    vectors[copy] = vectors[first]
    write_features(tmp_path / 'f.npy', [(paths, vectors)], len(paths), (len(paths),), {})
    config = tmp_path / 'config.py'
    parts = [
        f"{name}_dataloader = dict(dataset=dict(type='mmpretrain.CustomDataset', pipeline=[], "
        f"data_prefix='{folder}/{name}'))"
        for name in ('train', 'val')
    ]
    text = ["default_scope = 'mmpretrain'", "model = dict(type='ImageClassifier')", *parts]
    config.write_text('\n'.join(text) + '\n')
    assert main(['check-data', str(config), '--duplicates', str(tmp_path / 'f.npy'), '--workers', '0']) == 1
    said = capsys.readouterr().out
    assert 'duplicates: 1 of 8 validation images are training images, too' in said
    write_features(tmp_path / 'g.npy', [(paths[1:], vectors[1:])], len(paths) - 1, (len(paths),), {})
    assert main(['check-data', str(config), '--duplicates', str(tmp_path / 'g.npy'), '--workers', '0']) == 1
    assert 'has no features of 1 of' in capsys.readouterr().err


def test_hashes_alone_find_what_comparing_each_pair_finds(folder):
    import numpy as np

    prints = [
        fingerprint(np.asarray(Image.open(path).convert('RGB'))) for path in sorted(folder.rglob('*.jpg'))
    ]
    first, second = [*prints[:6], None], [None, *prints[4:]]
    expected = {
        (row, column)
        for row, one in enumerate(first)
        for column, other in enumerate(second)
        if one is not None and other is not None and is_same_picture(one, other)
    }
    found = {(pair.first, pair.second) for pair in matching_pairs(first, second)}
    assert found == expected and {(4, 1), (5, 2)} <= found
