"""Images per second of one worker process: our MAE input pipeline against mmpretrain's.

    python tools/benchmarks/loader.py [--images 200] [--rounds 9] [--data DIR]
    python tools/benchmarks/loader.py --sources [--before CHECKOUT]

500x375 JPEGs of quality 92 (ImageNet's most frequent size) made from real photographs; both pipelines as in
the MAE recipe: crop 0.2 to 1, 224x224, bicubic with antialiasing, flip, packed as uint8. The peer's is
configs/_base_/datasets/imagenet_bs512_mae.py of mmpretrain. Rounds are interleaved, files are in the page
cache; the table gives medians, and the ratio is the median of the rounds' ratios. ``--sources`` measures what
``loader_sources.py`` names in place of that.
"""

import argparse
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

from PIL import Image
from timing import ROOT, Results, parser_of, quartiles, report, seconds_of, table, use_threads
from torch.utils.data import DataLoader

sys.path.insert(0, str(ROOT))
LOAD_OURS = dict(
    type='mmssl.LoadRandomResizedCrop', scale=224, crop_ratio_range=(0.2, 1.0), interpolation='bicubic'
)
CROP_PEER = dict(
    type='RandomResizedCrop',
    scale=224,
    crop_ratio_range=(0.2, 1.0),
    backend='pillow',
    interpolation='bicubic',
)
FLIP_AND_PACK = [dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')]
PIPELINES = {
    'mmssl': [LOAD_OURS, *FLIP_AND_PACK],
    'mmpretrain': [dict(type='LoadImageFromFile'), CROP_PEER, *FLIP_AND_PACK],
}


def make_images(source: Path | None, target: Path, count: int) -> None:
    """Write 500x375 JPEGs of photographs.

    Args:
        source: Folder of photographs; None for those of scikit-image and scikit-learn.
        target: Folder to write to.
        count: Number of images.
    """
    if source:
        from mmssl.data.folder import find_images

        root, names = find_images(str(source), '')
        photos = [Image.open(f'{root}/{name}').convert('RGB') for name in names[:count]]
    else:
        from mmssl.data.demo import load_photos

        photos = [Image.fromarray(photo) for photo in load_photos().values()]
    rng = random.Random(0)
    for index in range(count):
        photo = photos[index % len(photos)]
        # another part of the photograph each time it is used again
        scale = min(photo.width / 4, photo.height / 3) * (1 if index < len(photos) else rng.uniform(0.7, 1))
        left, top = rng.uniform(0, photo.width - 4 * scale), rng.uniform(0, photo.height - 3 * scale)
        box = (left, top, left + 4 * scale, top + 3 * scale)
        image = photo.resize((500, 375), Image.Resampling.BICUBIC, box=box)
        image.save(target / f'{index:04d}.jpg', quality=92)


def worker_loader(dataset) -> DataLoader:
    """Return a loader of batches of 32 with one worker."""
    from mmengine.dataset import default_collate, worker_init_fn

    return DataLoader(
        dataset,
        batch_size=32,
        num_workers=1,
        persistent_workers=True,
        collate_fn=default_collate,
        worker_init_fn=lambda worker: worker_init_fn(worker, 1, 0, 0),
    )


def read_all(samples) -> None:
    """Iterate over a loader, or over the indices of a data set."""
    if isinstance(samples, DataLoader):
        for _ in samples:
            pass
    else:
        for index in range(len(samples)):
            samples[index]


def measure_sources(args: argparse.Namespace) -> None:
    """Measure what ``loader_sources.py`` names, for a page of its own."""
    from loader_sources import measure

    if args.out == str(ROOT / 'docs/benchmarks/loader.md'):
        args.out = str(ROOT / 'docs/benchmarks/sources.md')
    with tempfile.TemporaryDirectory() as folder:
        jpegs = Path(folder, 'jpegs')
        jpegs.mkdir()
        make_images(args.data, jpegs, args.images)
        measure(args, jpegs, Path(folder))


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__, 'loader', rounds=9)
    parser.add_argument('--images', type=int, default=200, help='number of images (default: 200)')
    data = os.environ.get('MMSSL_DATA')
    parser.add_argument(
        '--data',
        type=Path,
        default=Path(data, 'coco_mini') if data else None,
        help='photographs to use (default: $MMSSL_DATA/coco_mini, else those of installed packages)',
    )
    parser.add_argument('--sources', action='store_true', help='TIFF, tar shards and Parquet instead')
    parser.add_argument(
        '--before',
        type=Path,
        metavar='CHECKOUT',
        help='with --sources, compare 8-bit JPEGs with this checkout',
    )
    args = parser.parse_args()
    use_threads(args.threads)
    if args.sources:
        measure_sources(args)
        return
    from mmengine.registry import init_default_scope
    from mmpretrain.utils import register_all_modules

    from mmssl.data.folder import ImageFolder

    register_all_modules(init_default_scope=False)
    init_default_scope('mmpretrain')
    with tempfile.TemporaryDirectory() as folder:
        make_images(args.data, Path(folder), args.images)
        kib = statistics.mean(path.stat().st_size for path in Path(folder).iterdir()) / 1024
        datasets = {name: ImageFolder(folder, pipeline=pipeline) for name, pipeline in PIPELINES.items()}
        loaders = {name: worker_loader(dataset) for name, dataset in datasets.items()}
        cases = {'pipeline in one process': datasets, 'DataLoader, 1 worker, batches of 32': loaders}
        rates = {case: {name: [] for name in PIPELINES} for case in cases}
        for samples in (*datasets.values(), *loaders.values()):  # warm-up
            read_all(samples)
        for _ in range(args.rounds):
            for case, sources in cases.items():
                for name, samples in sources.items():
                    seconds = seconds_of(lambda samples=samples: read_all(samples))
                    rates[case][name].append(args.images / seconds)
    rows, results = [], Results()
    for case, by_name in rates.items():
        pairs = zip(by_name['mmssl'], by_name['mmpretrain'], strict=True)
        ratio = statistics.median(ours / peer for ours, peer in pairs)
        results[case] = {'times faster than mmpretrain': ratio}
        rows.append([case, *(quartiles(by_name[name]) for name in PIPELINES), f'{ratio:.2f}'])
    lines = [
        f'500x375 JPEGs ({kib:.0f} KiB on average, quality 92) to packed 224x224 uint8: crop 0.2 to 1, '
        'bicubic with antialiasing, flip. Images per second; median (quartiles).',
        '',
        *table(['', 'mmssl', 'mmpretrain', 'times faster'], rows),
    ]
    settings = f'{args.images} images, {args.rounds} interleaved rounds'
    packages = ('onedl-mmpretrain', 'pillow', 'opencv-python', 'numpy')
    report(args, 'Loader: images per second of one worker', lines, results, settings, packages)


if __name__ == '__main__':
    main()
