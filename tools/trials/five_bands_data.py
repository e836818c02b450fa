"""The images of five_bands.py: photographs in four bands, a texture in the fifth.

Every image has five bands of uint16, 0 to 4095. Bands 1 to 3 are the colors of one photograph, band 4 the
grey values of another one, drawn without regard to the class; no photograph is used for bands 1 to 3 twice,
nor for training and for validation. Band 5 is a texture of one of four families:

    0  stripes: a wave
    1  checks: two waves at 90 degrees
    2  spots: three waves at 60 degrees
    3  noise: isotropic noise of the same range of wavelengths

The wavelength is drawn from 5 to 9 pixels, orientation and phases are drawn, and values are replaced by their
ranks, so that every texture has the same histogram: no mean, deviation or other statistic of single pixels
tells the families apart. Then a contrast is drawn from 0.4 to 1, and noise of 15 % of the range is added.
"""

import json
import os
import zipfile
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image

FAMILIES = ('stripes', 'checks', 'spots', 'noise')
WAVELENGTHS = (5.0, 9.0)
ANGLES = {'stripes': (0,), 'checks': (0, 90), 'spots': (0, 60, 120)}
FIELD = 128


def texture(family: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return a texture (size, size) whose values are evenly spread over [-1, 1]."""
    wavelength = rng.uniform(*WAVELENGTHS)
    if family == 'noise':
        frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing='ij'))
        band = np.exp(-(((frequency * wavelength - 1) / 0.15) ** 2) / 2)
        values = np.fft.ifft2(np.fft.fft2(rng.standard_normal((size, size))) * band).real
    else:
        start = rng.uniform(0, np.pi)
        y, x = np.mgrid[:size, :size]
        values = np.zeros((size, size))
        for angle in ANGLES[family]:
            direction = start + np.deg2rad(angle)
            phase = 2 * np.pi * (x * np.cos(direction) + y * np.sin(direction)) / wavelength
            values += np.cos(phase + rng.uniform(0, 2 * np.pi))
    ranks = np.empty(size * size)
    ranks[np.argsort(values, axis=None)] = np.linspace(-1, 1, size * size)
    return ranks.reshape(size, size) * rng.uniform(0.4, 1)


def band(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return values of about [-1, 1] as uint16, with noise."""
    noisy = values + 0.15 * rng.standard_normal(values.shape)
    return np.clip(2048 + 1500 * noisy, 0, 4095).astype(np.uint16)


def write_bands(path: Path, color: np.ndarray, grey: np.ndarray, last: np.ndarray) -> None:
    """Write a planar TIFF of the photographs, (H, W, 3) and (H, W) uint8, and the last band."""
    photographs = np.concatenate([color.transpose(2, 0, 1), grey[None]]).astype(np.uint16) * 16
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(
        path, np.concatenate([photographs, last[None]]), planarconfig='separate', photometric='minisblack'
    )


def grey_of(color: np.ndarray) -> np.ndarray:
    """Return the grey values of (H, W, 3) RGB."""
    return cv2.cvtColor(color, cv2.COLOR_RGB2GRAY)


def write_sheets(data: Path, out: Path, train: int = 400, val: int = 100) -> None:
    """Write class folders of 64x64 pixels, ``train`` and ``val`` images of each family."""
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(data / 'tiny_imagenet_20c.zip') as archive:
        for part, count in (('train', train), ('val', val)):
            names = sorted(n for n in archive.namelist() if n.startswith(f'{part}/') and n.endswith('JPEG'))
            order = rng.permutation(len(names))
            total = count * len(FAMILIES)
            for index in range(total):
                family = FAMILIES[index % len(FAMILIES)]
                color, other = (
                    np.asarray(Image.open(archive.open(names[order[each]])).convert('RGB'))
                    for each in (index, (index + total // 2 + 1) % len(names))
                )
                last = band(texture(family, 64, rng), rng)
                write_bands(out / part / family / f'{index:05d}.tif', color, grey_of(other), last)


def write_fields(data: Path, out: Path, train: int = 48, val: int = 80) -> None:
    """Write 128x128 pixels of which one to three ellipses have a texture of the first three families.

    The rest of band 5 has the fourth. ``out/maps`` has images and label maps, ``out/boxes`` COCO's layout.
    """
    rng = np.random.default_rng(1)
    for part, count in (('train', train), ('val', val)):
        files = sorted((data / 'imagenette' / part).rglob('*.JPEG'))
        order = rng.permutation(len(files))
        images: list[dict] = []
        annotations: list[dict] = []
        for index in range(count):
            color, other = (_square(files[order[each]]) for each in (2 * index, (2 * index + 1) % len(files)))
            last, labels, boxes = _field(rng)
            name = f'{part}_{index:03d}'
            path = out / 'maps/images' / part / f'{name}.tif'
            write_bands(path, color, grey_of(other), last)
            link = out / 'boxes' / part / path.name
            link.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, link)
            target = out / 'maps/labels' / part / f'{name}.png'
            target.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(labels).save(target)
            images.append(dict(id=index, file_name=path.name, width=FIELD, height=FIELD))
            for label, box in boxes:
                area = box[2] * box[3]
                entry = dict(id=len(annotations) + 1, image_id=index, category_id=label, bbox=box, area=area)
                annotations.append(dict(entry, iscrowd=0))
        categories = [dict(id=label, name=name) for label, name in enumerate(FAMILIES[:3], 1)]
        content = dict(images=images, annotations=annotations, categories=categories)
        (out / 'boxes/annotations').mkdir(parents=True, exist_ok=True)
        (out / f'boxes/annotations/instances_{part}.json').write_text(json.dumps(content))
    (out / 'maps/classes.txt').write_text('\n'.join(['background', *FAMILIES[:3]]) + '\n')


def _square(path: Path) -> np.ndarray:
    """Return the center of a photograph, (128, 128, 3) RGB."""
    image = Image.open(path).convert('RGB')
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)).resize((FIELD, FIELD)))


def _field(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[tuple[int, list[int]]]]:
    """Return band 5, the label map (0 for the background, family + 1), and (label, box) of the ellipses."""
    values = texture('noise', FIELD, rng)
    labels = np.zeros((FIELD, FIELD), np.uint8)
    boxes: list[tuple[int, list[int]]] = []
    wanted = rng.integers(1, 4)
    for _ in range(100):
        if len(boxes) == wanted:
            break
        half = rng.integers(14, 29, 2)
        x, y = (int(rng.integers(each, FIELD - each)) for each in half)
        box = [x - half[0], y - half[1], 2 * half[0], 2 * half[1]]
        if any(_overlap(box, each) for _, each in boxes):
            continue
        label = int(rng.integers(1, 4))
        mask = np.zeros((FIELD, FIELD), np.uint8)
        cv2.ellipse(mask, (x, y), (int(half[0]), int(half[1])), 0, 0, 360, 1, -1)
        values = np.where(mask, texture(FAMILIES[label - 1], FIELD, rng), values)
        labels[mask > 0] = label
        boxes.append((label, [int(value) for value in box]))
    return band(values, rng), labels, boxes


def _overlap(first: list[int], second: list[int]) -> bool:
    return all(
        first[axis] < second[axis] + second[axis + 2] and second[axis] < first[axis] + first[axis + 2]
        for axis in (0, 1)
    )
