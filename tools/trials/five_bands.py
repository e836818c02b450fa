"""Images of five bands in which only the fifth shows the class: pre-train, classify, segment, detect.

    python tools/trials/five_bands.py PHOTOGRAPHS OUT --output docs/results/bands.md

PHOTOGRAPHS is a folder or zip of photographs, which bands 1 to 4 show, whatever the class. Band 5 is a
texture: rows, columns, checks and dots of one scale are the classes. The files are TIFF of uint16 with
values of 12 bits. Every step is a command of ``mmssl``; logs of them are in OUT/logs.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

CLASSES = ('rows', 'columns', 'checks', 'dots')
SIDE, SCENE = 32, 96
TRAIN, VAL = 1600, 400
PHOTOGRAPHS = 1  # as MoCo tells images apart by what is easiest, which photographs would be
SCENES = {'train': 40, 'val': 60}
SEEDS = (0, 1)


def texture(kind: int, side: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a texture (side, side) of mean 0 and standard deviation 1; kind 4 is pixel noise."""
    period, phases = rng.uniform(5, 7), rng.uniform(0, 2 * np.pi, (2, 1, 1))
    rows, columns = np.sin(np.mgrid[:side, :side] * (2 * np.pi / period) + phases)
    noise = rng.standard_normal((side, side))
    out = (rows, columns, np.sign(rows * columns), np.exp(2 * (rows + columns)), noise)[kind]
    return (out - out.mean()) / out.std()


def bands_of(photograph: np.ndarray, fifth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (H, W, 5) uint16: a photograph (H, W, 3), a mix of its colors, and a texture (H, W)."""
    colors = photograph / 255
    mix = (colors[..., 0] + 1 - colors[..., 2]) / 2
    last = 0.5 + 0.12 * fifth + 0.04 * rng.standard_normal(fifth.shape)
    values = np.concatenate([colors, mix[..., None], last[..., None]], axis=2)
    return np.clip(200 + 3600 * values, 0, 4095).astype(np.uint16)


def photographs(source: str, count: int, side: int, rng: np.random.Generator):
    """Yield photographs (side, side, 3) uint8."""
    archive = zipfile.ZipFile(source) if source.endswith('.zip') else None
    names = archive.namelist() if archive else [str(path) for path in Path(source).rglob('*')]
    names = sorted(name for name in names if name.lower().endswith(('.jpg', '.jpeg', '.png')))
    for index in rng.permutation(len(names))[:count]:
        with Image.open(archive.open(names[index]) if archive else names[index]) as image:
            yield np.asarray(image.convert('RGB').resize((side, side), Image.Resampling.BICUBIC))


def make_images(source: str, out: Path, rng: np.random.Generator) -> None:
    """Write images/{train,val}/CLASS/*.tif."""
    pictures = list(photographs(source, PHOTOGRAPHS, SIDE, rng))
    for number in range(TRAIN + VAL):
        photograph, kind = pictures[rng.integers(PHOTOGRAPHS)], number % len(CLASSES)
        path = out / 'images' / ('train' if number < TRAIN else 'val') / CLASSES[kind] / f'{number:05}.tif'
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, bands_of(photograph, texture(kind, SIDE, rng), rng), planarconfig='contig')


def make_scenes(source: str, out: Path, rng: np.random.Generator) -> None:
    """Write images, label maps and boxes below scenes, with one to three objects in each image."""
    pictures = photographs(source, sum(SCENES.values()), SCENE, rng)
    for split, count in SCENES.items():
        images, annotations = [], []
        for number in range(count):
            fifth, labels = texture(4, SCENE, rng), np.zeros((SCENE, SCENE), np.uint8)
            for _ in range(rng.integers(1, 4)):
                left, top, width, height = object_box(labels, rng)
                if not width:
                    continue
                box = slice(top, top + height), slice(left, left + width)
                kind = int(rng.integers(len(CLASSES)))
                fifth[box] = texture(kind, SCENE, rng)[box]
                labels[box] = 1 + kind
                shape = dict(bbox=[left, top, width, height], area=width * height, iscrowd=0)
                annotations.append(
                    dict(shape, id=len(annotations) + 1, image_id=number, category_id=kind + 1)
                )
            name = f'{number:03}'
            for kind in ('images', 'labels'):
                (out / 'scenes' / kind / split).mkdir(parents=True, exist_ok=True)
            values = bands_of(next(pictures), fifth, rng)
            tifffile.imwrite(out / f'scenes/images/{split}/{name}.tif', values, planarconfig='contig')
            Image.fromarray(labels).save(out / f'scenes/labels/{split}/{name}.png')
            images.append(dict(id=number, file_name=f'{name}.tif', width=SCENE, height=SCENE))
        categories = [dict(id=n + 1, name=name) for n, name in enumerate(CLASSES)]
        content = dict(images=images, annotations=annotations, categories=categories)
        (out / f'scenes/{split}.json').write_text(json.dumps(content))


def object_box(labels: np.ndarray, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw left, top, width, height of a free rectangle; a width of 0 if none was found."""
    for _ in range(20):
        width, height = (int(edge) for edge in rng.integers(24, 49, 2))
        left, top = int(rng.integers(SCENE - width)), int(rng.integers(SCENE - height))
        if not labels[top : top + height, left : left + width].any():
            return left, top, width, height
    return 0, 0, 0, 0


def run(command: list[str], out: Path, name: str) -> str:
    """Run ``mmssl COMMAND``, with its output in a file; return the output."""
    log = out / 'logs' / f'{name}.txt'
    log.parent.mkdir(exist_ok=True)
    program = [str(Path(sys.executable).parent / 'mmssl'), *command]
    done = subprocess.run(program, cwd=out, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    log.write_text(done.stdout)
    if done.returncode:
        raise SystemExit(f'mmssl {" ".join(command)} failed:\n{done.stdout[-2000:]}')
    return done.stdout


def number_in(text: str, pattern: str) -> float:
    """Return the last number that a pattern finds."""
    return float(re.findall(pattern, text)[-1])


def last_checkpoint(out: Path, work: str) -> str:
    """Return the last checkpoint of a work directory, relative to ``out``."""
    return f'{work}/{Path((out / work / "last_checkpoint").read_text().strip()).name}'


def pretrain(out: Path, seed: int) -> list[str]:
    """Pre-train MAE and MoCo on five and on three bands; return rows of a table."""
    rows = []
    for method in ('moco', 'mae'):
        for count in (5, 3):
            start = time.monotonic()
            config, work = f'{method}{count}.py', f'work/{method}{count}'
            run(
                ['train', config, '--work-dir', work, '--cfg-options', f'randomness.seed={seed}'],
                out,
                work[5:],
            )
            minutes = (time.monotonic() - start) / 60
            scores = []
            for weights in ('random', last_checkpoint(out, work)):
                text = run(
                    ['knn', config, weights, '--data', 'images', '--workers', '0'],
                    out,
                    f'{method}{count}-knn',
                )
                scores.append(number_in(text, r'top1 ([\d.]+) %'))
            rows.append(
                f'| {method.upper() if method == "mae" else "MoCo"} | {count} | {scores[0]:.1f} | '
                f'{scores[1]:.1f} | {minutes:.1f} min |'
            )
            print(rows[-1], flush=True)
    return rows


def finetune(out: Path) -> list[str]:
    """Fine-tune GCN and R-FCN from MoCo's weights and from random ones; return rows of a table."""
    weights = last_checkpoint(out, 'work/moco5')
    patterns = {'gcn': r'mIoU: ([\d.]+)', 'rfcn': r'bbox_mAP_50: ([\d.]+)'}
    rows = []
    for task, pattern in patterns.items():
        for start in ('random', 'MoCo'):
            scores = []
            for seed in SEEDS:
                options = [f'randomness.seed={seed}']
                if start == 'MoCo':
                    options += [
                        'model.backbone.init_cfg.type=Pretrained',
                        f'model.backbone.init_cfg.checkpoint={weights}',
                        'model.backbone.init_cfg.prefix=backbone.',
                    ]
                name = f'{task}-{start.lower()}-{seed}'
                text = run(
                    ['train', f'{task}.py', '--work-dir', f'work/{name}', '--cfg-options', *options],
                    out,
                    name,
                )
                scores.append(number_in(text, pattern) * (100 if task == 'rfcn' else 1))
            rows.append(f'| {task} | {start} | {scores[0]:.1f} | {scores[1]:.1f} | {np.mean(scores):.1f} |')
            print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Make the images, run everything, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('photographs')
    parser.add_argument('out', type=Path)
    parser.add_argument('--output', type=Path, help='write the tables to this file')
    parser.add_argument('--only', choices=('make', 'pretrain', 'finetune'), help='a single step')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    steps = [args.only] if args.only else ['make', 'pretrain', 'finetune']
    if 'make' in steps:
        rng = np.random.default_rng(0)
        make_images(args.photographs, args.out, rng)
        make_scenes(args.photographs, args.out, rng)
        run(['stats', 'images', '--out', 'measured.py'], args.out, 'stats')
        for path in sorted((Path(__file__).parent / 'five_bands').glob('*.py')):
            (args.out / path.name).write_text(path.read_text())
    tables = []
    if 'pretrain' in steps:
        head = '| method | bands | random weights | pre-trained | training |\n|---|---|---|---|---|'
        tables.append('\n'.join([head, *pretrain(args.out, SEEDS[0])]))
    if 'finetune' in steps:
        head = '| task | start | seed 0 | seed 1 | mean |\n|---|---|---|---|---|'
        tables.append('\n'.join([head, *finetune(args.out)]))
    if args.output:
        args.output.write_text('\n\n'.join(tables) + '\n')


if __name__ == '__main__':
    os.environ.setdefault('OMP_NUM_THREADS', '1')
    main()
