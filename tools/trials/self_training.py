"""AP50 on BCCD from 20 labelled images, before and after self-training with ``mmssl finetune --pseudo``.

    python tools/trials/self_training.py bccd CHECKPOINT --seeds 0 1 2

For each seed 20 training images are drawn. A detector is trained on them, predicts the other training images,
and a second one is trained on both, from the same checkpoint and for as many steps. Thresholds are calibrated
on the validation images; AP50 is that of the test images, which nothing else sees.
"""

import argparse
import json
import os
import random
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)] * (str(ROOT) not in sys.path)


def names_of(data: Path, split: str) -> list[str]:
    """Return the names of the images of a part."""
    return (data / f'ImageSets/Main/{split}.txt').read_text().split()


def make_folder(data: Path, folder: Path, parts: dict[str, list[str]]) -> Path:
    """Make a PASCAL VOC folder of links with these parts: {name of the part: names of its images}."""
    for part, names in parts.items():
        for name in names:
            for source in (f'JPEGImages/{name}.jpg', f'Annotations/{name}.xml'):
                (folder / source).parent.mkdir(parents=True, exist_ok=True)
                if not (folder / source).exists():
                    os.symlink(data / source, folder / source)
        (folder / 'ImageSets/Main').mkdir(parents=True, exist_ok=True)
        (folder / f'ImageSets/Main/{part}.txt').write_text('\n'.join(names) + '\n')
    return folder


def train(checkpoint: str, data: Path, work_dir: Path, args: argparse.Namespace, pseudo: str | None = None):
    """Train a detector unless it is there; return its AP50 in percent."""
    from mmssl.apis import finetune

    result = work_dir / 'ap50.json'
    if not result.is_file():
        finetune(checkpoint, 'detect', data, work_dir, iters=args.iters, size=320, seeds=(0,), pseudo=pseudo)
        logs = sorted(work_dir.glob('*/vis_data/*.json'))
        lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
        scores = [line['coco/bbox_mAP_50'] for line in lines if 'coco/bbox_mAP_50' in line]
        result.write_text(json.dumps(100 * scores[-1]))
    return json.loads(result.read_text())


def one_seed(args: argparse.Namespace, seed: int, data: Path, folder: Path) -> list:
    """Return (seed, AP50 before, AP50 after, boxes taken as labels, images with them)."""
    from mmssl.apis import predict

    names = sorted(names_of(data, 'train'))
    labelled = sorted(random.Random(seed).sample(names, args.labels))
    others = sorted(set(names) - set(labelled))
    few = make_folder(data, folder / 'few', dict(train=labelled, val=names_of(data, 'test')))
    judge = make_folder(data, folder / 'calibration', dict(val=names_of(data, 'val'), train=labelled))
    before = train(args.checkpoint, few, folder / 'first', args)
    images = folder / 'unlabelled.txt'
    images.write_text(''.join(f'{data}/JPEGImages/{name}.jpg\n' for name in others))
    weights = folder / f'first/iter_{args.iters}.pth'
    done = predict(
        folder / 'first/config.py', weights, images, folder / 'pseudo', calibrate=str(judge),
        keep_uncertain=True, device='cpu',
    )  # fmt: skip
    certain = [each for image in done.labels.images for each in image.objects if not each.crowd]
    pseudo = str(folder / 'pseudo/annotations.json')
    after = train(args.checkpoint, few, folder / 'second', args, pseudo)
    return [seed, before, after, len(certain), len(done.labels.images)]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', help='BCCD, as PASCAL VOC')
    parser.add_argument('checkpoint', help='pre-trained backbone')
    parser.add_argument('--labels', type=int, default=20, help='labelled images (default: %(default)s)')
    parser.add_argument('--iters', type=int, default=300, help='steps of 4 images (default: %(default)s)')
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--work-dir', default='work_dirs/self_training', help='runs that ended stay there')
    parser.add_argument('--output', help='Markdown file to write')
    args = parser.parse_args()
    start, rows = time.time(), []
    for seed in args.seeds:
        folder = Path(args.work_dir).resolve() / f'seed-{seed}'
        folder.mkdir(parents=True, exist_ok=True)
        rows.append(one_seed(args, seed, Path(args.data).resolve(), folder))
        print(rows[-1], f'{time.time() - start:.0f} s', flush=True)
    header = ['seed', 'AP50 before', 'AP50 after', 'difference', 'boxes as labels', 'images']
    cells = [
        [seed, f'{a:.1f}', f'{b:.1f}', f'{b - a:+.1f}', boxes, images] for seed, a, b, boxes, images in rows
    ]
    mean = [sum(row[column] for row in rows) / len(rows) for column in (1, 2)]
    cells.append(['mean', *(f'{value:.1f}' for value in mean), f'{mean[1] - mean[0]:+.1f}', '', ''])
    lines = ['# Self-training from 20 labelled images', '', *(__doc__.split('\n')[2:-1]), '']
    lines += [f'{args.labels} labelled images, {args.iters} steps of 4 images at 320x240; percent, COCO.', '']
    lines += ['| ' + ' | '.join(map(str, row)) + ' |' for row in [header, ['---'] * len(header), *cells]]
    print('\n'.join(lines))
    if args.output:
        Path(args.output).write_text('\n'.join(lines) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
