"""A few images in the layout of every public data set that a config reads, made from the demo data.

Names, folders, file formats and label values are the public ones; the images are digits over photographs, so
results mean nothing.
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
    """Write all layouts into a folder.

    Args:
        root: An existing folder; 'imagenet', 'tiny-imagenet', 'cifar10', 'pool', 'coco', 'coco_minis',
            'sa1b', 'VOCdevkit', 'bccd', 'ade', 'cityscapes', 'camvid' and 'demo' are created in it.
        demo: Folder of :func:`mmssl.data.demo.make_demo_data`, with 'crops' and 'scenes'.

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
    images = [Image.open(scenes / 'images/train' / f'{stem}.jpg').convert('RGB') for stem in stems['train']]
    for name, (classes, side) in FOLDERS.items():
        _classify(root / name, images, classes, side)
    (root / 'pool').mkdir()
    for index, image in enumerate(images):
        image.save(root / 'pool' / f'{index}.jpg')
    for split in stems:
        coco = _instances(scenes, split, stems[split], CocoDataset.METAINFO['classes'])
        for image_folder, annotations in (
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
            _copy(scenes / 'images' / split, root / image_folder, stems[split])
            (root / annotations).parent.mkdir(parents=True, exist_ok=True)
            (root / annotations).write_text(json.dumps(coco))
        _segment_anything(scenes / 'images' / split, root / 'sa1b' / split, coco)
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


def _classify(folder: Path, images: list, classes: int, side: int) -> None:
    """Write ``{train,val}/<class>/0.jpg``, one image per class."""
    for index, image in enumerate(images):
        image.resize((side, side)).save(folder.with_name(f'{folder.name}_{index}.jpg'))
    for split in ('train', 'val'):
        for label in range(classes):
            class_folder = folder / split / f'class_{label:03d}'
            class_folder.mkdir(parents=True)
            os.link(folder.with_name(f'{folder.name}_{label % len(images)}.jpg'), class_folder / '0.jpg')


def _copy(source: Path, target: Path, stems: list[str]) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for stem in stems:
        shutil.copy(source / f'{stem}.jpg', target)


def _instances(scenes: Path, split: str, stems: list[str], classes: tuple[str, ...]) -> dict:
    """Return the annotations of the scenes with COCO's 80 names; digit n becomes class n."""
    content = json.loads((scenes / f'annotations/instances_{split}.json').read_text())
    images = [image for image in content['images'] if Path(image['file_name']).stem in stems]
    image_ids = {image['id'] for image in images}
    return dict(
        images=images,
        annotations=[
            annotation for annotation in content['annotations'] if annotation['image_id'] in image_ids
        ],
        categories=[dict(id=label, name=name) for label, name in enumerate(classes, 1)],
    )


def _segment_anything(source: Path, target: Path, coco: dict) -> None:
    """Write SA-1B: a JSON file with masks beside every image."""
    _copy(source, target, [Path(image['file_name']).stem for image in coco['images']])
    for image in coco['images']:
        masks = [
            dict(annotation, predicted_iou=0.95, stability_score=0.97)
            for annotation in coco['annotations']
            if annotation['image_id'] == image['id']
        ]
        (target / image['file_name']).with_suffix('.json').write_text(
            json.dumps(dict(image=image, annotations=masks))
        )


def _semantic(root: Path, scenes: Path, split: str, stems: list[str]) -> None:
    """Write VOC 2012 with the additional annotations, ADE20K, Cityscapes and CamVid.

    The demo's values 0 to 10 are valid labels of all of them.
    """
    voc, long_name = root / 'VOCdevkit/VOC2012', {'train': 'training', 'val': 'validation'}[split]
    ade, city = root / 'ade/ADEChallengeData2016', root / 'cityscapes'
    for stem in stems:
        image, label = scenes / 'images' / split / f'{stem}.jpg', scenes / 'labels' / split / f'{stem}.png'
        values = Image.fromarray(np.asarray(Image.open(label)))
        files = [
            (voc / 'JPEGImages', '.jpg', image),
            (voc / 'SegmentationClass', '.png', values),
            (voc / 'SegmentationClassAug', '.png', values),
            (ade / 'images' / long_name, '.jpg', image),
            (ade / 'annotations' / long_name, '.png', values),
            (city / 'leftImg8bit' / split / 'town', '_leftImg8bit.png', image),
            (city / 'gtFine' / split / 'town', '_gtFine_labelTrainIds.png', values),
            (root / 'camvid/images' / split, '.jpg', image),
            (root / 'camvid/labels' / split, '.png', values),
        ]
        for folder, suffix, content in files:
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
    """Write VOC's XML files with other names of classes."""
    source = scenes / 'VOC2007'
    for name, stems in splits.items():
        _copy(source / 'JPEGImages', folder / 'JPEGImages', stems)
        for subfolder in ('Annotations', 'ImageSets/Main'):
            (folder / subfolder).mkdir(parents=True, exist_ok=True)
        (folder / 'ImageSets/Main' / f'{name}.txt').write_text('\n'.join(stems) + '\n')
        for stem in stems:
            text = (source / f'Annotations/{stem}.xml').read_text()
            for digit in range(10):
                text = text.replace(f'digit_{digit}<', f'{classes[digit % len(classes)]}<')
            (folder / f'Annotations/{stem}.xml').write_text(text)
