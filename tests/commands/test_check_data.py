"""``mmssl check-data``: counts that were made by hand, every fault by name, the exit status, the pictures."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from mmssl.cli import main
from mmssl.data.checks.labels import LabelRange
from mmssl.data.checks.settings import innermost_datasets
from mmssl.visualization.contact_sheet import contact_sheet, draw_sample

MAE = 'smoke/mae.py'


def check(capsys, *arguments):
    status = main(['check-data', *map(str, arguments)])
    done = capsys.readouterr()
    return status, done.out, done.err


@pytest.fixture
def scenes(demo_data, tmp_path):
    """A copy of the demo scenes, to be damaged."""
    return shutil.copytree(
        demo_data / 'scenes', tmp_path / 'scenes', ignore=shutil.ignore_patterns('VOC2007')
    )


def coco(scenes, change):
    path = scenes / 'annotations/instances_train.json'
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    return content


def image(path, size=(20, 10), value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)


def test_folder_of_images(tmp_path, capsys):
    for number in range(3):
        image(tmp_path / f'a/{number}.png', value=number)
    image(tmp_path / 'b/x.png', (40, 30), 9)
    (tmp_path / 'b/bad.png').write_bytes(b'no image')
    status, out, _ = check(capsys, MAE, '--data', tmp_path, '--out', tmp_path / 'out')
    assert status == 0, out
    lines = [' '.join(line.split()) for line in out.splitlines()]
    assert (
        'images 5' in lines
        and 'bad files 1' in lines
        and f'{tmp_path}/b/bad.png: no known image format' in lines
    )
    assert 'size 20x10 the smallest, 20x10 median, 40x30 the largest' in lines
    assert [line.split()[:4] for line in lines if line.startswith(('a ', 'b '))] == [
        ['a', '3', '75.0', '%'],
        ['b', '1', '25.0', '%'],
    ]
    assert '1 of 5 images cannot be read; they are skipped' in out
    assert (tmp_path / 'out/bad_files.txt').read_text() == f'{tmp_path}/b/bad.png\tno known image format\n'
    facts = json.loads((tmp_path / 'out/check.json').read_text())[0]['facts']
    assert (facts['kind'], facts['images'], facts['classes']) == ('images', 5, dict(a=3, b=1))
    with Image.open(tmp_path / 'out/contact_sheet.png') as sheet:
        assert sheet.width > 224 and len(sheet.getcolors(1 << 20)) > 5


def test_too_many_bad_files_and_copies(tmp_path, capsys):
    for number in range(6):
        image(tmp_path / f'{number}.png', value=number)
    shutil.copy(tmp_path / '0.png', tmp_path / 'copy.png')
    for number in range(4):
        (tmp_path / f'bad{number}.png').touch()
    status, out, _ = check(capsys, MAE, '--data', tmp_path)
    assert status == 1
    assert (
        '4 of 11 images cannot be read, 3 are allowed' in out
        and '2 files have the same bytes as another' in out
    )
    assert 'labels     none' in out


def test_processes_give_what_one_does(demo_data, capsys):
    out = [
        check(capsys, MAE, '--data', demo_data / 'imagenet', '--workers', workers, '--max-images', 150)
        for workers in (0, 2)
    ]
    assert out[0] == out[1] and out[0][0] == 0
    assert '150 of 1,500 checked' in out[0][1]


def test_detection(scenes, capsys):
    pytest.importorskip('mmdet')

    def change(content):
        content['annotations'] = [entry for entry in content['annotations'] if entry['image_id'] != 3]
        content['annotations'][0]['bbox'] = [300, 200, 90, 90]
        content['images'][4].update(width=240, height=320)

    content = coco(scenes, change)
    status, out, _ = check(capsys, 'smoke/rfcn.py', '--data', scenes, '--out', scenes / 'out')
    assert status == 1, out
    assert (
        'box beyond the image' in out
        and 'the annotations say 240x320, the file is 320x240' in out
        and '1 images without objects' in out
    )
    facts = json.loads((scenes / 'out/check.json').read_text())[0]['facts']
    named = {category['id']: category['name'] for category in content['categories']}
    labels = [named[entry['category_id']] for entry in content['annotations']]
    assert facts['classes'] == {name: labels.count(name) for name in named.values()} and facts[
        'objects'
    ] == len(labels)
    status, out, _ = check(
        capsys, 'smoke/rfcn.py', '--data', scenes, '--cfg-options', 'model.roi_head.bbox_head.num_classes=9'
    )
    assert status == 1
    text = ' '.join(out.split())
    assert (
        'label 9 is none of the 9 classes, 0 to 8' in text
        and 'set model.roi_head.bbox_head.num_classes=10' in text
    )


def test_ids_that_are_there_twice(scenes, capsys):
    pytest.importorskip('mmdet')

    def change(content):
        content['annotations'][3]['id'] = content['annotations'][2]['id']

    coco(scenes, change)
    status, out, _ = check(capsys, 'smoke/rfcn.py', '--data', scenes)
    assert status == 1
    assert 'several annotations have the id 3; every id must be unique' in ' '.join(out.split())


def test_images_that_are_not_listed(scenes, capsys):
    pytest.importorskip('mmdet')
    coco(scenes, lambda content: content['annotations'][7].update(image_id=999))
    status, out, _ = check(capsys, 'smoke/rfcn.py', '--data', scenes)
    assert status == 1
    assert '1 annotations have a image_id that is not listed: image_id 999 of annotation 8' in ' '.join(
        out.split()
    )


@pytest.mark.parametrize(
    'change, problem, note',
    [
        (lambda entry: entry.pop('iscrowd'), '', 'annotations have no iscrowd: 0 is used'),
        (lambda entry: entry.pop('area'), '', 'annotations have no area'),
        (lambda entry: entry.update(bbox=[str(x) for x in entry['bbox']]), '', 'boxes written as text'),
        (lambda entry: entry.update(image_id=str(entry['image_id'])), '', 'not listed, except as int'),
        (lambda entry: entry.update(bbox=[x / 320 for x in entry['bbox']]), 'multiply them by the size', ''),
        (lambda entry: entry.update(bbox=entry['bbox'][:3]), 'annotation 1 has the box', ''),
    ],
)
def test_boxes_are_checked_and_completed_as_for_training(scenes, capsys, change, problem, note):
    pytest.importorskip('mmdet')
    coco(scenes, lambda content: [change(entry) for entry in content['annotations']])
    status, out, _ = check(capsys, 'smoke/rfcn.py', '--data', scenes)
    text = ' '.join(out.split())
    assert status == bool(problem) and problem in text and note in text
    assert text.count('problem:') == bool(problem)


def test_categories_that_are_no_class_and_misspelt_ones(scenes, capsys):
    pytest.importorskip('mmdet')
    coco(scenes, lambda content: content['categories'][3].update(name='fourteen'))
    status, out, _ = check(capsys, 'smoke/rfcn.py', '--data', scenes)
    assert status == 0 and 'are left out: fourteen' in ' '.join(out.split())
    coco(scenes, lambda content: content['categories'][3].update(name='Digit 3'))
    status, out, _ = check(capsys, 'smoke/rfcn.py', '--data', scenes)
    assert status == 1 and "but 'Digit 3' is one and no class" in ' '.join(out.split())


def test_pascal_voc(demo_data, tmp_path, capsys):
    pytest.importorskip('mmdet')
    root = shutil.copytree(demo_data / 'scenes/VOC2007', tmp_path / 'voc/VOC2007').parent
    (root / 'VOC2007/ImageSets/Main/few.txt').write_text('scene_0001\nscene_0002\nscene_0002\n')
    file = root / 'VOC2007/Annotations/scene_0001.xml'
    file.write_text(
        file.read_text()
        .replace('<name>digit_', '<name>ziffer_', 1)
        .replace(
            '</annotation>',
            """
<object><name/><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>""",
        )
    )
    (tmp_path / 'voc.py').write_text(f"""
_base_ = 'mmssl::smoke/rfcn.py'
train_dataloader = dict(dataset=dict(_delete_=True, type='RepeatDataset', times=2, dataset=dict(
    type='VOCDataset', data_root='{root}', ann_file='VOC2007/ImageSets/Main/few.txt',
    data_prefix=dict(sub_data_root='VOC2007/'),
    metainfo=dict(classes=tuple(f'digit_{{n}}' for n in range(10))), pipeline={{{{_base_.train_pipeline}}}})))
""")
    status, out, _ = check(capsys, tmp_path / 'voc.py')
    text = ' '.join(out.split())
    assert status == 0, out
    assert (
        'images 3' in text
        and '1 paths more than once' in text
        and '1 image ids more than once: scene_0002' in text
    )
    assert 'which is not a class' in text and "objects named 'ziffer_" in text and "objects named ''" in text


def test_negative_labels_of_data_without_known_classes(scenes):
    labels = np.array(Image.open(next((scenes / 'labels/train').iterdir()))).astype(np.int32)
    valid = LabelRange(num_classes=None, ignore_index=255)
    assert valid.errors([*np.unique(labels), -1]) == ('label -1 is below 0',)


def test_label_maps(scenes, capsys):
    pytest.importorskip('mmseg')
    files = sorted((scenes / 'labels/train').iterdir())
    labels = [np.array(Image.open(file)) for file in files]
    labels[0][:2] = 77
    Image.fromarray(labels[0]).save(files[0])
    Image.fromarray(labels[1][:10]).save(files[1])
    files[2].unlink()
    Image.fromarray(np.zeros((240, 320, 3), np.uint8)).save(files[3])
    Image.fromarray(labels[4].astype(np.uint16) + 300).save(files[4])
    Image.fromarray(np.full_like(labels[5], 255)).save(files[5])
    status, out, _ = check(capsys, 'smoke/gcn.py', '--data', scenes, '--out', scenes / 'out')
    text = ' '.join(out.split())
    assert status == 1
    for words in (
        'label 77 is none of the 11 classes, 0 to 10, nor the ignored 255',
        'label map of 320x10 for an image of 320x240',
        'scene_0003.png does not exist',
        'label 300 is none of the 11 classes',
        '1 label maps with ignored pixels only',
    ):
        assert words in text
    facts = json.loads((scenes / 'out/check.json').read_text())[0]['facts']
    good = [labels[0], np.zeros((240, 320)), *labels[6:]]  # three equal channels are one
    assert list(facts['classes'].values()) == [
        sum(int((one == label).sum()) for one in good) for label in range(11)
    ]


def test_label_maps_that_mmsegs_loader_reads_otherwise(scenes, capsys):
    pytest.importorskip('mmseg')
    files = sorted((scenes / 'labels/train').iterdir())
    Image.fromarray(np.zeros((240, 320, 3), np.uint8)).save(files[3])
    Image.fromarray(np.array(Image.open(files[4])).astype(np.uint16) + 300).save(files[4])
    loader = '--cfg-options', 'train_dataloader.dataset.pipeline.1.type=LoadAnnotations'
    status, out, _ = check(capsys, 'smoke/gcn.py', '--data', scenes, *loader)
    text = ' '.join(out.split())
    assert status == 1
    assert 'label map of 3 channels' in text and 'label map of 16 bits with values above 255' in text


def test_masks_of_0_and_255(scenes, capsys):
    pytest.importorskip('mmseg')
    for file in (scenes / 'labels/train').iterdir():
        Image.fromarray(np.uint8(255) * (np.array(Image.open(file)) > 0)).save(file)
    status, out, _ = check(capsys, 'smoke/gcn.py', '--data', scenes)
    text = ' '.join(out.split())
    assert status == 1 and 'no pixel of 10 classes' in text and 'binary=True' in text
    assert '% of the pixels ignored' in text


def test_labels_from_1_with_0_for_unlabelled(scenes, capsys):
    pytest.importorskip('mmseg')
    for file in (scenes / 'labels/train').iterdir():
        Image.fromarray(np.array(Image.open(file)) + np.uint8(1)).save(file)
    status, out, _ = check(capsys, 'smoke/gcn.py', '--data', scenes)
    assert status == 1 and 'if 0 means unlabelled, set reduce_zero_label=True' in ' '.join(out.split())


def test_masks_to_prompt_for(scenes, capsys):
    coco(scenes, lambda content: content['annotations'].__delitem__(slice(0, 8)))
    content = json.loads((scenes / 'annotations/instances_train.json').read_text())
    left = len(content['images']) - len({entry['image_id'] for entry in content['annotations']})
    status, out, _ = check(capsys, 'smoke/sam.py', '--data', scenes)
    assert status == 0, out
    assert f'masks      {len(content["annotations"])};' in out and f'{left} of 60 images are left out' in out


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        ((MAE, '--split', 'val'), 'has no val_dataloader; it has train_dataloader'),
        ((MAE, '--number', '-1'), '--number -1 must be at least 1'),
        ((MAE, '--data', 'nowhere'), '--data nowhere does not exist'),
        (('smoke/mea.py',), "did you mean 'smoke/mae.py'"),
    ],
)
def test_refusals(arguments, words, capsys):
    status, _, err = check(capsys, *arguments)
    assert status == 1 and words in err.splitlines()[0]


def test_data_set_that_cannot_be_made(tmp_path, capsys):
    (tmp_path / 'empty').mkdir()
    status, out, _ = check(capsys, MAE, '--data', tmp_path / 'empty')
    assert (
        status == 1
        and 'the data set cannot be made: ' in out
        and "empty has no 'train'" in ' '.join(out.split())
    )


@pytest.mark.parametrize(
    'name',
    [
        'gcn/gcn_resnet50_4xb4-40000i_voc12aug-512x512.py',
        'sam/sam_vit-b-lora_8xb4-amp-20000i_coco-1024.py',
        MAE,
    ],
)
def test_data_that_is_not_there(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if name.startswith('gcn'):
        pytest.importorskip('mmseg')
    more = ['--cfg-options', 'train_dataloader.dataset.data_root=data/none'] if name == MAE else []
    status, out, _ = check(capsys, name, *more)
    text = ' '.join(out.split())
    assert (
        status == 1 and 'does not exist' in text and '--data DIR points the config at your own folder' in text
    )


def test_transform_that_fails(demo_data, capsys):
    status, out, _ = check(
        capsys,
        MAE,
        '--data',
        demo_data / 'imagenet',
        '--max-images',
        '20',
        '--cfg-options',
        'train_dataloader.dataset.pipeline.0.scale=a',
    )
    assert status == 1 and 'problem: ' in out


def test_leaves_of_wrappers():
    one, two = dict(type='A'), dict(type='B')
    assert list(
        innermost_datasets(dict(type='Repeat', dataset=dict(type='Concat', datasets=[one, two])))
    ) == [
        one,
        two,
    ]


def test_sheet_shows_the_label():
    pixels = np.full((40, 80, 3), 255, np.uint8)
    tile = draw_sample(
        pixels, dict(boxes=[[10, 10, 30, 30]], names=[1]), ('a', 'b'), [(0, 0, 255), (255, 0, 0)], 160
    )
    assert tile.size == (160, 80) and tile.getpixel((20, 40)) == (255, 0, 0)
    tile = draw_sample(pixels, dict(map=np.ones((40, 80), int)), ('a', 'b'), [(0, 0, 255), (255, 0, 0)], 160)
    assert tile.getpixel((80, 40))[0] > tile.getpixel((80, 40))[2]
    sheet = contact_sheet([(tile, 'x' * 200, 'b')] * 5, 'title', size=160)
    assert sheet.width == 4 * 170 + 10
