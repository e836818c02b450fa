"""A few images in the layout of every public data set that a config of ours reads, made of the demo data.

Names, folders, file formats and label values are the public ones; the pictures are digits over photographs,
so nothing learnt means anything.
"""

import json
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

TRAIN, VAL = 4, 2
# name: classes, side of the images
FOLDERS = {'imagenet': (1000, 256), 'tiny-imagenet': (20, 64), 'cifar10': (10, 32)}


def write_layouts(root: Path, demo: Path) -> Path:
    """Fill a folder.

    Args:
        root: a folder that exists; 'imagenet', 'tiny-imagenet', 'cifar10', 'pool', 'coco', 'coco_minis',
            'sa1b', 'VOCdevkit', 'bccd', 'ade', 'cityscapes', 'camvid' and 'demo' are made in it.
        demo: of :func:`mmssl.data.demo.make_demo_data`, with 'crops' and 'scenes'.

    Returns:
        ``root``.
    """
    from mmdet.datasets import CocoDataset, VOCDataset

    (root / 'demo').symlink_to(demo.resolve())
    scenes = demo / 'scenes'
    stems = {
        'train': sorted(path.stem for path in (scenes / 'images/train').iterdir())[:TRAIN],
        'val': sorted(path.stem for path in (scenes / 'images/val').iterdir())[:VAL],
    }
    pictures = [Image.open(scenes / 'images/train' / f'{stem}.jpg').convert('RGB') for stem in stems['train']]
    for name, (classes, side) in FOLDERS.items():
        _classify(root / name, pictures, classes, side)
    (root / 'pool').mkdir()
    for number, picture in enumerate(pictures):
        picture.save(root / 'pool' / f'{number}.jpg')
    for split in stems:
        marked = _instances(scenes, split, stems[split], CocoDataset.METAINFO['classes'])
        for images, annotations in (
            (f'coco/{split}2017', f'coco/annotations/instances_{split}2017.json'),
            (
                f'coco_minis/coco_mini/{split}2017',
                f'coco_minis/coco_mini/annotations/instances_{split}2017.json',
            ),
            (
                f'coco_minis/coco_light/images/{split}2017',
                f'coco_minis/coco_light/instances_{split}2017.json',
            ),
        ):
            _copy(scenes / 'images' / split, root / images, stems[split])
            (root / annotations).parent.mkdir(parents=True, exist_ok=True)
            (root / annotations).write_text(json.dumps(marked))
        _segment_anything(scenes / 'images' / split, root / 'sa1b' / split, marked)
        _semantic(root, scenes, split, stems[split])
    _boxes(root / 'bccd', scenes, {'train': stems['train'], 'val': stems['val']}, ('RBC', 'WBC', 'Platelets'))
    for year in ('VOC2007', 'VOC2012'):
        _boxes(
            root / 'VOCdevkit' / year,
            scenes,
            {'trainval': stems['train'], 'test': stems['val']},
            VOCDataset.METAINFO['classes'],
        )
    return root


def _classify(folder: Path, pictures: list, classes: int, side: int) -> None:
    """``{train,val}/<class>/0.jpg``: one image a class."""
    for number, picture in enumerate(pictures):
        picture.resize((side, side)).save(folder.with_name(f'{folder.name}_{number}.jpg'))
    for split in ('train', 'val'):
        for number in range(classes):
            place = folder / split / f'class_{number:03d}'
            place.mkdir(parents=True)
            os.link(folder.with_name(f'{folder.name}_{number % len(pictures)}.jpg'), place / '0.jpg')


def _copy(source: Path, target: Path, stems: list[str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        shutil.copy(source / f'{stem}.jpg', target)


def _instances(scenes: Path, split: str, stems: list[str], classes: tuple[str, ...]) -> dict:
    """The scenes' annotations with COCO's 80 names: digit n is its class n."""
    content = json.loads((scenes / f'annotations/instances_{split}.json').read_text())
    images = [image for image in content['images'] if Path(image['file_name']).stem in stems]
    kept = {image['id'] for image in images}
    return dict(
        images=images,
        annotations=[mark for mark in content['annotations'] if mark['image_id'] in kept],
        categories=[dict(id=number, name=name) for number, name in enumerate(classes, 1)],
    )


def _segment_anything(source: Path, target: Path, marked: dict) -> None:
    """SA-1B: beside every image a JSON file with its masks."""
    _copy(source, target, [Path(image['file_name']).stem for image in marked['images']])
    for image in marked['images']:
        masks = [
            dict(mark, predicted_iou=0.95, stability_score=0.97)
            for mark in marked['annotations']
            if mark['image_id'] == image['id']
        ]
        (target / image['file_name']).with_suffix('.json').write_text(
            json.dumps(dict(image=image, annotations=masks))
        )


def _semantic(root: Path, scenes: Path, split: str, stems: list[str]) -> None:
    """VOC 2012 with the additional annotations, ADE20K, Cityscapes and CamVid; the demo's values 0 to 10 are labels of them all."""
    voc, long = root / 'VOCdevkit/VOC2012', {'train': 'training', 'val': 'validation'}[split]
    ade, city = root / 'ade/ADEChallengeData2016', root / 'cityscapes'
    for stem in stems:
        image, label = scenes / 'images' / split / f'{stem}.jpg', scenes / 'labels' / split / f'{stem}.png'
        values = Image.fromarray(np.asarray(Image.open(label)))
        wanted = [
            (voc / 'JPEGImages', '.jpg', image),
            (voc / 'SegmentationClass', '.png', values),
            (voc / 'SegmentationClassAug', '.png', values),
            (ade / 'images' / long, '.jpg', image),
            (ade / 'annotations' / long, '.png', values),
            (city / 'leftImg8bit' / split / 'town', '_leftImg8bit.png', image),
            (city / 'gtFine' / split / 'town', '_gtFine_labelTrainIds.png', values),
            (root / 'camvid/images' / split, '.jpg', image),
            (root / 'camvid/labels' / split, '.png', values),
        ]
        for folder, suffix, content in wanted:
            folder.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path) and content.suffix == Path(suffix).suffix:
                shutil.copy(content, folder / f'{stem}{suffix}')
            else:
                (Image.open(content) if isinstance(content, Path) else content).save(
                    folder / f'{stem}{suffix}'
                )
    lists = voc / 'ImageSets/Segmentation'
    lists.mkdir(parents=True, exist_ok=True)
    for name in {'train': ('train', 'aug'), 'val': ('val',)}[split]:
        (lists / f'{name}.txt').write_text('\n'.join(stems) + '\n')


def _boxes(folder: Path, scenes: Path, splits: dict[str, list[str]], classes: tuple[str, ...]) -> None:
    """VOC's XML files with other names of classes."""
    source = scenes / 'VOC2007'
    for name, stems in splits.items():
        _copy(source / 'JPEGImages', folder / 'JPEGImages', stems)
        for place in ('Annotations', 'ImageSets/Main'):
            (folder / place).mkdir(parents=True, exist_ok=True)
        (folder / 'ImageSets/Main' / f'{name}.txt').write_text('\n'.join(stems) + '\n')
        for stem in stems:
            text = (source / f'Annotations/{stem}.xml').read_text()
            for digit in range(10):
                text = text.replace(f'digit_{digit}<', f'{classes[digit % len(classes)]}<')
            (folder / f'Annotations/{stem}.xml').write_text(text)
