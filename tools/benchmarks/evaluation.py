"""Images per second of the confusion matrix behind the segmentation metrics, against mmseg and torchmetrics.

    python tools/benchmarks/evaluation.py

Predictions are wrong along boundaries and in patches. Every metric takes a prediction and a label from memory
and adds to its counts; the counts are compared before the timing. mmseg's metric is IoUMetric; torchmetrics
runs without its validation, which is its fast form, and is left out where it is not installed. The resident
memory of a process is read after 50 images and after thousands.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from timing import ROOT, Results, medians, parser_of, report, table, use_threads

sys.path.insert(0, str(ROOT))
SIZES = [(512, 1024, 19), (512, 683, 150)]


def prediction_and_label(
    height: int, width: int, classes: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a prediction and a label, (H, W) uint8.

    The label consists of blocks of 32 pixels, with 3 % of the pixels ignored. The prediction is the label
    shifted by three pixels, with another class in a tenth of its patches of 16 pixels.
    """

    def blocks(values: np.ndarray, size: int) -> np.ndarray:
        return np.kron(values, np.ones((size, size), np.int64))[:height, :width]

    label = blocks(generator.integers(0, classes, (height // 32 + 1, width // 32 + 1)), 32)
    patches = (height // 16 + 1, width // 16 + 1)
    is_wrong = blocks(generator.random(patches) < 0.1, 16).astype(bool)
    other = blocks(generator.integers(0, classes, patches), 16)
    prediction = np.where(is_wrong, other, np.roll(label, (3, 3), (0, 1)))
    label = np.where(generator.random((height, width)) < 0.03, 255, label)
    return prediction.astype(np.uint8), label.astype(np.uint8)


def metrics(height: int, width: int, classes: int, dtype: torch.dtype) -> dict:
    """Return name -> call that counts one image, after checking that the counts are equal."""
    from mmengine.structures import PixelData
    from mmseg.evaluation import IoUMetric

    from mmssl.evaluation.segmentation import SegmentationMetric

    maps = prediction_and_label(height, width, classes, np.random.default_rng(0))
    prediction, label = (torch.from_numpy(values).to(dtype) for values in maps)
    meta = {'classes': [str(index) for index in range(classes)]}
    ours, peer = SegmentationMetric(), IoUMetric()
    ours.dataset_meta = peer.dataset_meta = meta
    fields = {'pred_sem_seg': PixelData(data=prediction[None]), 'gt_sem_seg': PixelData(data=label[None])}
    batch = [{name: {'data': field.data} for name, field in fields.items()}]
    batch[0].update(img_path='', seg_map_path='')

    def count_mmseg() -> None:
        peer.results.clear()
        peer.process({}, batch)

    ours.process({}, batch)
    count_mmseg()
    matrix = ours.last['matrix']
    if not np.array_equal(peer.results[0][0].long().numpy(), np.diagonal(matrix)):
        raise SystemExit('the intersections of mmssl and mmseg differ')
    calls = {'mmssl': lambda: ours.process({}, batch), 'mmseg': count_mmseg}
    if dtype != torch.int64 or find_spec('torchmetrics') is None:
        return calls
    from torchmetrics.functional.classification import multiclass_confusion_matrix

    def count_torchmetrics() -> torch.Tensor:
        return multiclass_confusion_matrix(prediction, label, classes, ignore_index=255, validate_args=False)

    if not np.array_equal(count_torchmetrics().numpy(), np.asarray(matrix)):
        raise SystemExit('the confusion matrices of mmssl and torchmetrics differ')
    return {**calls, 'torchmetrics': count_torchmetrics}


def resident_memory(images: int) -> tuple[float, float]:
    """Return the resident memory in MiB after 50 images and after ``images``."""
    import gc

    count = metrics(256, 256, 19, torch.uint8)['mmssl']
    readings = []
    for index in range(images):
        count()
        if index + 1 in (50, images):
            gc.collect()
            pages = int(Path('/proc/self/statm').read_text().split()[1])
            readings.append(pages * 4096 / 2**20)
    return readings[0], readings[-1]


def main() -> None:
    """Measure, print and write."""
    parser = parser_of(__doc__, 'evaluation', rounds=15)
    parser.add_argument('--images', type=int, default=5000, help='images of the memory reading')
    args = parser.parse_args()
    from mmengine.logging import MMLogger

    MMLogger.get_instance('benchmark', log_level='ERROR')
    use_threads(args.threads)
    rows, results = [], Results()
    for dtype, dtype_name in ((torch.int64, 'int64'), (torch.uint8, 'uint8')):
        for height, width, classes in SIZES:
            name = f'{height}x{width}, {classes} classes, {dtype_name}'
            calls = metrics(height, width, classes, dtype)
            seconds = medians(calls, args.rounds, min_seconds=0.1)
            faster = {peer: seconds[peer] / seconds['mmssl'] for peer in seconds if peer != 'mmssl'}
            results[name] = {f'times faster than {peer}': ratio for peer, ratio in faster.items()}
            rates = [
                f'{1 / seconds[key]:.{digits}f}' if key in seconds else '-'
                for key, digits in (('mmssl', 0), ('mmseg', 1), ('torchmetrics', 0))
            ]
            ratios = [f'{faster[key]:.1f}' if key in faster else '-' for key in ('mmseg', 'torchmetrics')]
            rows.append([name, *rates, *ratios])
    header = ['maps', 'mmssl, images/s', 'mmseg, images/s', 'torchmetrics, images/s']
    lines = table([*header, 'times faster than mmseg', 'times faster than torchmetrics'], rows)
    if not args.no_memory:
        first, last = resident_memory(args.images)
        lines += [
            f'Resident memory after 50 images: {first:.2f} MiB; after {args.images}: {last:.2f} MiB, '
            f'{last - first:+.2f} MiB.',
            '',
        ]
    lines += [
        "uint8 is what mmssl's segmentor passes to the metric; mmseg's passes int64. torchmetrics does not "
        'accept uint8 labels.'
    ]
    packages = ('onedl-mmsegmentation', 'torchmetrics')
    report(
        args,
        'Counting for segmentation metrics',
        lines,
        results,
        f'{args.rounds} interleaved rounds',
        packages,
    )


if __name__ == '__main__':
    main()
