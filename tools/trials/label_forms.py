"""The same labels in several forms: ``mmssl finetune`` of each, the losses, weights and metrics compared.

    python tools/trials/label_forms.py BCCD CAMVID --checkpoint CHECKPOINT --output docs/trials/label_forms.md

writes BCCD's boxes as PASCAL VOC, COCO and YOLO and CamVid's label maps as class numbers, with a palette and
as colours with a table, by plain code that shares nothing with the readers. Each form is trained for a few
steps by the command, in a process of its own, and validated. CHECKPOINT is a pre-trained backbone.
"""

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from mmssl.checkpoint import load_file

BCCD_CLASSES = ('Platelets', 'RBC', 'WBC')
SPLITS = ('train', 'val', 'test')
CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
METRICS = {'detect': 'coco/bbox_mAP', 'semantic': 'mIoU'}
CAMVID_CLASSES = (
    'sky', 'building', 'pole', 'road', 'pavement', 'tree', 'sign', 'fence', 'car', 'pedestrian', 'bicyclist',
    'void',
)  # fmt: skip
HEADER = """# The same labels in several forms

BCCD's boxes and CamVid's label maps in three forms each, by

```
{command}
```

Each form is trained by `mmssl finetune` in a process of its own ({iters} steps, images of at most {size}
pixels, seed 0) and validated. "Weights" is a digest of the values of all weights after the last step,
"losses" one of the loss of every step in full digits; the metrics of each class are compared, too.

| data | form | training, validation images | losses | last loss | weights | metric |
|---|---|---|---|---|---|---|
"""


def boxes_of(annotation: Path) -> list[tuple[str, tuple[int, ...]]]:
    """Return class and corners of the objects of one of BCCD's XML files."""
    objects = []
    for element in ElementTree.parse(annotation).getroot().findall('object'):
        box = element.find('bndbox')
        assert box is not None
        objects.append((str(element.findtext('name')), tuple(int(str(box.findtext(key))) for key in CORNERS)))
    return objects


def place(image: Path, folder: Path) -> None:
    """Link an image into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / image.name).symlink_to(image)


def write_voc(source: Path, out: Path, lists: dict[str, list[str]]) -> None:
    """Copy BCCD as it is distributed."""
    for split, names in lists.items():
        for name in names:
            place(source / f'JPEGImages/{name}.jpg', out / 'JPEGImages')
            place(source / f'Annotations/{name}.xml', out / 'Annotations')
        (out / 'ImageSets/Main').mkdir(parents=True, exist_ok=True)
        (out / f'ImageSets/Main/{split}.txt').write_text('\n'.join(names))


def write_coco(source: Path, out: Path, lists: dict[str, list[str]]) -> None:
    """Write a JSON file for each part, with gaps between the ids."""
    (out / 'annotations').mkdir(parents=True)
    categories = [dict(id=7 * index, name=name) for index, name in enumerate(BCCD_CLASSES, 1)]
    for split, names in lists.items():
        images, annotations = [], []
        for number, name in enumerate(names):
            place(source / f'JPEGImages/{name}.jpg', out / split)
            images.append(dict(id=3 * number, file_name=f'{name}.jpg', width=640, height=480))
            for label, (left, top, right, bottom) in boxes_of(source / f'Annotations/{name}.xml'):
                width, height = right - left, bottom - top
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=3 * number,
                        category_id=7 * (BCCD_CLASSES.index(label) + 1),
                        bbox=[left, top, width, height],
                        area=width * height,
                        iscrowd=0,
                    )
                )
        content = dict(images=images, annotations=annotations, categories=categories)
        (out / f'annotations/instances_{split}.json').write_text(json.dumps(content))


def write_yolo(source: Path, out: Path, lists: dict[str, list[str]]) -> None:
    """Write text files of centres and sizes as fractions with six decimals."""
    for split, names in lists.items():
        (out / 'labels' / split).mkdir(parents=True)
        for name in names:
            place(source / f'JPEGImages/{name}.jpg', out / 'images' / split)
            lines = []
            for label, (left, top, right, bottom) in boxes_of(source / f'Annotations/{name}.xml'):
                numbers = (
                    (left + right) / 1280,
                    (top + bottom) / 960,
                    (right - left) / 640,
                    (bottom - top) / 480,
                )
                lines.append(f'{BCCD_CLASSES.index(label)} ' + ' '.join(f'{value:.6f}' for value in numbers))
            (out / f'labels/{split}/{name}.txt').write_text('\n'.join(lines))
    parts = ''.join(f'{split}: images/{split}\n' for split in lists)
    (out / 'data.yaml').write_text(f'path: .\n{parts}names: {json.dumps(BCCD_CLASSES)}\n')


def bccd_forms(source: Path, out: Path) -> dict[str, Path]:
    """Write BCCD in three forms; return their folders."""
    lists = {split: (source / f'ImageSets/Main/{split}.txt').read_text().split() for split in SPLITS}
    for form, write in (('VOC', write_voc), ('COCO', write_coco), ('YOLO', write_yolo)):
        write(source, out / form, lists)
    return {form: out / form for form in ('VOC', 'COCO', 'YOLO')}


def camvid_forms(source: Path, out: Path, every: int) -> dict[str, Path]:
    """Write one image of so many of CamVid in three forms; return their folders."""
    generator = np.random.default_rng(0)
    palette = generator.permutation(256**3)[: len(CAMVID_CLASSES)]
    colors = np.stack([palette >> 16, palette >> 8 & 255, palette & 255], 1).astype(np.uint8)
    forms = {
        form: out / form.replace(' ', '_') for form in ('class numbers', 'palette', 'colours and a table')
    }
    for split in ('train', 'val'):
        for path in sorted((source / 'labels' / split).iterdir())[::every]:
            values = np.asarray(Image.open(path))
            indexed = Image.fromarray(values)
            indexed.putpalette(colors.reshape(-1).tolist())
            maps = (Image.fromarray(values), indexed, Image.fromarray(colors[values]))
            for folder, label_map in zip(forms.values(), maps, strict=True):
                place(source / f'images/{split}/{path.stem}.jpg', folder / 'images' / split)
                (folder / 'labels' / split).mkdir(parents=True, exist_ok=True)
                label_map.save(folder / f'labels/{split}/{path.name}')
    names = '\n'.join(CAMVID_CLASSES)
    lines = [
        f'{name},{",".join(map(str, color))}' for name, color in zip(CAMVID_CLASSES, colors, strict=True)
    ]
    for form, folder in forms.items():
        (folder / 'classes.csv').write_text('\n'.join(['name,r,g,b', *lines]) if 'table' in form else names)
    return forms


def train(task: str, data: Path, work_dir: Path, args: argparse.Namespace) -> None:
    """Run ``mmssl finetune`` in a process of its own."""
    command = [sys.executable, '-m', 'mmssl.cli', 'finetune', args.checkpoint, '--task', task]
    command += ['--data', data, '--work-dir', work_dir, '--iters', args.iters, '--size', args.size]
    command += ['--cfg-options', 'default_hooks.logger.interval=1']
    result = subprocess.run([*map(str, command)], capture_output=True, text=True)
    if result.returncode:
        raise SystemExit(f'{data}: {result.stderr.strip().splitlines()[-1]}')


def digest(content: bytes) -> str:
    """Return a short digest."""
    return hashlib.sha256(content).hexdigest()[:16]


def row(data: str, form: str, task: str, work_dir: Path) -> list[str]:
    """Return the row of a finished run."""
    lines = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    losses = [entry['loss'] for entry in entries if 'loss' in entry]
    metrics = next(entry for entry in reversed(entries) if METRICS[task] in entry)
    state = load_file(next(work_dir.glob('iter_*.pth')))['state_dict']
    weights = b''.join(state[name].numpy().tobytes() for name in sorted(state))
    counts = [str(len((work_dir / f'{part}.txt').read_text().split('\n')) - 1) for part in ('train', 'val')]
    listed = ', '.join(
        f'{key.rpartition("/")[2]} {value}' for key, value in metrics.items() if key not in OTHER
    )
    cells = [data, form, ', '.join(counts), digest(repr(losses).encode()), repr(losses[-1])]
    return [*cells, digest(weights), listed]


def line(cells: list[str]) -> str:
    """Return a line of the table, without the metrics of each class, which are compared like the others."""
    *others, metrics = cells
    means = [each for each in metrics.split(', ') if '.' not in each.partition(' ')[0]]
    return f'| {" | ".join([*others, ", ".join(means)])} |\n'


OTHER = ('step', 'time', 'data_time')


def main() -> None:
    """Run the trial."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('bccd', type=Path)
    parser.add_argument('camvid', type=Path)
    parser.add_argument('--checkpoint', required=True)
    parser.add_argument('--iters', type=int, default=30)
    parser.add_argument('--size', type=int, default=128)
    parser.add_argument('--every', type=int, default=12, help='take one of so many images of CamVid')
    parser.add_argument('--output', help='file to write')
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = (
            ('BCCD', 'detect', bccd_forms(args.bccd.absolute(), folder / 'bccd')),
            ('CamVid', 'semantic', camvid_forms(args.camvid.absolute(), folder / 'camvid', args.every)),
        )
        for data, task, forms in parts:
            for form, source in forms.items():
                work_dir = folder / f'{data}-{form}'
                train(task, source, work_dir, args)
                rows.append(row(data, form, task, work_dir))
                print(line(rows[-1]), end='', flush=True)
                shutil.rmtree(work_dir)
    differing = {
        data for data in ('BCCD', 'CamVid') if len({tuple(each[2:]) for each in rows if each[0] == data}) > 1
    }
    verdict = (
        f'\n{" and ".join(sorted(differing))} differ.\n' if differing else '\nAll three of each are equal.\n'
    )
    print(verdict)
    if args.output:
        command = 'python tools/trials/label_forms.py BCCD CAMVID --checkpoint CHECKPOINT'
        table = ''.join(map(line, rows))
        header = HEADER.format(command=command, iters=args.iters, size=args.size)
        Path(args.output).write_text(header + table + verdict, encoding='utf-8')


if __name__ == '__main__':
    main()
