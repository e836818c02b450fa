"""Mini-batch k-means over the patches of random crops, for ``mmssl tokenizer fit``."""

import argparse
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mmssl.apis.loading import pick_device
from mmssl.checkpoint import save_file
from mmssl.commands.arguments import check_minimums, progress_hidden
from mmssl.layers.patch import patch_grid, patchify
from mmssl.selfsup.kmeans import MiniBatchKMeans
from mmssl.selfsup.tokenizers import RANDOM, KMeansTokenizer


def fit(args: argparse.Namespace) -> int:
    """Fit a tokenizer, write its file, and print how much of the patches' contrast the tokens keep.

    Raises:
        FileExistsError: The file exists already.
        ValueError: An argument is out of range, or there are too few patches for the tokens.
    """
    _check_arguments(args)
    start = time.monotonic()
    grid = patch_grid(args.image_size, args.image_size, (args.patch_size, args.patch_size))
    device = pick_device(args.device)
    tokenizer = KMeansTokenizer(RANDOM, args.tokens, args.patch_size).to(device)
    patches_per_image = min(args.patches_per_image, grid[0] * grid[1])
    if args.images * patches_per_image < args.tokens:
        raise ValueError(
            f'{args.images} images with {patches_per_image} patches each are too few for {args.tokens} '
            'tokens; '
            'raise --images, or use fewer --tokens'
        )
    kmeans = MiniBatchKMeans(args.tokens, _nearest_function(tokenizer), args.seed)
    num_images, contrast = _cluster(kmeans, tokenizer, crop_loader(args), patches_per_image, args)
    centroids, counts = kmeans.finish()
    save_file(
        dict(
            kind='mmssl.KMeansTokenizer',
            centroids=centroids.cpu(),
            counts=counts.cpu(),
            patch_size=tokenizer.patch_size,
            eps=tokenizer.eps,
            image_size=args.image_size,
            crop=tuple(args.crop),
            images=num_images,
            patches=kmeans.samples,
            seed=args.seed,
            kept_contrast=contrast,
        ),
        args.out,
    )
    print(
        f'{args.out}: {args.tokens} tokens of {args.patch_size}x{args.patch_size} pixels from '
        f'{kmeans.samples:,} patches of {num_images:,} crops; '
        f'a token keeps {contrast:.0%} of the contrast of its patch; {int((counts > 0).sum())} tokens used; '
        f'{time.monotonic() - start:.0f} s'
    )
    return 0


def _check_arguments(args: argparse.Namespace) -> None:
    check_minimums(
        args,
        tokens=2,
        patch_size=1,
        image_size=1,
        images=1,
        patches_per_image=1,
        batch_size=1,
        workers=0,
    )
    if os.path.isdir(args.out):
        raise IsADirectoryError(f'--out {args.out} is a directory; name a file in it')
    if os.path.exists(args.out) and not args.force:
        raise FileExistsError(f'--out {args.out} exists; --force replaces it')


def _nearest_function(tokenizer: KMeansTokenizer):
    """Return the tokenizer's own assignment of patches to centroids, so that fitting and training agree."""

    def nearest(patches: Tensor, centroids: Tensor) -> Tensor:
        tokenizer.centroids = centroids
        return tokenizer.nearest(patches)

    return nearest


def _cluster(
    kmeans: MiniBatchKMeans,
    tokenizer: KMeansTokenizer,
    loader: Iterable[Tensor],
    patches_per_image: int,
    args: argparse.Namespace,
) -> tuple[int, float]:
    """Run k-means over random patches of the crops.

    Returns:
        The number of crops, and the fraction of the patches' contrast that the tokens keep: 1 minus the mean
        squared distance to the nearest centroid over the mean squared norm, over the last quarter of the
        batches.
    """
    generator = torch.Generator().manual_seed(args.seed)
    device = tokenizer.centroids.device
    statistics = []
    num_images = 0
    with tqdm(
        total=args.images, desc='fitting', unit='image', file=sys.stderr, disable=progress_hidden(args)
    ) as bar:
        for images in loader:
            images = images[: args.images - num_images].to(device).flip(1).float() / 255  # BGR to RGB
            num_images += len(images)
            patches = patchify(images, args.patch_size)
            order = torch.rand(patches.shape[:2], generator=generator).argsort(dim=1)
            selected = order[:, :patches_per_image].to(device)
            patches = patches.gather(1, selected.unsqueeze(-1).expand(-1, -1, patches.shape[-1]))
            patches = tokenizer.normalize(patches.flatten(0, 1))
            distance = kmeans.update(patches)
            statistics.append((distance, patches.square().sum(dim=1).mean()))
            bar.update(len(images))
            if num_images >= args.images:
                break
    last_quarter = torch.tensor(statistics[-max(1, len(statistics) // 4) :])
    distance, norm = last_quarter.nanmean(dim=0)
    return num_images, float(1 - distance / norm)


def crop_loader(args: argparse.Namespace) -> Any:
    """Create a loader of endless batches (B, 3, H, W) of random crops, uint8 BGR."""
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
            collate_fn=dict(type=stack_images),
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


def stack_images(samples: list[dict]) -> Tensor:
    """Stack the images of samples to (B, 3, H, W) uint8."""
    return torch.from_numpy(np.stack([sample['img'] for sample in samples])).permute(0, 3, 1, 2)
