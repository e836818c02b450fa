"""A masked autoencoder learns on real pictures, in about three minutes on two cores: what ``make demo`` runs.

Makes the demo data, measures k-NN with random weights, pre-trains, measures again, and draws input, masked
input and reconstruction.
"""

import argparse
import shutil
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

CONFIG = 'mae/mae_vit-micro-p8_1xb128-coslr-800i_demo.py'


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--iters', type=int, default=800, help='training steps')
    parser.add_argument('--work-dir', default='work_dirs/demo', help='where checkpoint and picture go')
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
    before = neighbours(runner.model, data)
    print(
        f'k-NN before: {before:.1f} % of {len(list((data / "val").glob("*/*")))} pieces are given to the right photograph',
        flush=True,
    )
    runner.train()
    after = neighbours(runner.model, data)
    picture = work_dir / 'reconstruction.png'
    draw(runner.model, data, picture)
    print(
        f'k-NN after:  {after:.1f} % (before: {before:.1f} %, chance: {100 / len(list((data / "val").iterdir())):.1f} %)'
    )
    print(f'picture:     {picture}')
    print(f'checkpoint:  {work_dir / (work_dir / "last_checkpoint").read_text()}')
    print(
        f'{time.monotonic() - start:.0f} s in all. Now your own pictures:\n'
        '  python tools/train.py configs/mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py --data DIR --auto-scale-lr --cfg-options train_dataloader.batch_size=64'
    )
    return 0


def neighbours(model, data: Path) -> float:
    """Top-1 accuracy of 20-NN, percent: neighbours among data/train, questions from data/val."""
    from mmssl.evaluation import extract_features, image_loader, knn_accuracy, labelled_images

    parts = labelled_images(str(data), 48)
    train, val = (
        extract_features(model, image_loader(images, batch_size=128), progress=False) for images in parts
    )
    return knn_accuracy(*train, *val, k=20)['top1']


def draw(model, data: Path, out: Path) -> None:
    """Twelve pieces that the model has not seen, in two columns."""
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
