r"""Small trainings: distillation against contrast, a start against random weights, features before and after.

    OMP_NUM_THREADS=1 python tools/trials/learning.py distil-pool moco-pool --seeds 0 1 \
        --data DATA --work-dir work_dirs/learning --output learning.md

DATA holds bccd, camvid, imagenette and tiny_imagenet_20c.zip. The work folder holds `pool`, the folder of
unlabelled images of docs/tutorial.md, and `teacher.pth`, a MobileNetV2 in mmpretrain's names, trained on
ImageNet with its labels. Rows that start from another row use its checkpoint of the same seed; `dino` is
trained once. The table is written again after each row, and holds the rows of earlier calls too.
"""

import argparse
import concurrent.futures
import json
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)] * (str(ROOT) not in sys.path)


class Row(NamedTuple):
    """A training.

    Attributes:
        config: Config, below configs/.
        data: File or folder of images, in the folder of data or of the work.
        scores: Names of the scores; the first and the last value of each are kept.
        epochs: Length of the training; that of the config if None.
        start: (row whose checkpoint it starts from, option that gets the file).
        files: (option of the config, name of the file that it gets).
    """

    config: str
    data: str
    scores: tuple[str, ...] = ('knn/top1',)
    epochs: int | None = None
    start: tuple[str, str] | None = None
    files: tuple[tuple[str, str], ...] = ()


KNN = dict(
    type='mmssl.KNNHook', data='imagenette', interval=1000, at_start=True, image_size=128, batch_size=50
)
START = 'model.backbone.init_cfg.checkpoint'
DETECTION = ('val/pascal_voc/AP50', 'val/pascal_voc/mAP')
RFCN = 'tutorial/rfcn_resnet18-narrow_1xb4-300i_bccd-320x240.py'
GCN = 'tutorial/gcn_resnet18-narrow_1xb6-amp-400i_camvid-256x256.py'
DINOV2 = 'dinov2/dinov2_vit-mini-p8_1xb64-amp-coslr-12e_tiny-imagenet.py'
ROWS = {
    'distil-pool': Row(
        'distillation/distillation_resnet18-narrow-mobilenetv2_1xb64-amp-coslr-40e_pool.py',
        'pool',
        epochs=20,
        files=(('model.teacher.init_cfg.checkpoint', 'teacher.pth'),),
    ),
    'moco-pool': Row(
        'tutorial/pretrain_moco-v2_resnet18-narrow_1xb64-coslr-40e_pool.py',
        'pool',
        epochs=10,
    ),
    'distil-bccd': Row(RFCN, 'bccd', DETECTION, start=('distil-pool', START)),
    'distil-camvid': Row(GCN, 'camvid', ('val/mIoU',), start=('distil-pool', START)),
    'moco-bccd': Row(RFCN, 'bccd', DETECTION, start=('moco-pool', START)),
    'moco-camvid': Row(GCN, 'camvid', ('val/mIoU',), start=('moco-pool', START)),
    'dino': Row(
        'dino/dino_vit-mini-p8_1xb64-amp-coslr-12e_tiny-imagenet.py', 'tiny_imagenet_20c.zip', epochs=5
    ),
    'dinov2-continued': Row(DINOV2, 'tiny_imagenet_20c.zip', epochs=4, start=('dino', 'load_from')),
    'dinov2-random': Row(DINOV2, 'tiny_imagenet_20c.zip', epochs=4),
    'ijepa': Row('ijepa/ijepa_vit-mini-p8_1xb128-amp-coslr-20e_tiny-imagenet.py', 'tiny_imagenet_20c.zip'),
    'barlow-twins': Row(
        'barlow-twins/barlow-twins_resnet18_1xb128-coslr-12e_tiny-imagenet.py', 'tiny_imagenet_20c.zip'
    ),
    'vicreg': Row('vicreg/vicreg_resnet18_1xb128-coslr-12e_tiny-imagenet.py', 'tiny_imagenet_20c.zip'),
}


def settings_of(row: Row, seed: int, folders: list[Path], work_dir: Path):
    """Return the config of a row, without workers, whose CPU time is not the trainer's."""
    from mmssl.config.length import set_training_length
    from mmssl.config.load import load_config
    from mmssl.engine.launch import use_data

    cfg = load_config(str(ROOT / 'configs' / row.config))
    use_data(cfg, find(row.data, folders))
    set_training_length(cfg, row.epochs)
    if row.scores == ('knn/top1',):
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type='mmssl.FeatureQualityHook', interval=100)]
    if row.data == 'pool':
        cfg.custom_hooks = [*cfg.custom_hooks, {**KNN, 'data': find(KNN['data'], folders)}]
    options = {key: find(value, folders) for key, value in row.files}
    if row.start is not None:
        first, option = row.start
        start = work_dir.parent / f'{first}-{0 if first == "dino" else seed}'
        options[option] = str(start / (start / 'last_checkpoint').read_text().strip())
    for loader in (cfg.train_dataloader, cfg.get('val_dataloader')):
        if loader is not None:
            loader.update(num_workers=0, persistent_workers=False)
    cfg.merge_from_dict({**options, 'work_dir': str(work_dir), 'randomness.seed': seed})
    return cfg


def find(name: str, folders: list[Path]) -> str:
    """Return the path of a file or folder in one of the folders."""
    return str(next(folder / name for folder in folders if (folder / name).exists()))


def train(name: str, seed: int, data: Path, work_dir: Path) -> dict:
    """Train a row; return its scores and seconds."""
    import mmssl.registry  # noqa: F401
    from mmssl.engine.runner import runner_class

    row = ROWS[name]
    cfg = settings_of(row, seed, [data, work_dir], work_dir / f'{name}-{seed}')
    runner = runner_class(cfg).from_cfg(cfg)
    cpu, wall = time.process_time(), time.monotonic()
    runner.train()
    result = dict(row=name, seed=seed, cpu=time.process_time() - cpu, wall=time.monotonic() - wall)
    result |= dict(steps=runner.iter, scores={})
    for score in (*row.scores, 'quality/rankme', 'quality/std'):
        if score in runner.message_hub.log_scalars:
            values = runner.message_hub.get_scalar(score).data[0].tolist()
            result['scores'][score] = [values[0], values[-1]]
    return result


def page(results: list[dict]) -> str:
    """Return the table of all rows."""
    lines = ['| row | seed | config | steps | CPU time | score | first | last |', '|' + '---|' * 8]
    for result in results:
        for score, (first, last) in result['scores'].items():
            minutes = f'{int(result["cpu"] // 60)} min {int(result["cpu"] % 60)} s'
            cells = [result['row'], result['seed'], ROWS[result['row']].config, result['steps'], minutes]
            cells += [score, f'{first:.4g}', f'{last:.4g}']
            lines.append('| ' + ' | '.join(map(str, cells)) + ' |')
    return '\n'.join(lines) + '\n'


def main() -> None:
    """Train the rows, and write the table after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('rows', nargs='+', choices=list(ROWS))
    parser.add_argument('--seeds', nargs='+', type=int, default=[0])
    parser.add_argument('--data', type=Path, required=True, help='folder of the data sets')
    parser.add_argument(
        '--work-dir', type=Path, required=True, help='folder of pool, teacher and checkpoints'
    )
    parser.add_argument('--output', type=Path, help='Markdown file to write')
    args = parser.parse_args()
    store = args.work_dir / 'results.json'
    context = multiprocessing.get_context('spawn')
    for name in args.rows:
        for seed in args.seeds:
            with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
                future = pool.submit(train, name, seed, args.data.resolve(), args.work_dir.resolve())
                result = future.result()
            results = json.loads(store.read_text()) if store.is_file() else []
            results = [old for old in results if (old['row'], old['seed']) != (name, seed)] + [result]
            store.write_text(json.dumps(results, indent=2) + '\n')
            print(result, flush=True)
            if args.output:
                unfinished = args.output.with_suffix('.part')
                unfinished.write_text(page(results), encoding='utf-8')
                os.replace(unfinished, args.output)


if __name__ == '__main__':
    main()
