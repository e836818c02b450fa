r"""What FeatureQualityHook says of DINO on its recipe, with a rate a hundred times too high, and uncentred.

    OMP_NUM_THREADS=1 python tools/trials/feature_guard.py tiny_imagenet_20c.zip --seed 1 \
        --output docs/trials/feature_guard.md

Trains the mini config on real images, with smaller batches, the rate scaled alike, and a schedule of one
epoch by default. The recipe must pass without a warning, the runs at the high rate and without centring must
not. With the centre's momentum at 1 the centre stays at 0, which is DINO without centring; the head has no
batch norm there, which would keep its outputs apart. The limits were set on the runs of seeds 0 and 1.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)] * (str(ROOT) not in sys.path)
CONFIG = 'configs/dino/dino_vit-mini-p8_1xb64-amp-coslr-12e_tiny-imagenet.py'
UNCENTRED = {'model.center_momentum': 1.0, 'model.head.use_bn': False}
CASES = {
    'the recipe': {},
    'learning rate x 100': {'rate': 100},
    'the recipe without batch norm': {'model.head.use_bn': False},
    'without batch norm and centring': UNCENTRED,
}


def train(name: str, args: argparse.Namespace, work_dir: str) -> tuple[list[dict], list[str]]:
    """Train one case; return the hook's measurements and its warnings."""
    from mmengine.config import Config

    import mmssl.registry  # noqa: F401
    from mmssl.engine.runner import Runner
    from mmssl.errors import NonFiniteError

    cfg = Config.fromfile(ROOT / CONFIG)
    hook = dict(type='mmssl.FeatureQualityHook', interval=args.interval, images=256)
    changes = dict(CASES[name])
    rate = cfg.optim_wrapper.optimizer.lr * args.batch / cfg.train_dataloader.batch_size
    end = {f'param_scheduler.{index}.end': args.epochs for index in range(len(cfg.param_scheduler))}
    cfg.merge_from_dict(
        {
            'optim_wrapper.optimizer.lr': rate * changes.pop('rate', 1),
            'param_scheduler.0.warmup': args.epochs / 12,
            **end,
            'train_dataloader.batch_size': args.batch,
            'work_dir': f'{work_dir}/{"_".join(name.split())}',
            'train_dataloader.dataset.data_root': str(Path(args.data).resolve()),
            'train_dataloader.num_workers': 0,
            'train_dataloader.persistent_workers': False,
            'train_cfg.max_epochs': args.epochs,
            'randomness': dict(seed=args.seed),
            'log_level': 'WARNING',
            **changes,
        }
    )
    others = [item for item in cfg.custom_hooks if item['type'] != 'mmssl.KNNHook']
    cfg.custom_hooks = [*others, hook]
    runner = Runner.from_cfg(cfg)
    warnings: list[str] = []

    def collect(record) -> bool:
        if record.levelname == 'WARNING' and ' the features ' in record.getMessage():
            warnings.append(record.getMessage())
        return True

    runner.logger.addFilter(collect)
    with contextlib.suppress(NonFiniteError):  # a run that the high rate ends
        runner.train()
    return json.loads((Path(cfg.work_dir) / 'feature_quality.json').read_text()), warnings


def main() -> None:
    """Train, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', help='folder or zip with train/<class>/*')
    parser.add_argument('--epochs', type=int, default=1, help='epochs of each run (default: %(default)s)')
    parser.add_argument('--batch', type=int, default=16, help='images per step (default: %(default)s)')
    parser.add_argument(
        '--interval', type=int, default=75, help='iterations between measurements (default: 75)'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of the runs (default: %(default)s)')
    parser.add_argument('--cases', nargs='+', default=list(CASES), choices=list(CASES))
    parser.add_argument('--output', help='Markdown file to write')
    args = parser.parse_args()
    rows, start = [], time.time()
    for name in args.cases:
        with tempfile.TemporaryDirectory() as work_dir:
            history, warnings = train(name, args, work_dir)
        first, last = history[0], history[-1]
        numbers = [f'{first[key]:.4g} -> {last[key]:.4g}' for key in ('rankme', 'std', 'uniformity')]
        said = warnings[0].split(';')[0] if warnings else 'none'
        rows.append([name, last['iter'], *numbers, len(warnings), said])
        print(rows[-1], f'{time.time() - start:.0f} s', [entry['rankme'] for entry in history], flush=True)
    header = ['run', 'iterations', 'RankMe', 'standard deviation', 'uniformity', 'warnings', 'the first one']
    lines = ['# Warnings about features during training', '', *(__doc__.split('\n')[2:-1])]
    lines += ['', *('| ' + ' | '.join(map(str, row)) + ' |' for row in [header, ['---'] * 7, *rows])]
    if args.output:
        Path(args.output).write_text('\n'.join(lines) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
