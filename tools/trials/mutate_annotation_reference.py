"""Independent reading of annotation files for :mod:`mutate_annotations`, by the rules of their formats.

Nothing of mmssl or of a toolbox is used; a file that these few lines cannot read has no reference.
"""

import json
import math
import zlib
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from PIL import Image

Boxes = dict[str, list[list[float]]]


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise ValueError(value)
    value = float(value)
    if not math.isfinite(value):
        raise ValueError(value)
    return value


def read_coco(path: Path, classes: list[str]) -> Boxes | None:
    """Return the file name of each image -> sorted [label, crowd, left, top, right, bottom] of objects."""
    try:
        content = json.loads(path.read_bytes())
        names = {str(entry['id']): entry['name'] for entry in content['categories']}
        images = {str(entry['id']): entry for entry in content['images']}
        boxes: Boxes = {entry['file_name']: [] for entry in images.values()}
        for entry in content['annotations']:
            name = names[_id(entry['category_id'])]
            image = images[_id(entry['image_id'])]
            crowd = int(_number(entry.get('iscrowd') or 0))
            box = entry.get('bbox') or _box_of_mask(entry['segmentation'], image)
            left, top, width, height = (_number(value) for value in box)
            inside = left < image['width'] and top < image['height'] and left + width > 0 and top + height > 0
            if name not in classes or entry.get('ignore') or width < 1 or height < 1 or not inside:
                continue
            row = [classes.index(name), crowd, left, top, left + width, top + height]
            boxes[image['file_name']].append(row)
    except (KeyError, TypeError, ValueError, AttributeError, OSError, RecursionError, OverflowError):
        return None
    return {name: sorted(rows) for name, rows in boxes.items()}


def _id(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _box_of_mask(segment: Any, image: dict) -> list[float]:
    if isinstance(segment, list):
        points = np.concatenate([np.reshape(polygon, (-1, 2)) for polygon in segment])
        return [*points.min(0), *(points.max(0) - points.min(0))]
    mask = _decode(segment)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]]


def _decode(segment: dict) -> np.ndarray:
    height, width = segment['size']
    lengths = segment['counts']
    values = np.arange(len(lengths)) % 2
    return np.repeat(values, lengths).reshape(width, height).T.astype(bool)


def read_masks(path: Path) -> dict[str, list[int]] | None:
    """Return the file name of each image with masks -> their numbers of pixels, sorted."""
    try:
        content = json.loads(path.read_bytes())
        images = {str(entry['id']): entry for entry in content['images']}
        areas: dict[str, list[int]] = {}
        ids = set()
        for entry in content['annotations']:
            image, segment = images[_id(entry['image_id'])], entry.get('segmentation')
            repeated = entry.get('id') in ids if 'id' in entry else False
            ids.add(entry.get('id'))
            size = image['height'], image['width']
            box = entry.get('bbox')
            if box is not None and (len(box) != 4 or min(map(_number, box[2:])) <= 0):
                continue
            if repeated or entry.get('iscrowd') or not segment or _number(entry.get('area', 1)) <= 0:
                continue
            if isinstance(segment, list) and min(map(len, segment)) < 6:
                continue
            if isinstance(segment, dict) and tuple(segment['size']) != size:
                continue
            areas.setdefault(image['file_name'], []).append(_area(segment, size))
    except (KeyError, TypeError, ValueError, AttributeError, OSError, RecursionError, OverflowError):
        return None
    return {name: sorted(values) for name, values in areas.items()}


def _area(segment: Any, size: tuple[int, int]) -> int:
    if isinstance(segment, dict) and isinstance(segment['counts'], list):
        return int(_decode(segment).sum())
    from pycocotools import mask

    code = mask.merge(mask.frPyObjects(segment, *size)) if isinstance(segment, list) else segment
    return int(mask.decode(code).sum())


def read_voc(folder: Path, split: str, classes: list[str], keeps_flat: bool) -> Boxes | None:
    """Return the same for a folder of PASCAL VOC, whose pixels count from 1.

    Args:
        folder: Folder with ImageSets and Annotations.
        split: Name of the list of images.
        classes: Class names.
        keeps_flat: Whether boxes without area count, as in an evaluation.
    """
    boxes: Boxes = {}
    try:
        listing = (folder / f'ImageSets/Main/{split}.txt').read_text(encoding='utf-8')
        for stem in filter(None, map(str.strip, listing.splitlines())):
            rows = []
            root = ElementTree.parse(folder / f'Annotations/{stem}.xml').getroot()
            if len(root.findall('object/bndbox')) != sum('bndbox' in str(node.tag) for node in root.iter()):
                return None  # objects under another name, or in a namespace
            for entry in root.findall('object'):
                name = (entry.findtext('name') or '').strip()
                box = entry.find('bndbox')
                if name not in classes:
                    continue
                corners = [int(_number(box.findtext(key))) - 1 for key in ('xmin', 'ymin', 'xmax', 'ymax')]
                difficult = int(entry.findtext('difficult') or 0)
                if keeps_flat or (corners[2] > corners[0] and corners[3] > corners[1]):
                    rows.append([classes.index(name), int(difficult > 0), *corners])
            boxes[f'{stem}.jpg'] = sorted(rows)
    except (ValueError, TypeError, AttributeError, OSError, SyntaxError, LookupError, OverflowError):
        return None
    return boxes


def read_labels(path: Path) -> np.ndarray | None:
    """Return the labels (H, W) of a PNG, TIFF, BMP or GIF whose checksums are right; None for other files."""
    try:
        data = path.read_bytes() if path.is_file() else b''
        if data.startswith(b'\x89PNG') and not _png_is_intact(data):
            return None
        with Image.open(path) as image:
            if image.format in ('JPEG', 'WEBP') or image.size[0] * image.size[1] > 10**6:
                return None
            values = np.asarray(image)
    except Exception:  # Pillow fails in many ways
        return None
    if values.ndim == 3:
        if values.shape[2] > 2 and not (values[..., :1] == values[..., :3]).all():
            return None
        values = values[..., 0]
    if values.dtype.kind == 'f' or values.min() < 0:
        return None
    return values.astype(np.int64)


def _png_is_intact(data: bytes) -> bool:
    """Compare the checksum of every chunk, and of the pixels together (PNG specification, 5.5 and 10.1)."""
    at, pixels = 8, b''
    while at + 12 <= len(data):
        size = int.from_bytes(data[at : at + 4], 'big')
        chunk, checksum = data[at + 4 : at + 8 + size], data[at + 8 + size : at + 12 + size]
        if zlib.crc32(chunk).to_bytes(4, 'big') != checksum:
            return False
        if chunk[:4] == b'IDAT':
            pixels += chunk[4:]
        at += 12 + size
        if chunk[:4] == b'IEND':
            zlib.decompress(pixels)
            return True
    return False


def differences(got: Boxes, expected: Boxes) -> str:
    """Describe the first image whose objects differ; '' if there is none."""
    if Counter(got.keys()) != Counter(expected.keys()):
        return f'images {sorted(got)[:4]}, not {sorted(expected)[:4]}'
    for name, rows in expected.items():
        found = sorted(got[name])
        if len(found) != len(rows) or not np.allclose(np.array(found), np.array(rows), atol=1e-3):
            return f'{name}: {len(found)} objects {found[:2]}, not {len(rows)}: {rows[:2]}'
    return ''
