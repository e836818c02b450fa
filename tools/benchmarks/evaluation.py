"""Images a second of the confusion matrix behind the segmentation metrics, against mmseg's IoUMetric and torchmetrics.

    python tools/benchmarks/evaluation.py

One thread, predictions that are wrong along boundaries and in patches. Every side takes a prediction and a
label and adds to its counts, from memory; the counts of the three are compared before the timing.
torchmetrics runs without its validation, its fast form. The resident memory of a process is read after 50
images and after thousands.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
SIZES = [(512, 1024, 19), (512, 683, 150)]


def maps(
    height: int, width: int, classes: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """(H, W) uint8: a prediction and a label.

    The label is blocks of 32 pixels, 3 % of the pixels ignored. The prediction is the label moved by three
    pixels, with a tenth of its patches of 16 pixels another class: wrong along boundaries and in patches, as
    predictions are.
    """

    def blocks(values: np.ndarray, side: int) -> np.ndarray:
        return np.kron(values, np.ones((side, side), np.int64))[:height, :width]

    label = blocks(generator.integers(0, classes, (height // 32 + 1, width // 32 + 1)), 32)
    patches = (height // 16 + 1, width // 16 + 1)
    wrong = blocks(generator.random(patches) < 0.1, 16).astype(bool)
    pred = np.where(
        wrong, blocks(generator.integers(0, classes, patches), 16), np.roll(label, (3, 3), (0, 1))
    )
    return pred.astype(np.uint8), np.where(generator.random((height, width)) < 0.03, 255, label).astype(
        np.uint8
    )


def sides(height: int, width: int, classes: int, dtype: torch.dtype) -> dict:
    """Name to a call that counts one image, checked to count the same."""
    from mmengine.structures import PixelData
    from mmseg.evaluation import IoUMetric
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    from mmssl.evaluation.segmentation import SegmentationMetric

    pred, label = (
        torch.from_numpy(values).to(dtype)
        for values in maps(height, width, classes, np.random.default_rng(0))
    )
    meta = {'classes': [str(number) for number in range(classes)]}
    ours, host = SegmentationMetric(), IoUMetric()
    ours.dataset_meta = host.dataset_meta = meta
    sample = {
        'pred_sem_seg': {'data': pred[None]},
        'gt_sem_seg': {'data': label[None]},
        'img_path': '',
        'seg_map_path': '',
    }
    sample = {
        name: PixelData(**value) if isinstance(value, dict) else value for name, value in sample.items()
    }
    batch = [
        {
            name: {'data': value.data} if isinstance(value, PixelData) else value
            for name, value in sample.items()
        }
    ]

    def count_host() -> None:
        host.results.clear()
        host.process({}, batch)

    def count_torchmetrics() -> torch.Tensor:
        return multiclass_confusion_matrix(pred, label, classes, ignore_index=255, validate_args=False)

    ours.process({}, batch)
    count_host()
    matrix = ours.last['matrix']
    if dtype == torch.int64 and not np.array_equal(count_torchmetrics().numpy(), np.asarray(matrix)):
        raise SystemExit('the confusion matrices of mmssl and torchmetrics differ')
    if not np.array_equal(host.results[0][0].long().numpy(), np.diagonal(matrix)):
        raise SystemExit('the intersections of mmssl and mmseg differ')
    calls = {'mmssl': lambda: ours.process({}, batch), 'mmseg': count_host}
    return {**calls, 'torchmetrics': count_torchmetrics} if dtype == torch.int64 else calls


def memory(images: int) -> tuple[float, float]:
    """MiB of resident memory after 50 images and after ``images``."""
    import gc

    calls = sides(256, 256, 19, torch.uint8)
    readings = []
    for number in range(images):
        calls['mmssl']()
        if number + 1 in (50, images):
            gc.collect()
            pages = int(Path('/proc/self/statm').read_text().split()[1])
            readings.append(pages * 4096 / 2**20)
    return readings[0], readings[-1]


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=15)
    parser.add_argument('--images', type=int, default=5000, help='of the memory reading')
    parser.add_argument('--out', default=str(ROOT / 'docs/benchmarks/evaluation.md'))
    args = parser.parse_args()
    from mmengine.logging import MMLogger
    from timing import medians, report

    MMLogger.get_instance('benchmark', log_level='ERROR')
    torch.set_num_threads(1)
    lines = [
        '| maps | mmssl images/s | mmseg IoUMetric images/s | torchmetrics images/s | mmssl / mmseg | mmssl / torchmetrics |',
        '|---|---|---|---|---|---|',
    ]
    for dtype, name in ((torch.int64, 'int64'), (torch.uint8, 'uint8')):
        for height, width, classes in SIZES:
            rate = {
                side: 1 / value
                for side, value in medians(
                    sides(height, width, classes, dtype), args.rounds, least=0.1
                ).items()
            }
            last = f'{rate["torchmetrics"]:.0f}' if 'torchmetrics' in rate else '-'
            ratio = f'{rate["mmssl"] / rate["torchmetrics"]:.1f}' if 'torchmetrics' in rate else '-'
            lines.append(
                f'| {height}x{width}, {classes} classes, {name} | {rate["mmssl"]:.0f} | {rate["mmseg"]:.1f} | {last} | '
                f'{rate["mmssl"] / rate["mmseg"]:.1f} | {ratio} |'
            )
    first, last = memory(args.images)
    lines += [
        '',
        f'Resident memory after 50 images: {first:.2f} MiB; after {args.images}: {last:.2f} MiB, {last - first:+.2f} MiB.',
        '',
        "uint8 is what mmssl's segmentor hands to the metric; mmseg's hands int64. torchmetrics takes no uint8 labels.",
    ]
    report(
        args.out,
        'Counting for segmentation metrics',
        lines,
        f'1 thread, {args.rounds} interleaved rounds',
        'onedl-mmsegmentation',
        'torchmetrics',
    )


if __name__ == '__main__':
    main()
