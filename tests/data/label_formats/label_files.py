"""Small sets of labels for tests of their formats."""

from pathlib import Path

import numpy as np
from PIL import Image

from mmssl.data.label_formats import ImageLabels, LabelSet, ObjectLabel
from mmssl.data.label_formats.shapes import encode

CLASSES = ['bolt & nut', 'Ärger', 'a', '3 wheels']
NAMES = ('a b.png', 'sub/ü (1).png', 'sub/deep/empty.png', 'z#1.png')


def write_image(path: Path, size=(40, 30), value=0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).save(path)
    return path


def mask(top, left, bottom, right, size=(30, 40), hole=False):
    values = np.zeros(size, bool)
    values[top:bottom, left:right] = True
    if hole:
        values[top + 1 : bottom - 1, left + 1 : right - 1] = False
    return values


def objects(kind: str) -> list[ObjectLabel]:
    """Objects of a kind: 'boxes', 'polygons' or 'masks'."""
    if kind == 'boxes':
        return [
            ObjectLabel(2, (1.0, 2.0, 11.0, 22.0)),
            ObjectLabel(0, (0.0, 0.0, 40.0, 30.0)),
            ObjectLabel(3, (3.25, 4.5, 20.125, 29.75)),
        ]
    if kind == 'polygons':
        return [
            ObjectLabel(1, (1.0, 2.0, 9.0, 12.5), [[1.0, 2.0, 9.0, 2.0, 9.0, 12.5, 5.25, 10.0]]),
            ObjectLabel(2, (0.0, 0.0, 40.0, 30.0), [[0.0, 0.0, 40.0, 0.0, 40.0, 30.0]]),
        ]
    return [
        ObjectLabel(3, (4.0, 3.0, 12.0, 20.0), rle=encode(mask(3, 4, 20, 12, hole=True))),
        ObjectLabel(0, (0.0, 0.0, 40.0, 30.0), rle=encode(mask(0, 0, 30, 40))),
    ]


def label_set(root: Path, *kinds: str) -> LabelSet:
    """Four images below ``root``/pictures with odd names; the third is empty, the fourth has 'boxes'."""
    images = []
    for index, name in enumerate(sorted(NAMES)):
        path = write_image(root / 'pictures' / name, value=index)
        of_image = [] if index == 1 else [each for kind in kinds for each in objects(kind)]
        images.append(ImageLabels(name, str(path), 40, 30, of_image))
    return LabelSet(str(root), 'coco', CLASSES, images, str(root / 'pictures'))


def comparable(labels: LabelSet) -> list:
    """What a round trip must not change; only COCO states areas."""
    return [
        (
            (image.name, image.width, image.height, image.split, image.label),
            [{**vars(each), 'area': None} for each in image.objects],
        )
        for image in labels.images
    ]
