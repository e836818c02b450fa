"""Training images of the packaged weights: photographs that may be redistributed, and composites of them.

Of COCO only images under CC BY, CC BY-SA or without known copyright restrictions are used, and of BCCD (MIT)
twenty training images, for the crops.

    python tools/weights/cc_photos.py --coco DIR --bccd DIR --out data/cc-photos

``--coco`` holds coco_mini and coco_light, two small parts of COCO. Written are

    masks/{images,photos.json,composites.json}   masks to train a promptable segmenter on
    crops/train/*.jpg                            96 x 96 pixels, without labels
    sources.csv                                  every photograph with its address and licence
"""

import argparse
import csv
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from masks import blob, cut_out, record, stuff_masks

from mmssl.data.coco_masks import decode_segment

LICENCES = {4: 'CC BY 2.0', 5: 'CC BY-SA 2.0', 7: 'no known copyright restrictions', 8: 'US government work'}
# (annotations, images, label maps of regions without instances) of the training and the validation images
PARTS = {
    'train': (
        ('coco_mini/annotations/instances_train2017.json', 'coco_mini/train2017', None),
        (
            'coco_light/instances_train2017.json',
            'coco_light/images/train2017',
            'coco_light/semantic/train2017',
        ),
    ),
    'val': (
        ('coco_mini/annotations/instances_val2017.json', 'coco_mini/val2017', None),
        ('coco_light/instances_val2017.json', 'coco_light/images/val2017', None),
    ),
}
# pixels of an instance that is pasted into other photographs
MIN_CUT_OUT = 1500
SIDE = 320


class Photo(NamedTuple):
    """A photograph: name, BGR pixels (H, W, 3), masks (H, W) bool, address and licence."""

    name: str
    pixels: np.ndarray
    masks: list[np.ndarray]
    url: str
    licence: str


def read_photos(root: Path, split: str) -> list[Photo]:
    """Read the photographs of a split whose licence is one of ``LICENCES``."""
    photos = []
    for annotations, folder, labels in PARTS[split]:
        content = json.loads((root / annotations).read_text(encoding='utf-8'))
        segments: dict[int, list] = {}
        for each in content['annotations']:
            if not each.get('iscrowd'):
                segments.setdefault(each['image_id'], []).append(each['segmentation'])
        for image in content['images']:
            if image['license'] not in LICENCES:
                continue
            pixels = cv2.imread(str(root / folder / image['file_name']))
            size = pixels.shape[:2]
            masks = [decode_segment(segment, size) for segment in segments.get(image['id'], [])]
            if labels:
                label_map = root / labels / Path(image['file_name']).with_suffix('.png')
                masks += stuff_masks(cv2.imread(str(label_map), cv2.IMREAD_UNCHANGED))
            url = image.get('flickr_url') or image['coco_url']
            photos.append(Photo(image['file_name'], pixels, masks, url, LICENCES[image['license']]))
    return photos


def read_cells(root: Path, count: int = 20) -> list[np.ndarray]:
    """Read the first training images of BCCD."""
    names = (root / 'ImageSets' / 'Main' / 'train.txt').read_text().split()[:count]
    return [cv2.imread(str(root / 'JPEGImages' / f'{name}.jpg')) for name in names]


def compose(
    rng: np.random.Generator, photos: list[Photo], pieces: list
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Paste one to five objects and shapes into a crop of a photograph.

    Returns:
        The composite (H, W, 3), and its masks: of what was pasted, and of the photograph as far as visible.
    """
    background = photos[rng.integers(len(photos))]
    canvas, masks = crop_with_masks(rng, background)
    pasted: list[np.ndarray] = []
    for _ in range(rng.integers(1, 6)):
        if rng.random() < 0.65:
            pixels, mask = pieces[rng.integers(len(pieces))]
            layer, mask = place(rng, pixels, mask, canvas.shape[:2])
        else:
            other = photos[rng.integers(len(photos))]
            layer, _ = crop_with_masks(rng, other, canvas.shape[:2])
            mask = blob(rng, canvas.shape[:2])
        if mask.sum() < 150:
            continue
        gain, shift = rng.uniform(0.75, 1.25), rng.uniform(-25, 25)
        alpha = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), rng.uniform(0.4, 1.0))[..., None]
        layer = np.clip(layer.astype(np.float32) * gain + shift, 0, 255)
        canvas = canvas + alpha * (layer - canvas)
        masks = [each & ~mask for each in masks]
        pasted = [*(each & ~mask for each in pasted), mask]
    return np.clip(canvas, 0, 255).astype(np.uint8), [*masks, *pasted]


def crop_with_masks(
    rng: np.random.Generator, photo: Photo, size: tuple[int, int] | None = None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Cut a random part out of a photograph and resize it to (H, W) ``size``, at random mirrored."""
    height, width = photo.pixels.shape[:2]
    if size is None:
        fraction = rng.uniform(0.5, 1.0)
        factor = SIDE / (fraction * max(height, width))
        size = (min(int(height * factor), SIDE), min(int(width * factor), SIDE))
    factor = min(height / size[0], width / size[1]) * rng.uniform(0.6, 1.0)
    rows, columns = int(size[0] * factor), int(size[1] * factor)
    top, left = rng.integers(height - rows + 1), rng.integers(width - columns + 1)
    step = -1 if rng.random() < 0.5 else 1
    area = np.s_[top : top + rows, left : left + columns]
    pixels = cv2.resize(photo.pixels[area], size[::-1], interpolation=cv2.INTER_AREA)[:, ::step]
    masks = [
        cv2.resize(mask[area].astype(np.uint8) * 255, size[::-1], interpolation=cv2.INTER_AREA)[:, ::step]
        > 127
        for mask in photo.masks
    ]
    return pixels.astype(np.float32), masks


def place(
    rng: np.random.Generator, pixels: np.ndarray, mask: np.ndarray, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Scale, turn, mirror and move a cut-out object over an empty canvas of (H, W) ``size``."""
    height, width = mask.shape
    factor = max(size) * rng.uniform(0.12, 0.65) / max(height, width)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), rng.uniform(-20, 20), factor)
    if rng.random() < 0.5:
        pixels, mask = pixels[:, ::-1], mask[:, ::-1]
    matrix[:, 2] += rng.uniform(0.1, 0.9, 2) * size[::-1] - (width / 2, height / 2)
    layer = cv2.warpAffine(np.ascontiguousarray(pixels), matrix, size[::-1], flags=cv2.INTER_AREA)
    coverage = cv2.warpAffine(mask.astype(np.uint8) * 255, matrix, size[::-1], flags=cv2.INTER_LINEAR)
    return layer, coverage > 127


def write_masks(folder: Path, name: str, images: list[tuple[np.ndarray, list[np.ndarray]]]) -> None:
    """Write images and their masks of at least 30 pixels as a COCO file."""
    content: dict[str, list] = dict(images=[], annotations=[], categories=[dict(id=1, name='object')])
    for index, (pixels, masks) in enumerate(images, 1):
        file_name = f'{name}_{index:04d}.jpg'
        cv2.imwrite(str(folder / 'images' / file_name), pixels, [cv2.IMWRITE_JPEG_QUALITY, 95])
        height, width = pixels.shape[:2]
        content['images'].append(dict(id=index, file_name=file_name, height=height, width=width))
        for mask in masks:
            if mask.sum() >= 30:
                number = len(content['annotations']) + 1
                content['annotations'].append(dict(id=number, image_id=index, **record(mask)))
    (folder / f'{name}.json').write_text(json.dumps(content), encoding='utf-8')


def write_crops(folder: Path, rng: np.random.Generator, images: list[np.ndarray], count: int) -> None:
    """Write square crops of the images, in turn, at random places and scales."""
    folder.mkdir(parents=True)
    for index in range(count):
        pixels = images[index % len(images)]
        side = int(min(pixels.shape[:2]) * rng.uniform(0.25, 1.0))
        top, left = (rng.integers(length - side + 1) for length in pixels.shape[:2])
        crop = cv2.resize(
            pixels[top : top + side, left : left + side], (96, 96), interpolation=cv2.INTER_AREA
        )
        cv2.imwrite(str(folder / f'{index:05d}.jpg'), crop, [cv2.IMWRITE_JPEG_QUALITY, 92])


def main() -> None:
    """Write the images, their masks and the list of sources."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--coco', type=Path, required=True, help='folder with coco_mini and coco_light')
    parser.add_argument('--bccd', type=Path, required=True, help='folder of BCCD')
    parser.add_argument('--out', type=Path, default=Path('data/cc-photos'))
    parser.add_argument('--composites', type=int, default=2000)
    parser.add_argument('--crops', type=int, default=6000)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    photos, others = read_photos(args.coco, 'train'), read_photos(args.coco, 'val')
    pieces = [
        cut_out(photo.pixels, mask) for photo in photos for mask in photo.masks if mask.sum() > MIN_CUT_OUT
    ]
    cells = read_cells(args.bccd)
    (args.out / 'masks' / 'images').mkdir(parents=True)
    write_masks(args.out / 'masks', 'photos', [(photo.pixels, photo.masks) for photo in photos])
    write_masks(
        args.out / 'masks', 'composites', [compose(rng, photos, pieces) for _ in range(args.composites)]
    )
    pictures = [photo.pixels for photo in photos + others] + cells
    write_crops(args.out / 'crops' / 'train', rng, pictures, args.crops)
    with open(args.out / 'sources.csv', 'w', newline='', encoding='utf-8') as file:
        writer = csv.writer(file, lineterminator='\n')
        writer.writerow(('file', 'used for', 'licence', 'address'))
        for group, use in ((photos, 'masks and crops'), (others, 'crops')):
            writer.writerows((photo.name, use, photo.licence, photo.url) for photo in group)
    print(f'{args.out}: {len(photos)} photographs with {len(pieces)} objects to paste, {len(cells)} of cells')


if __name__ == '__main__':
    main()
