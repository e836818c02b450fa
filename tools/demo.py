"""Train a masked autoencoder on real images, in about three minutes on two cores; ``make demo`` runs it.

Generates the demo data, measures k-NN with random weights, pre-trains, measures again, and draws input,
masked input and reconstruction.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CONFIG = 'mae/mae_vit-micro-p8_1xb128-coslr-800i_demo.py'


def main() -> int:
    """Run the demo and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--iters', type=int, default=800, help='training steps')
    parser.add_argument(
        '--work-dir', default='work_dirs/demo', help='folder of the checkpoint and the figure'
    )
    args = parser.parse_args()
    start = time.monotonic()
    work_dir = Path(args.work_dir)
    shutil.rmtree(work_dir, ignore_errors=True)

    from mmssl.config.load import load_config
    from mmssl.engine.launch import make_missing_demo_data

    cfg = load_config(
        CONFIG,
        [
            f'train_cfg.max_iters={args.iters}',
            f'param_scheduler.end={args.iters}',
            f'param_scheduler.warmup={args.iters // 20}',
            'log_level=ERROR',
        ],
    )
    cfg.work_dir, cfg.train_dataloader.pin_memory = str(work_dir), False
    cfg.env_cfg.dist_cfg.backend = 'gloo'
    cfg.custom_hooks.append({'type': 'mmssl.ProgressHook'})
    data = Path(cfg.train_dataloader.dataset.data_root)
    print(f'demo data: {data.parent}', flush=True)
    make_missing_demo_data(cfg)

    from mmssl.engine.runner import runner_class

    runner = runner_class(cfg).from_cfg(cfg)
    runner.model.init_weights()
    before = knn_top1(runner.model, data)
    num_crops, num_classes = len(list((data / 'val').glob('*/*'))), len(list((data / 'val').iterdir()))
    print(
        f'k-NN before: {before:.1f} % of {num_crops} crops are assigned to the right photograph', flush=True
    )
    runner.train()
    after = knn_top1(runner.model, data)
    figure = work_dir / 'reconstruction.png'
    draw(runner.model, data, figure)
    print(f'k-NN after:  {after:.1f} % (before: {before:.1f} %, chance: {100 / num_classes:.1f} %)')
    print(f'figure:      {figure}')
    print(f'checkpoint:  {work_dir / (work_dir / "last_checkpoint").read_text()}')
    print(
        f'{time.monotonic() - start:.0f} s in all. With your own images:\n'
        '  python tools/train.py configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py --data DIR '
        '--auto-scale-lr --cfg-options train_dataloader.batch_size=64'
    )
    return 0


def knn_top1(model, data: Path) -> float:
    """Return the top-1 accuracy in percent of 20-NN on data/val, with neighbors from data/train."""
    from mmssl.evaluation import extract_features, image_loader, knn_accuracy, labelled_images

    parts = labelled_images(str(data), 48)
    train, val = (
        extract_features(model, image_loader(images, batch_size=128), progress=False) for images in parts
    )
    return knn_accuracy(*train, *val, k=20)['top1']


def draw(model, data: Path, out: Path) -> None:
    """Draw reconstructions of twelve validation crops, in two columns."""
    import numpy as np
    import torch
    from PIL import Image

    from mmssl.visualization.layout import image_grid
    from mmssl.visualization.reconstruction import TITLES, reconstruction_rows

    files = [sorted(folder.iterdir())[3] for folder in sorted((data / 'val').iterdir())][:12]
    images = torch.stack(
        [torch.from_numpy(np.array(Image.open(path).convert('RGB'))).permute(2, 0, 1) for path in files]
    )
    noise = torch.rand(len(images), 36, generator=torch.Generator().manual_seed(0))
    rows = reconstruction_rows(model, images, noise)
    half = len(rows) // 2
    image_grid(np.concatenate([rows[:half], rows[half:]], axis=1), TITLES * 2, height=112).save(out)


if __name__ == '__main__':
    sys.exit(main())
