"""Images of five bands of which only the last holds the class: k-NN after pre-training, and fine-tuning.

    python tools/trials/five_bands.py data moco mae moco-rgb mae-rgb semantic detect --data DATA \
        --work-dir work_dirs/five_bands --output docs/results/bands.md

DATA holds imagenette and tiny_imagenet_20c.zip; the images are made of them, see five_bands_data.py. The
design was fixed before the first result:

- `moco` and `mae` are pre-trained for 30 epochs on the 1,600 training images of 64x64 without labels, with
  five bands, `moco-rgb` and `mae-rgb` with the first three only. k-NN of the 400 validation images by the
  1,600; four classes, 25 % is chance. Ranges, means and deviations are those of `mmssl stats`.
- `semantic` and `detect` fine-tune the weights of `moco` by `mmssl finetune` on 48 images of 128x128, GCN and
  R-FCN, 300 steps, 80 images for validation; against random weights of the same network, in two seeds.

Each step runs `mmssl` as it is; `data` first, and the rest in any order and in several calls. The tables are
written again after each step.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORKERS = ['train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=False']
MOCO = """
_base_ = ['mmssl::tutorial/pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool.py', {measured!r}]
data_preprocessor = dict(mean={mean}, std={std})
model = dict(backbone=dict(in_channels={channels}))
train_pipeline = [
    dict(type='mmssl.LoadViews', preset='moco-v2-bands', scale=64, crop_ratio_range=(0.25, 1.0),
         blur_prob=0.0, **{reading}),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
"""
MAE = """
_base_ = ['mmssl::mae/mae_vit-mini-p8_1xb256-amp-coslr-40e_tiny-imagenet.py', {measured!r}]
data_preprocessor = dict(mean={mean}, std={std})
model = dict(
    backbone=dict(in_channels={channels}), neck=dict(in_chans={channels}), head=dict(in_channels={channels}))
train_pipeline = [
    dict(type='mmssl.LoadRandomResizedCrop', scale=64, crop_ratio_range=(0.4, 1.0), interpolation='bicubic',
         **{reading}),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackInputs'),
]
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
custom_hooks = [hook for hook in _base_.custom_hooks if hook['type'] != 'mmssl.KNNHook']
"""
FINETUNE = {'semantic': ('maps', 'GCN, mIoU'), 'detect': ('boxes', 'R-FCN, AP50')}
STEPS = ('data', 'moco', 'mae', 'moco-rgb', 'mae-rgb', *FINETUNE)


def mmssl(*arguments) -> None:
    """Run a command."""
    subprocess.run([sys.executable, '-m', 'mmssl.cli', *map(str, arguments)], check=True)


def make_data(data: Path, work: Path) -> None:
    """Write the images and measure them."""
    sys.path[:0] = [str(Path(__file__).parent)]
    from five_bands_data import write_fields, write_sheets

    write_sheets(data, work / 'sheets')
    write_fields(data, work / 'fields')
    mmssl('stats', work / 'sheets/train', '--out', work / 'measured.py')


def pretrain(name: str, work: Path, epochs: int) -> dict:
    """Pre-train on five bands, or on three, and measure k-NN before and after."""
    method, _, rgb = name.partition('-')
    config = write_config(method, 3 if rgb else 5, work)
    run = work / name
    started = time.monotonic()
    # MoCo's config has one folder, MAE's the part `train` of a folder
    images = work / 'sheets/train' if method == 'moco' else work / 'sheets'
    options = ['--work-dir', run, '--epochs', epochs, '--cfg-options', *WORKERS]
    mmssl('train', config, '--data', images, *options)
    seconds = time.monotonic() - started
    result: dict = dict(seconds=seconds)
    for key, checkpoint in (('random', 'random'), ('trained', run / f'epoch_{epochs}.pth')):
        file = run / f'knn-{key}.json'
        options = ['--image-size', 64, '--workers', 0, '--out', file]
        mmssl('knn', config, checkpoint, '--data', work / 'sheets', *options)
        result[key] = json.loads(file.read_text())
    return result


def write_config(method: str, channels: int, work: Path) -> Path:
    """Write the config of a pre-training."""
    from mmengine import Config

    measured = Config.fromfile(work / 'measured.py')
    value_range = [tuple(pair) for pair in measured.value_range[:channels]]
    loaded = 5 if channels == 5 else [0, 1, 2]
    path = work / f'{method}-{channels}.py'
    text = {'moco': MOCO, 'mae': MAE}[method]
    path.write_text(
        text.format(
            measured=str(work / 'measured.py'),
            mean=measured.mean[:channels],
            std=measured.std[:channels],
            channels=channels,
            reading=f'dict(value_range={value_range}, channels={loaded})',
        )
    )
    return path


def finetune(task: str, work: Path, epochs: int, iters: int) -> dict:
    """Fine-tune from the pre-trained and from random weights."""
    folder, _ = FINETUNE[task]
    run = work / task
    started = time.monotonic()
    mmssl(
        *('finetune', work / f'moco/epoch_{epochs}.pth', '--task', task, '--data', work / 'fields' / folder),
        *('--compare', 'random', '--seeds', '0,1', '--iters', iters, '--work-dir', run),
        *('--cfg-options', *WORKERS),
        *('val_dataloader.num_workers=0', 'val_dataloader.persistent_workers=False'),
    )
    return dict(seconds=time.monotonic() - started, table=json.loads((run / 'table.json').read_text()))


def page(results: dict) -> str:
    """Return the tables of all steps that have run."""
    lines = [
        '| pre-training | bands | k-NN of random weights | k-NN after | wall time |',
        '|---|---|---|---|---|',
    ]
    for name in STEPS[1:5]:
        if name in results:
            result = results[name]
            method, _, rgb = name.partition('-')
            scores = ' | '.join(f'{percent(result[key]):.1f}' for key in ('random', 'trained'))
            lines.append(f'| {method} | {"1-3" if rgb else "1-5"} | {scores} | {minutes(result)} |')
    lines += [
        '',
        '| fine-tuning | start | seed 0 | seed 1 | mean | wall time of all |',
        '|---|---|---|---|---|---|',
    ]
    for task, (_, title) in FINETUNE.items():
        if task in results:
            for row in results[task]['table']['rows']:
                values = list(row['values'].values())
                cells = [title, row['start'], *(f'{value:.1f}' for value in values), f'{row["mean"]:.1f}']
                lines.append(f'| {" | ".join(cells)} | {minutes(results[task])} |')
    return '\n'.join(lines) + '\n'


def percent(result: dict) -> float:
    """Return the accuracy of a file of ``mmssl knn``, in percent."""
    return next(value for key, value in result.items() if 'top1' in key)


def minutes(result: dict) -> str:
    """Return the wall time."""
    return f'{int(result["seconds"] // 60)} min {int(result["seconds"] % 60)} s'


def main() -> None:
    """Run the steps and write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('steps', nargs='+', choices=STEPS)
    parser.add_argument(
        '--data', type=Path, required=True, help='folder with imagenette and tiny_imagenet_20c.zip'
    )
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument(
        '--output', type=Path, help='the page; its tables are written below its first heading'
    )
    parser.add_argument('--epochs', type=int, default=30, help='of pre-training')
    parser.add_argument('--iters', type=int, default=300, help='steps of fine-tuning')
    args = parser.parse_args()
    work = args.work_dir.absolute()
    work.mkdir(parents=True, exist_ok=True)
    for step in args.steps:
        if step == 'data':
            make_data(args.data.absolute(), work)
            continue
        if step in FINETUNE:
            result = finetune(step, work, args.epochs, args.iters)
        else:
            result = pretrain(step, work, args.epochs)
        (work / f'{step}.json').write_text(json.dumps(result))
        done = {name: work / f'{name}.json' for name in STEPS[1:]}
        text = page({name: json.loads(file.read_text()) for name, file in done.items() if file.exists()})
        print(text)
        if args.output:
            partial = args.output.with_suffix('.partial')
            partial.write_text(text)
            os.replace(partial, args.output)


if __name__ == '__main__':
    main()
