"""``mmssl tokenizer fit`` and ``show``: visual tokens for BEiT from one's own images."""

import argparse

HELP = 'fit a visual tokenizer for BEiT on images, or draw one'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the two actions."""
    actions = parser.add_subparsers(dest='action', required=True, metavar='fit|show')
    fit = actions.add_parser('fit', help='k-means over normalised patches of images, labels or none')
    fit.add_argument(
        '--data',
        required=True,
        metavar='DIR',
        help='folder or archive of images; its train folder where it has one',
    )
    fit.add_argument('--out', required=True, metavar='FILE.pth', help='file to write')
    fit.add_argument('--tokens', type=int, default=8192, metavar='K', help='number of tokens (default: 8192)')
    fit.add_argument(
        '--patch-size', type=int, default=16, metavar='PIXELS', help='side of a patch (default: 16)'
    )
    fit.add_argument(
        '--image-size',
        type=int,
        default=224,
        metavar='PIXELS',
        help='side of the crops, as in training (default: 224)',
    )
    fit.add_argument(
        '--crop',
        type=float,
        nargs=2,
        default=(0.08, 1.0),
        metavar=('LEAST', 'MOST'),
        help='share of the area of a crop, as in training (default: 0.08 1)',
    )
    fit.add_argument(
        '--images', type=int, default=20000, metavar='N', help='crops to look at (default: 20000)'
    )
    fit.add_argument(
        '--patches-per-image',
        type=int,
        default=64,
        metavar='N',
        help='patches of a crop to use (default: 64)',
    )
    fit.add_argument('--batch-size', type=int, default=128, help='images at once (default: 128)')
    fit.add_argument('--workers', type=int, default=2, help='processes that read images (default: 2)')
    fit.add_argument('--device', help='cpu, cuda, cuda:1, ...; a GPU by default where there is one')
    fit.add_argument('--seed', type=int, default=0, help='of every draw (default: 0)')
    fit.add_argument(
        '--progress', action='store_true', help='show a progress line even where there is no terminal'
    )
    fit.add_argument('--force', action='store_true', help='replace the file where it exists')
    show = actions.add_parser('show', help='draw the tokens, the most frequent first')
    show.add_argument('file', help='what fit wrote')
    show.add_argument('--out', required=True, metavar='PNG', help='picture to write')
    show.add_argument('--max', type=int, default=1024, metavar='N', help='tokens to draw (default: 1024)')


def run(args: argparse.Namespace) -> int:
    """Fit or draw."""
    return fit(args) if args.action == 'fit' else show(args)


def fit(args: argparse.Namespace) -> int:
    """Run k-means and write the file; prints how much of the patches' contrast the tokens keep."""
    import os
    import sys
    import time

    for name, least in (
        ('tokens', 2),
        ('patch_size', 1),
        ('image_size', 1),
        ('images', 1),
        ('patches_per_image', 1),
        ('batch_size', 1),
        ('workers', 0),
    ):
        if getattr(args, name) < least:
            raise ValueError(f'--{name.replace("_", "-")} {getattr(args, name)} must be at least {least}')
    if os.path.isdir(args.out):
        raise IsADirectoryError(f'--out {args.out} is a directory; name a file in it')
    if os.path.exists(args.out) and not args.force:
        raise FileExistsError(f'--out {args.out} exists; --force replaces it')
    start = time.monotonic()
    import torch
    from tqdm import tqdm

    from mmssl.checkpoint import save_file
    from mmssl.commands.features import pick_device
    from mmssl.layers.patch import patch_grid, patchify
    from mmssl.selfsup.kmeans import MiniBatchKMeans
    from mmssl.selfsup.tokenizers import RANDOM, KMeansTokenizer

    grid = patch_grid(args.image_size, args.image_size, (args.patch_size, args.patch_size))
    device = pick_device(args.device)
    tokenizer = KMeansTokenizer(RANDOM, args.tokens, args.patch_size).to(device)
    kept = min(args.patches_per_image, grid[0] * grid[1])
    if args.images * kept < args.tokens:
        raise ValueError(
            f'{args.images} images with {kept} patches each are too few for {args.tokens} tokens; raise '
            '--images, or fewer '
            '--tokens'
        )
    loader = crops(args)
    kmeans = MiniBatchKMeans(
        args.tokens, lambda patches, centroids: nearest(tokenizer, patches, centroids), args.seed
    )
    generator = torch.Generator().manual_seed(args.seed)
    distances, seen = [], 0
    bar = tqdm(
        total=args.images,
        desc='fitting',
        unit='image',
        file=sys.stderr,
        disable=not (args.progress or sys.stderr.isatty()),
    )
    for images in loader:
        images = images[: args.images - seen].to(device).flip(1).float() / 255  # BGR to RGB
        seen += len(images)
        patches = patchify(images, args.patch_size)
        chosen = torch.rand(patches.shape[:2], generator=generator).argsort(dim=1)[:, :kept].to(device)
        patches = patches.gather(1, chosen.unsqueeze(-1).expand(-1, -1, patches.shape[-1])).flatten(0, 1)
        patches = tokenizer.normalize(patches)
        distances.append((kmeans.update(patches), patches.square().sum(dim=1).mean()))
        bar.update(len(images))
        if seen >= args.images:
            break
    bar.close()
    centroids, counts = kmeans.finish()
    last = torch.tensor(distances[-max(1, len(distances) // 4) :]).nanmean(
        dim=0
    )  # of the last quarter, before the centroids moved
    kept_contrast = float(1 - last[0] / last[1])
    save_file(
        dict(
            kind='mmssl.KMeansTokenizer',
            centroids=centroids.cpu(),
            counts=counts.cpu(),
            patch_size=tokenizer.patch_size,
            eps=tokenizer.eps,
            image_size=args.image_size,
            crop=tuple(args.crop),
            images=seen,
            patches=kmeans.samples,
            seed=args.seed,
            kept_contrast=kept_contrast,
        ),
        args.out,
    )
    print(
        f'{args.out}: {args.tokens} tokens of {args.patch_size}x{args.patch_size} pixels from '
        f'{kmeans.samples:,} patches of {seen:,} '
        f'crops; a token keeps {kept_contrast:.0%} of the contrast of its patch; {int((counts > 0).sum())} '
        'tokens used; '
        f'{time.monotonic() - start:.0f} s'
    )
    return 0


def nearest(tokenizer, patches, centroids):
    """Numbers of the nearest centroids, by the very code that training uses."""
    tokenizer.centroids = centroids
    return tokenizer.nearest(patches)


def crops(args: argparse.Namespace):
    """Endless batches (B, 3, H, W) of random crops, uint8 BGR; the same for any number of workers."""
    from mmcv.transforms import RandomFlip

    from mmssl.data.transforms import LoadRandomResizedCrop
    from mmssl.engine.runner import build_dataloader

    pipeline = [
        LoadRandomResizedCrop(args.image_size, crop_ratio_range=tuple(args.crop)),
        RandomFlip(prob=0.5),
    ]
    return build_dataloader(
        dict(
            batch_size=args.batch_size,
            num_workers=args.workers,
            sampler=dict(type='InfiniteSampler', shuffle=True),
            collate_fn=dict(type=stack),
            dataset=dict(
                type='mmssl.ImageFolder',
                data_root=args.data,
                data_prefix='train',
                labels=None,
                pipeline=pipeline,
            ),
        ),
        seed=args.seed,
    )


def stack(samples: list[dict]):
    """Images of samples, (B, 3, H, W) uint8."""
    import numpy as np
    import torch

    return torch.from_numpy(np.stack([sample['img'] for sample in samples])).permute(0, 3, 1, 2)


def show(args: argparse.Namespace) -> int:
    """Draw the centroids as a sheet."""
    import os

    import torch
    from PIL import Image

    from mmssl.checkpoint import load_file

    saved = load_file(args.file)
    if not isinstance(saved, dict) or 'centroids' not in saved:
        raise ValueError(f'{args.file} is no file of mmssl tokenizer fit')
    height, width = saved['patch_size']
    tiles = saved['centroids'][: max(1, args.max)].view(-1, height, width, 3)
    tiles = tiles / tiles.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6) / 2 + 0.5
    columns = max(1, round(len(tiles) ** 0.5))
    rows = -(-len(tiles) // columns)
    sheet = torch.ones(rows * columns, height + 1, width + 1, 3)
    sheet[: len(tiles), :height, :width] = tiles
    sheet = sheet.view(rows, columns, height + 1, width + 1, 3).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    scale = max(1, 1024 // sheet.shape[1])
    picture = Image.fromarray((sheet * 255).byte().numpy())
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST).save(args.out)
    print(f'{args.out}: {len(tiles)} of {len(saved["centroids"])} tokens, the most frequent first')
    return 0
