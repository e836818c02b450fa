"""Clicks per mask over the rounds of ``mmssl loop``, with a perfect person, on two small parts of COCO.

    python tools/trials/label_loop.py DIR --model CONFIG --checkpoint FILE

DIR holds coco_mini and coco_light. The loop labels the validation images of coco_mini, on which the model has
not been trained. The person corrects pre-filled masks to the labelled ones and accepts those with an IoU of
at least ``--min-iou``. Clicks are those of the simulated user of the evaluation; each round's weights are
also measured on validation images of coco_light, which no round trains on.
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
GENERATOR = dict(points_per_side=8, pred_iou_thresh=0.25, stability_score_thresh=0.6, box_nms_thresh=0.5)


def link_images(data: Path, folder: Path) -> tuple[Path, dict]:
    """Link the images to label; return their folder and the labels, without crowds."""
    source = data / 'coco_mini/val2017'
    content = json.loads((data / 'coco_mini/annotations/instances_val2017.json').read_text())
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
    """Return clicks per mask, and IoU of masks from boxes, on images of coco_light."""
    from mmssl.apis.loop_measure import simulate_clicks
    from mmssl.apis.sam import load_sam
    from mmssl.data.label_formats import read_labels

    labels = read_labels(
        data / 'coco_light/instances_val2017.json', images=[data / 'coco_light/images/val2017']
    )
    model = load_sam(args.model, checkpoint)
    results = simulate_clicks(model, labels.images[: args.held_out], args.min_iou, args.max_clicks)
    return dict(clicks=float(results.clicks.mean()), box_iou=float(100 * results.box_ious.mean()))


def run_rounds(args: argparse.Namespace, folder: Path, data: Path) -> list[list]:
    """Run the loop to its end; return a row for each round."""
    from mmssl.apis.loop import run_loop

    images, truth = link_images(data, folder)
    loop = folder / 'loop'
    settings = dict(
        images=str(images), model=args.model, checkpoint=args.checkpoint, number=args.number,
        min_iou=args.min_iou, max_clicks=args.max_clicks, iters=args.iters,
        precision=args.precision, generator=GENERATOR,
        cfg_options=['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False',
                     'val_cfg=None', 'val_dataloader=None', 'val_evaluator=None'],
    )  # fmt: skip
    while True:
        state = run_loop(loop, report=lambda text: print(text, flush=True), **settings)
        finished = [each for each in state.rounds if each.stage == 'done']
        if len(finished) == len(state.rounds) or len(finished) == args.rounds:
            break
        correct(loop, state.rounds[-1].number, truth, images, args.min_iou)
    weights = [state.rounds[0].checkpoint, *(str(each.next_checkpoint) for each in finished)]
    saved = folder / 'held_out.json'
    known = json.loads(saved.read_text()) if saved.is_file() else {}
    for checkpoint in weights:
        if checkpoint not in known:
            known[checkpoint] = held_out(checkpoint, data, args)
            saved.write_text(json.dumps(known))
    quality = [known[checkpoint] for checkpoint in weights]
    rows = []
    for each, before, after in zip(finished, quality, quality[1:], strict=False):
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
    parser.add_argument('--model', required=True, help='config of a small Segment Anything')
    parser.add_argument('--checkpoint', required=True, help='its weights')
    parser.add_argument('--number', type=int, default=20, help='images of a round (default: %(default)s)')
    parser.add_argument('--rounds', type=int, help='rounds after which to stop (default: when none is left)')
    parser.add_argument('--iters', type=int, default=60, help='steps of a round (default: %(default)s)')
    parser.add_argument('--min-iou', type=float, default=0.5, help='IoU of a right mask')
    parser.add_argument('--max-clicks', type=int, default=6, help='clicks after which a mask is given up')
    parser.add_argument('--precision', type=float, default=0.5, help='share of right pre-filled masks')
    parser.add_argument('--work-dir', default='work_dirs/label_loop', help='the trial goes on from there')
    parser.add_argument('--held-out', type=int, default=20, help='validation images (default: %(default)s)')
    parser.add_argument('--picture', help='PNG file of the curve')
    parser.add_argument('--output', help='Markdown file to write')
    args = parser.parse_args()
    start, folder = time.time(), Path(args.work_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    args.data = str(Path(args.data).resolve())
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
        f'{args.iters} steps of 2 images in each round; masks count as right from an IoU of '
        f'{args.min_iou}, {args.max_clicks} clicks at most; '
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
