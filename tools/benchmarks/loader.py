"""Images per second of one worker process: our MAE input pipeline against the host's.

    python tools/benchmarks/loader.py [--images 200] [--rounds 9] [--data DIR]

500x375 JPEGs of quality 92 (ImageNet's most frequent size) made from real photographs; both pipelines as in
the MAE recipe: crop 0.2 to 1, 224x224, bicubic with antialiasing, flip, packed as uint8. The host's is
configs/_base_/datasets/imagenet_bs512_mae.py of mmpretrain. Rounds are interleaved, one thread each, files in
the page cache; the table gives the medians.
"""

import argparse
import datetime
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader

OURS = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=224, crop_ratio_range=(0.2, 1.0), interpolation='bicubic'),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
HOST = [
    dict(type='LoadImageFromFile'),
    dict(
        type='RandomResizedCrop',
        scale=224,
        crop_ratio_range=(0.2, 1.0),
        backend='pillow',
        interpolation='bicubic',
    ),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]


def make_images(source: Path | None, target: Path, count: int) -> None:
    """Write ``count`` 500x375 JPEGs from the photographs below ``source``, or from scikit-image's and scikit-learn's."""
    if source:
        from mmssl.data.folder import find_images

        root, names = find_images(str(source), '')
        pictures = [Image.open(f'{root}/{name}').convert('RGB') for name in names[:count]]
    else:
        from mmssl.data.demo import load_photos

        pictures = [Image.fromarray(photo) for photo in load_photos().values()]
    rng = random.Random(0)
    for number in range(count):
        picture = pictures[number % len(pictures)]
        # another part each time a photograph comes round again
        scale = min(picture.width / 4, picture.height / 3) * (
            1 if number < len(pictures) else rng.uniform(0.7, 1)
        )
        left, top = rng.uniform(0, picture.width - 4 * scale), rng.uniform(0, picture.height - 3 * scale)
        picture.resize(
            (500, 375), Image.Resampling.BICUBIC, box=(left, top, left + 4 * scale, top + 3 * scale)
        ).save(target / f'{number:04d}.jpg', quality=92)


def rate_in_process(dataset) -> float:
    """Images per second of one pass in this process."""
    start = time.perf_counter()
    for index in range(len(dataset)):
        dataset[index]
    return len(dataset) / (time.perf_counter() - start)


def rate_of_worker(loader: DataLoader) -> float:
    """Images per second through a data loader with one worker that is already running."""
    start = time.perf_counter()
    count = sum(len(batch['inputs']) for batch in loader)
    return count / (time.perf_counter() - start)


def quartiles(values: list[float]) -> str:
    """'median (lower quartile - upper quartile)'."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return f'{middle:.0f} ({low:.0f} - {high:.0f})'


def cpu_name() -> str:
    """The processor's model name."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.split(':', 1)[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or 'unknown'


def installed(*names: str) -> str:
    """'name version' of the first of these distributions that is installed."""
    for name in names:
        try:
            return f'{name} {version(name)}'
        except PackageNotFoundError:
            continue
    return f'{names[-1]} (unknown)'


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--images', type=int, default=200)
    parser.add_argument('--rounds', type=int, default=9)
    parser.add_argument(
        '--data',
        type=Path,
        default=Path(os.environ['MMSSL_DATA'], 'coco_mini') if os.environ.get('MMSSL_DATA') else None,
        help='photographs to make the images of (default: $MMSSL_DATA/coco_mini, else scikit-image and scikit-learn)',
    )
    parser.add_argument('--out', type=Path, default=Path('docs/benchmarks/loader.md'))
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)

    from mmengine.dataset import default_collate, worker_init_fn
    from mmengine.registry import init_default_scope
    from mmpretrain.utils import register_all_modules

    from mmssl.data.folder import ImageFolder

    register_all_modules(init_default_scope=False)
    init_default_scope('mmpretrain')
    with tempfile.TemporaryDirectory() as folder:
        make_images(args.data, Path(folder), args.images)
        datasets = {
            name: ImageFolder(folder, pipeline=pipeline)
            for name, pipeline in (('mmssl', OURS), ('mmpretrain', HOST))
        }
        size = statistics.mean(path.stat().st_size for path in Path(folder).iterdir()) / 1024
        loaders = {
            name: DataLoader(
                dataset,
                batch_size=32,
                num_workers=1,
                persistent_workers=True,
                collate_fn=default_collate,
                worker_init_fn=lambda worker: worker_init_fn(worker, 1, 0, 0),
            )
            for name, dataset in datasets.items()
        }
        process, worker = ({name: [] for name in datasets} for _ in range(2))
        for name in datasets:  # warm-up
            rate_in_process(datasets[name])
            rate_of_worker(loaders[name])
        for _ in range(args.rounds):
            for name in datasets:
                process[name].append(rate_in_process(datasets[name]))
            for name in datasets:
                worker[name].append(rate_of_worker(loaders[name]))

    # the ratio of each round, so that a machine that slows down for a while slows both
    ratios = [
        statistics.median(ours / host for ours, host in zip(rates['mmssl'], rates['mmpretrain'], strict=True))
        for rates in (process, worker)
    ]
    host = installed('onedl-mmpretrain', 'mmpretrain')
    command = ' '.join(['python tools/benchmarks/loader.py', *sys.argv[1:]])
    packages = ', '.join(
        installed(*names)
        for names in (('torch',), ('pillow',), ('opencv-python', 'opencv-python-headless'), ('numpy',))
    )
    lines = [
        '# Loader: images per second of one worker',
        '',
        f'500x375 JPEGs ({size:.0f} KiB on average, quality 92) to packed 224x224 uint8: crop 0.2 to 1, bicubic with antialiasing, flip.',
        f'{args.images} images, {args.rounds} interleaved rounds, one thread; median (quartiles); ratio: median of the rounds.',
        '',
        '| | mmssl | ' + host + ' | ratio |',
        '|---|---|---|---|',
        f'| pipeline in one process | {quartiles(process["mmssl"])} | {quartiles(process["mmpretrain"])} | {ratios[0]:.2f} |',
        f'| DataLoader, 1 worker, batches of 32 | {quartiles(worker["mmssl"])} | {quartiles(worker["mmpretrain"])} | {ratios[1]:.2f} |',
        '',
        f'- command: `{command}`',
        f'- date: {datetime.date.today()}',
        f'- CPU: {cpu_name()}',
        f'- {packages}, Python {platform.python_version()}',
    ]
    text = '\n'.join(lines) + '\n'
    print(text)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text)


if __name__ == '__main__':
    main()
