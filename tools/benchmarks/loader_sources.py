"""Images of other kinds and sources in the loader: what ``loader.py --sources`` measures.

uint16 TIFF against tifffile and torch by hand, tar shards against the folder that was packed, and 8-bit JPEGs
against another checkout, each in a process of its own that waits while the other one runs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')

import numpy as np
from timing import ROOT, Results, quartiles, report, table, use_threads

CROP = dict(
    type='mmssl.LoadRandomResizedCrop', scale=224, crop_ratio_range=(0.2, 1.0), interpolation='bicubic'
)
FLIP, PACK = dict(type='RandomFlip', prob=0.5), dict(type='PackInputs')
TWELVE_BITS = 4095


def image_folder(root: str, flip: bool = True, **reading):
    """Return a data set with MAE's input pipeline, perhaps without its flip, which is mmcv's."""
    from mmssl.data.folder import ImageFolder

    return ImageFolder(root, pipeline=[{**CROP, **reading}, *[FLIP] * flip, PACK])


def seconds_of(dataset) -> float:
    """Read every image once and return the seconds of CPU time.

    Files are in the page cache, and other processes on the machine disturb this time less than that of a
    clock.
    """
    start = time.process_time()
    for index in range(len(dataset)):
        dataset[index]
    return time.process_time() - start


def make_tiffs(folder: Path, count: int, compression: str | None) -> None:
    """Write 512x512 images of four channels of 12 bits in uint16, smooth as photographs are."""
    import cv2
    import tifffile

    noise = np.random.default_rng(0).integers(0, TWELVE_BITS + 1, (512, 512, 4)).astype(np.uint16)
    smooth = cv2.GaussianBlur(noise, (9, 9), 3)
    folder.mkdir()
    for index in range(count):
        tifffile.imwrite(
            folder / f'{index:04d}.tif',
            np.roll(smooth, 7 * index, axis=0),
            photometric='minisblack',
            planarconfig='contig',
            compression=compression,
        )


class ByHand:
    """The same crops by tifffile and torch, as one writes them for one data set.

    Args:
        folder: Folder of TIFFs.
    """

    def __init__(self, folder: Path):
        self.paths = sorted(folder.glob('*.tif'))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int):
        """Return a crop (C, 224, 224), float32, from 0 to 255."""
        import tifffile
        import torch
        import torch.nn.functional as F
        from torchvision.transforms import RandomResizedCrop

        values = torch.from_numpy(tifffile.imread(self.paths[index]).astype(np.float32)).permute(2, 0, 1)
        top, left, height, width = RandomResizedCrop.get_params(values, (0.2, 1.0), (3 / 4, 4 / 3))
        crop = values[None, :, top : top + height, left : left + width]
        image = F.interpolate(crop, (224, 224), mode='bicubic', antialias=True)[0]
        return (image * (255 / TWELVE_BITS)).clamp_(0, 255)


class Checkout:
    """A process that reads a folder with the package of a checkout, a pass for each line of its input."""

    def __init__(self, root: Path, folder: Path):
        self.process = subprocess.Popen(
            [sys.executable, __file__, str(root), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self) -> float:
        """Read the folder once and return the seconds."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write('\n')
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith('seconds '):
                return float(line.split()[1])
        raise RuntimeError('the process of a checkout has ended; its error is above')

    def close(self) -> None:
        """End the process."""
        self.process.terminate()
        self.process.wait()


def serve(root: str, folder: str) -> None:
    """Answer each line of the input with the seconds of a pass over the folder."""
    sys.path.insert(0, root)
    use_threads(1)
    register()
    dataset = image_folder(folder)
    assert Path(sys.modules['mmssl'].__file__ or '').is_relative_to(root)
    for _ in sys.stdin:
        print(f'seconds {seconds_of(dataset)}', flush=True)


def register() -> None:
    """Register the transforms of mmpretrain."""
    from mmengine.registry import init_default_scope
    from mmpretrain.utils import register_all_modules

    register_all_modules(init_default_scope=False)
    init_default_scope('mmpretrain')


def seconds_by_case(jpegs: Path, folder: Path, images: int, before: Path | None) -> dict[str, tuple]:
    """Return the two timed functions of each case: of the package, and of what it is compared with."""

    def pair(ours, peer) -> tuple[Callable[[], float], Callable[[], float]]:
        return (lambda: seconds_of(ours), lambda: seconds_of(peer))

    from mmssl.apis.packing import pack

    cases = {}
    for compression, name in ((None, 'uncompressed'), ('zlib', 'deflate')):
        tiffs = folder / name
        make_tiffs(tiffs, images, compression)
        ours = image_folder(str(tiffs), flip=False, value_range=(0, TWELVE_BITS), channels=4)
        cases[f'uint16 TIFF, 512x512x4, {name}', 'tifffile and torch by hand'] = pair(ours, ByHand(tiffs))
    pack(str(jpegs), str(folder / 'shards'), 'tar', -(-images // 3))
    pack(str(jpegs), str(folder / 'rows'), 'parquet', -(-images // 3))
    files = image_folder(str(jpegs))
    cases['8-bit JPEG in three tar shards', 'the folder'] = pair(image_folder(str(folder / 'shards')), files)
    cases['8-bit JPEG in three Parquet files', 'the folder'] = pair(image_folder(str(folder / 'rows')), files)
    if before:
        now, then = Checkout(ROOT, jpegs), Checkout(before, jpegs)
        cases['8-bit JPEG', 'the other checkout'] = (now.seconds, then.seconds)
    return cases


def measure(args: argparse.Namespace, jpegs: Path, folder: Path) -> None:
    """Measure all cases in alternating order, print and write the table."""
    register()
    cases = seconds_by_case(jpegs, folder, args.images, args.before)
    rates: dict[tuple, tuple[list[float], list[float]]] = {case: ([], []) for case in cases}
    for timed in cases.values():  # warm-up
        for seconds in timed:
            seconds()
    for number in range(args.rounds):
        for case, timed in cases.items():
            for index in (0, 1) if number % 2 else (1, 0):
                rates[case][index].append(args.images / timed[index]())
    for timed in cases.values():
        for seconds in timed:
            checkout = getattr(seconds, '__self__', None)
            if isinstance(checkout, Checkout):
                checkout.close()
    rows, results = [], Results()
    for (case, peer), (ours, theirs) in rates.items():
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        best = max(ours) / max(theirs)
        results[case] = {f'times faster than {peer}': ratio, 'fastest rounds': best}
        rows.append([case, quartiles(ours), peer, quartiles(theirs), f'{ratio:.2f}', f'{best:.2f}'])
    lines = [
        'To packed 224x224 crops: crop 0.2 to 1, bicubic with antialiasing; JPEGs also flipped. Images per '
        'second of CPU time in one process, files in the page cache; median (quartiles). The ratio is the '
        'median over the rounds; beside it that of the fastest rounds.',
        '',
        *table(['', 'mmssl', 'compared with', 'images per second', 'times faster', 'fastest rounds'], rows),
    ]
    settings = f'{args.images} images, {args.rounds} interleaved rounds'
    packages = ('tifffile', 'imagecodecs', 'pyarrow', 'pillow', 'opencv-python', 'numpy')
    report(args, 'Loader: other images and sources', lines, results, settings, packages)


if __name__ == '__main__':
    serve(*sys.argv[1:])
