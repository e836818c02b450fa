"""Scenes of digits over photographs with boxes, instance masks and label maps, in the standard formats.

::

    scenes/images/{train,val}/*.jpg
    scenes/annotations/instances_{train,val}.json               COCO, for mmdet.CocoDataset
    scenes/labels/{train,val}/*.png                             for mmseg.BaseSegDataset: 0 is background,
                                                                1 to 10 are the digits 0 to 9
    scenes/VOC2007/{JPEGImages,Annotations,ImageSets/Main}      PASCAL VOC, for mmdet.VOCDataset
"""

import colorsys
import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from mmssl.data.demo_parts import CLASSES, digit_mask, paint, photo_crop, save_jpeg

WIDTH, HEIGHT = 320, 240
SCENES = dict(train=60, val=20)
# fraction of a digit that must stay visible when others cover it
MIN_VISIBLE = 0.7


def write_scenes(
    root: Path, rng: np.random.Generator, photos: dict, digits: np.ndarray, labels: np.ndarray, split: dict
) -> None:
    """Write the images and annotations of all scenes.

    Args:
        root: Folder to create.
        rng: Generator of all random draws.
        photos: Name -> (H, W, 3) uint8.
        digits: (N, 8, 8) in [0, 1].
        labels: (N,) digits 0 to 9.
        split: 'train' and 'val' -> disjoint indices into ``digits``.
    """
    voc = root / 'VOC2007'
    for folder in (root / 'annotations', voc / 'JPEGImages', voc / 'Annotations', voc / 'ImageSets' / 'Main'):
        folder.mkdir(parents=True)
    image_id = 0
    for name, count in SCENES.items():
        images, stems = [], []
        annotations: list[dict] = []
        for folder in (root / 'images' / name, root / 'labels' / name):
            folder.mkdir(parents=True)
        for _ in range(count):
            image_id += 1
            stem = f'scene_{image_id:04d}'
            canvas, instance_ids, classes = _draw_scene(rng, photos, digits, labels, split[name])
            save_jpeg(root / 'images' / name / f'{stem}.jpg', canvas)
            shutil.copy(root / 'images' / name / f'{stem}.jpg', voc / 'JPEGImages')
            _save_labels(root / 'labels' / name / f'{stem}.png', instance_ids, classes)
            instances = [(label, instance_ids == index) for index, label in enumerate(classes, 1)]
            _save_voc(voc / 'Annotations' / f'{stem}.xml', stem, instances)
            images.append(dict(id=image_id, file_name=f'{stem}.jpg', width=WIDTH, height=HEIGHT))
            for label, mask in instances:
                annotations.append(_coco_annotation(len(annotations) + 1, image_id, label, mask))
            stems.append(stem)
        _save_coco(root / 'annotations' / f'instances_{name}.json', images, annotations)
        for list_name in dict(train=('train', 'trainval'), val=('val', 'test'))[name]:
            (voc / 'ImageSets' / 'Main' / f'{list_name}.txt').write_text('\n'.join(stems) + '\n')


def _draw_scene(
    rng: np.random.Generator, photos: dict, digits: np.ndarray, labels: np.ndarray, indices: np.ndarray
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """Draw one scene.

    Returns:
        (H, W, 3) canvas, (H, W) index of the visible digit, from 1 (0: background), and the class, 0 to 9, of
        each digit.
    """
    canvas = photo_crop(rng, photos, WIDTH, HEIGHT) * rng.uniform(0.7, 1.0)
    instance_ids = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    areas: list[int] = []
    classes: list[int] = []
    num_digits = int(rng.integers(2, 7))
    for _ in range(20 * num_digits):
        if len(classes) == num_digits:
            break
        index = rng.choice(indices)
        ink = digit_mask(digits[index], int(rng.integers(40, 115)), rng.uniform(-20, 20))
        left, top = rng.integers(WIDTH - ink.shape[1] + 1), rng.integers(HEIGHT - ink.shape[0] + 1)
        trial = instance_ids.copy()
        trial[top : top + ink.shape[0], left : left + ink.shape[1]][ink > 0.5] = len(classes) + 1
        visible = np.bincount(trial.ravel(), minlength=len(classes) + 2)[1:]
        if any(pixels < MIN_VISIBLE * area for pixels, area in zip(visible, areas, strict=False)):
            continue
        paint(rng, canvas, ink, left, top)
        instance_ids = trial
        areas.append(visible[-1])
        classes.append(int(labels[index]))
    return canvas, instance_ids, classes


def _save_labels(path: Path, instance_ids: np.ndarray, classes: list[int]) -> None:
    table = np.array([0] + [label + 1 for label in classes], dtype=np.uint8)
    image = Image.fromarray(table[instance_ids])
    image.putpalette(
        [0, 0, 0]
        + [round(255 * value) for hue in range(10) for value in colorsys.hsv_to_rgb(hue / 10, 0.8, 1.0)]
    )
    image.save(path)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Return left, top, right, bottom of the nonzero pixels; right and bottom are exclusive."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _save_coco(path: Path, images: list[dict], annotations: list[dict]) -> None:
    categories = [dict(id=label, name=name, supercategory='digit') for label, name in enumerate(CLASSES, 1)]
    coco = dict(
        info=dict(description='digits over photographs'),
        licenses=[],
        images=images,
        annotations=annotations,
        categories=categories,
    )
    path.write_text(json.dumps(coco, separators=(',', ':')))


def _coco_annotation(annotation_id: int, image_id: int, label: int, mask: np.ndarray) -> dict:
    left, top, right, bottom = _box(mask)
    # uncompressed RLE (COCO's maskApi.c): lengths of alternating runs of 0 and 1, in column order, starting
    # with 0
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    ends = np.concatenate([[0], edges, [] if edges[-1] == mask.size else [mask.size]])
    counts = [int(run) for run in np.diff(ends)]
    return dict(
        id=annotation_id,
        image_id=image_id,
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
        instance = ElementTree.SubElement(root, 'object')
        for key, text in dict(name=CLASSES[label], pose='Unspecified', truncated='0', difficult='0').items():
            ElementTree.SubElement(instance, key).text = text
        box = ElementTree.SubElement(instance, 'bndbox')
        # VOC counts pixels from 1 and includes the last one
        for key, value in dict(xmin=left + 1, ymin=top + 1, xmax=right, ymax=bottom).items():
            ElementTree.SubElement(box, key).text = str(value)
    ElementTree.indent(root)
    path.write_text(ElementTree.tostring(root, encoding='unicode') + '\n')
