"""Scenes of digits over photographs with boxes, instance masks and semantic masks, in the formats of the standard data set classes.

scenes/images/{train,val}/*.jpg
scenes/annotations/instances_{train,val}.json     COCO: mmdet.CocoDataset
scenes/labels/{train,val}/*.png                   0 background, 1 to 10 the digits 0 to 9:
mmseg.BaseSegDataset scenes/VOC2007/{JPEGImages,Annotations,ImageSets/Main}    PASCAL VOC: mmdet.VOCDataset
"""

import colorsys
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from mmssl.data.demo import CLASSES, digit_mask, paint, photo_crop, save_jpeg

WIDTH, HEIGHT = 320, 240
SCENES = dict(train=60, val=20)
# at least this share of a digit stays in view when others cover it
LEAST_VISIBLE = 0.7


def write_scenes(
    root: Path, rng: np.random.Generator, photos: dict, digits: np.ndarray, labels: np.ndarray, split: dict
) -> None:
    """Write all scenes.

    Args:
        root: folder to make.
        rng: of all draws.
        photos: name -> (H, W, 3) uint8.
        digits: (N, 8, 8) in [0, 1].
        labels: (N,) digits 0 to 9.
        split: 'train' and 'val' -> indices into ``digits``; a digit of one never stands in a scene of the
            other.
    """
    voc = root / 'VOC2007'
    for folder in (root / 'annotations', voc / 'JPEGImages', voc / 'Annotations', voc / 'ImageSets' / 'Main'):
        folder.mkdir(parents=True)
    number = 0
    for name, count in SCENES.items():
        images, stems = [], []
        annotations: list[dict] = []
        for folder in (root / 'images' / name, root / 'labels' / name):
            folder.mkdir(parents=True)
        for _ in range(count):
            number += 1
            stem = f'scene_{number:04d}'
            canvas, owner, classes = _draw_scene(rng, photos, digits, labels, split[name])
            save_jpeg(root / 'images' / name / f'{stem}.jpg', canvas)
            shutil.copy(root / 'images' / name / f'{stem}.jpg', voc / 'JPEGImages')
            _save_labels(root / 'labels' / name / f'{stem}.png', owner, classes)
            instances = [(label, owner == place) for place, label in enumerate(classes, 1)]
            _save_voc(voc / 'Annotations' / f'{stem}.xml', stem, instances)
            images.append(dict(id=number, file_name=f'{stem}.jpg', width=WIDTH, height=HEIGHT))
            for label, mask in instances:
                annotations.append(_coco_annotation(len(annotations) + 1, number, label, mask))
            stems.append(stem)
        categories = [
            dict(id=label, name=class_name, supercategory='digit')
            for label, class_name in enumerate(CLASSES, 1)
        ]
        coco = dict(
            info=dict(description='digits over photographs'),
            licenses=[],
            images=images,
            annotations=annotations,
            categories=categories,
        )
        (root / 'annotations' / f'instances_{name}.json').write_text(json.dumps(coco, separators=(',', ':')))
        for list_name in dict(train=('train', 'trainval'), val=('val', 'test'))[name]:
            (voc / 'ImageSets' / 'Main' / f'{list_name}.txt').write_text('\n'.join(stems) + '\n')


def _draw_scene(
    rng: np.random.Generator, photos: dict, digits: np.ndarray, labels: np.ndarray, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """One scene: (H, W, 3) canvas, (H, W) number of the digit in view (0: none), and the class 0 to 9 of each digit."""
    canvas = photo_crop(rng, photos, WIDTH, HEIGHT) * rng.uniform(0.7, 1.0)
    owner = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    areas: list[int] = []
    classes: list[int] = []
    wanted = int(rng.integers(2, 7))
    for _ in range(20 * wanted):
        if len(classes) == wanted:
            break
        index = rng.choice(indices)
        ink = digit_mask(digits[index], int(rng.integers(40, 115)), rng.uniform(-20, 20))
        left, top = rng.integers(WIDTH - ink.shape[1] + 1), rng.integers(HEIGHT - ink.shape[0] + 1)
        trial = owner.copy()
        trial[top : top + ink.shape[0], left : left + ink.shape[1]][ink > 0.5] = len(classes) + 1
        in_view = np.bincount(trial.ravel(), minlength=len(classes) + 2)[1:]
        if any(seen < LEAST_VISIBLE * area for seen, area in zip(in_view, areas, strict=False)):
            continue
        paint(rng, canvas, ink, left, top)
        owner = trial
        areas.append(in_view[-1])
        classes.append(int(labels[index]))
    return canvas, owner, classes


def _save_labels(path: Path, owner: np.ndarray, classes: list[int]) -> None:
    table = np.array([0] + [label + 1 for label in classes], dtype=np.uint8)
    picture = Image.fromarray(table[owner])
    picture.putpalette(
        [0, 0, 0]
        + [round(255 * value) for hue in range(10) for value in colorsys.hsv_to_rgb(hue / 10, 0.8, 1.0)]
    )
    picture.save(path)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """left, top, right, bottom of the pixels that are set; right and bottom excluded."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _coco_annotation(number: int, image: int, label: int, mask: np.ndarray) -> dict:
    left, top, right, bottom = _box(mask)
    # uncompressed RLE: column by column, lengths of the runs of 0 and 1 in turn, starting with 0 (COCO's
    # maskApi.c)
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    ends = np.concatenate([[0], edges, [] if edges[-1] == mask.size else [mask.size]])
    counts = [int(run) for run in np.diff(ends)]
    return dict(
        id=number,
        image_id=image,
        category_id=label + 1,
        bbox=[left, top, right - left, bottom - top],
        area=int(mask.sum()),
        iscrowd=0,
        segmentation=dict(size=[HEIGHT, WIDTH], counts=counts),
    )


def _save_voc(path: Path, stem: str, instances: list[tuple[int, np.ndarray]]) -> None:
    root = ElementTree.Element('annotation')
    ElementTree.SubElement(root, 'folder').text = 'VOC2007'
    ElementTree.SubElement(root, 'filename').text = f'{stem}.jpg'
    size = ElementTree.SubElement(root, 'size')
    for key, value in dict(width=WIDTH, height=HEIGHT, depth=3).items():
        ElementTree.SubElement(size, key).text = str(value)
    for label, mask in instances:
        left, top, right, bottom = _box(mask)
        thing = ElementTree.SubElement(root, 'object')
        for key, text in dict(name=CLASSES[label], pose='Unspecified', truncated='0', difficult='0').items():
            ElementTree.SubElement(thing, key).text = text
        box = ElementTree.SubElement(thing, 'bndbox')
        # VOC counts pixels from 1 and includes the last one
        for key, value in dict(xmin=left + 1, ymin=top + 1, xmax=right, ymax=bottom).items():
            ElementTree.SubElement(box, key).text = str(value)
    ElementTree.indent(root)
    path.write_text(ElementTree.tostring(root, encoding='unicode') + '\n')
