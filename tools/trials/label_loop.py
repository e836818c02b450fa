"""Clicks per mask over the rounds of ``mmssl loop``, with a perfect person, on two small parts of COCO.

    python tools/trials/label_loop.py DIR MOBILENETV2

DIR holds coco_mini and coco_light, MOBILENETV2 is a backbone in mmpretrain's names. A small Segment Anything
is trained on coco_light; the loop labels the images of coco_mini, which it has not seen. The person corrects
pre-filled masks to the labelled ones and accepts those with an IoU of at least ``--min-iou``. Clicks are
those of the simulated user of the evaluation; each round's weights are also measured on the validation images
of coco_mini, which no round trains on.
"""

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)] * (str(ROOT) not in sys.path)
CONFIG = str(ROOT / 'configs/sam/sam_mobilenetv2_1xb4-amp-1400i_coco-minis-256.py')
GENERATOR = dict(points_per_side=12, pred_iou_thresh=0.25, stability_score_thresh=0.6, box_nms_thresh=0.5)


def first_model(args: argparse.Namespace, folder: Path) -> str:
    """Train the model of the first round on coco_light, unless it is there; return its weights."""
    from mmssl.apis.training import train, training_arguments
    from mmssl.config.load import load_config

    work_dir, iters = folder / 'start', args.start_iters
    weights = work_dir / f'iter_{iters}.pth'
    if not weights.is_file():
        cfg = load_config(CONFIG)
        cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.datasets[1]
        cfg.train_dataloader.dataset.data_root = args.data
        cfg.train_dataloader.num_workers = 0
        cfg.train_dataloader.persistent_workers = False
        cfg.load_from = args.backbone
        for name in ('cfg', 'dataloader', 'evaluator'):
            cfg[f'val_{name}'] = cfg[f'test_{name}'] = None
        cfg.train_cfg = dict(cfg.train_cfg, max_iters=iters, val_interval=None)
        cfg.train_cfg.pop('val_interval')
        cfg.param_scheduler[1].end = iters
        cfg.default_hooks.checkpoint.interval = 50
        config = folder / 'start.py'
        cfg.dump(config)
        train(training_arguments(str(config), work_dir=str(work_dir), resume='auto'))
    return str(weights)


def link_images(data: Path, folder: Path) -> tuple[Path, dict]:
    """Link the images to label; return their folder and the labels, without crowds."""
    source = data / 'coco_mini/train2017'
    content = json.loads((data / 'coco_mini/annotations/instances_train2017.json').read_text())
    (folder / 'images').mkdir(exist_ok=True)
    for image in content['images']:
        target = folder / 'images' / image['file_name']
        if not target.exists():
            os.symlink(source / image['file_name'], target)
    content['annotations'] = [each for each in content['annotations'] if not each['iscrowd']]
    return folder / 'images', content


def correct(loop: Path, number: int, truth: dict, images: Path, min_iou: float) -> None:
    """Write what the person makes of the pre-filled masks of a round."""
    from mmssl.apis.loop_labels import CORRECTED, PREFILLED, round_folder
    from mmssl.checkpoint import write_json
    from mmssl.data.label_formats import read_labels
    from mmssl.data.label_formats.coco import coco_content

    folder = round_folder(loop, number)
    shown = read_labels(folder / PREFILLED, images=[images])
    names = {image.name for image in shown.images}
    part = dict(truth, images=[each for each in truth['images'] if each['file_name'] in names])
    ids = {each['id'] for each in part['images']}
    part['annotations'] = [
        dict(each, category_id=1) for each in truth['annotations'] if each['image_id'] in ids
    ]
    part['categories'] = [dict(id=1, name='object', supercategory='object')]
    (folder / 'truth.json').write_text(json.dumps(part))
    labels = read_labels(folder / 'truth.json', images=[images])
    by_name = {image.name: image for image in shown.images}
    corrected = []
    for image in labels.images:
        accepted = best_matches(by_name[image.name], image, min_iou)
        objects = [accepted.get(index, each) for index, each in enumerate(image.objects)]
        corrected.append(replace(image, objects=objects))
    write_json(folder / CORRECTED[0], coco_content(replace(labels, images=corrected), with_scores=False))


def best_matches(shown, truth, min_iou: float) -> dict:
    """Return {index of a labelled mask: the pre-filled mask that is accepted for it}, one to one."""
    import numpy as np

    from mmssl.data.annotations import coco_masks
    from mmssl.data.label_formats.shapes import object_rle

    codes = [object_rle(each, shown) for each in shown.objects]
    targets = [object_rle(each, truth) for each in truth.objects]
    if not codes or not targets:
        return {}
    ious = np.asarray(coco_masks().iou(codes, targets, [0] * len(targets))).reshape(len(codes), -1)
    accepted = {}
    while ious.max() >= min_iou:
        row, column = np.unravel_index(ious.argmax(), ious.shape)
        accepted[int(column)] = shown.objects[row]
        ious[row], ious[:, column] = -1, -1
    return accepted


def held_out(checkpoint: str, data: Path, args: argparse.Namespace) -> dict[str, float]:
    """Return clicks per mask, and IoU of masks from boxes, on the validation images of coco_mini."""
    from mmssl.apis.loop_measure import simulate_clicks
    from mmssl.apis.sam import load_sam
    from mmssl.data.label_formats import read_labels

    labels = read_labels(
        data / 'coco_mini/annotations/instances_val2017.json', images=[data / 'coco_mini/val2017']
    )
    model = load_sam(CONFIG, checkpoint)
    results = simulate_clicks(model, labels.images[: args.held_out], args.min_iou, args.max_clicks)
    return dict(clicks=float(results.clicks.mean()), box_iou=float(100 * results.box_ious.mean()))


def run_rounds(args: argparse.Namespace, folder: Path, data: Path) -> list[list]:
    """Run the loop to its end; return a row for each round."""
    from mmssl.apis.loop import run_loop

    images, truth = link_images(data, folder)
    start = first_model(args, folder)
    loop = folder / 'loop'
    settings = dict(
        images=str(images), model=CONFIG, checkpoint=start, number=args.number, min_iou=args.min_iou,
        max_clicks=args.max_clicks, iters=args.iters, precision=args.precision, generator=GENERATOR,
        cfg_options=['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
                     'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None'],
    )  # fmt: skip
    while True:
        state = run_loop(loop, report=lambda text: print(text, flush=True), **settings)
        if state.rounds[-1].stage == 'done':
            break
        correct(loop, state.rounds[-1].number, truth, images, args.min_iou)
    weights = [state.rounds[0].checkpoint, *(str(each.next_checkpoint) for each in state.rounds)]
    quality = [held_out(checkpoint, data, args) for checkpoint in weights]
    rows = []
    for each, before, after in zip(state.rounds, quality, quality[1:], strict=False):
        masks = sum(each.changed[name] for name in ('accepted', 'edited', 'added'))
        rows.append(
            [each.number, len(each.images), masks, each.shown['masks'], each.changed['accepted'],
             each.changed['deleted'], each.clicks_per_mask, before, after]
        )  # fmt: skip
    return rows


def draw(rows: list[list], path: Path) -> None:
    """Draw clicks per mask over the rounds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 3.8), layout='constrained')
    axes = figure.subplots()
    axes.plot([row[0] for row in rows], [row[6] for row in rows], 'o-', label='images of the round')
    held = [rows[0][7]['clicks'], *(row[8]['clicks'] for row in rows)]
    axes.plot([row[0] for row in rows] + [len(rows) + 1], held, 's--', label='held-out images')
    axes.set(xlabel='round', ylabel='clicks per mask', xticks=range(1, len(rows) + 2))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', help='folder of coco_mini and coco_light')
    parser.add_argument('backbone', help='MobileNetV2 trained on ImageNet, in the names of mmpretrain')
    parser.add_argument('--start-iters', type=int, default=200, help='steps before the first round')
    parser.add_argument('--number', type=int, default=16, help='images of a round (default: %(default)s)')
    parser.add_argument('--iters', type=int, default=100, help='steps of a round (default: %(default)s)')
    parser.add_argument('--min-iou', type=float, default=0.5, help='IoU of a right mask')
    parser.add_argument('--max-clicks', type=int, default=6, help='clicks after which a mask is given up')
    parser.add_argument('--precision', type=float, default=0.5, help='share of right pre-filled masks')
    parser.add_argument('--work-dir', default='work_dirs/label_loop', help='the trial goes on from there')
    parser.add_argument('--held-out', type=int, default=40, help='validation images (default: %(default)s)')
    parser.add_argument('--picture', help='PNG file of the curve')
    parser.add_argument('--output', help='Markdown file to write')
    args = parser.parse_args()
    start, folder = time.time(), Path(args.work_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    args.data = str(Path(args.data).resolve())
    args.backbone = str(Path(args.backbone).resolve())
    rows = run_rounds(args, folder, Path(args.data))
    header = ['round', 'images', 'masks', 'pre-filled', 'accepted', 'deleted', 'clicks per mask',
              'held-out clicks, before', 'after', 'held-out box IoU, before', 'after']  # fmt: skip
    cells = [
        [*row[:6], f'{row[6]:.2f}', f'{row[7]["clicks"]:.2f}', f'{row[8]["clicks"]:.2f}',
         f'{row[7]["box_iou"]:.1f}', f'{row[8]["box_iou"]:.1f}']
        for row in rows
    ]  # fmt: skip
    lines = ['# The label loop with a perfect person', '', *(__doc__.split('\n')[2:-1]), '']
    lines += [
        f'{args.start_iters} steps of 4 images before the first round, {args.iters} of 2 in each round; '
        f'masks count as right from an IoU of {args.min_iou}, {args.max_clicks} clicks at most; '
        f'{time.time() - start:.0f} s.',
        '',
        *('| ' + ' | '.join(map(str, row)) + ' |' for row in [header, ['---'] * len(header), *cells]),
    ]
    print('\n'.join(lines))
    if args.picture:
        draw(rows, Path(args.picture))
    if args.output:
        Path(args.output).write_text('\n'.join(lines) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
