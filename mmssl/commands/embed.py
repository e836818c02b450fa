"""``mmssl embed``: features of images in a file."""

import argparse
import sys

from mmssl.commands.arguments import (
    RANDOM,
    add_cfg_options,
    add_config,
    add_device,
    add_launcher,
    add_progress,
    add_trust,
    add_workers,
    check_files,
    check_minimums,
    checkpoint_files,
    process_of,
    progress_hidden,
)
from mmssl.commands.default_models import find_weights

HELP = 'write the features of images to a Parquet file or array; continues where it stopped'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument(
        'checkpoint', help=f'weights of the model or its backbone; {RANDOM!r} for random weights'
    )
    parser.add_argument(
        '--data',
        required=True,
        nargs='+',
        metavar='IMAGES',
        help='folder, searched with its subfolders; archive, shards, list, table, pattern or URL; or images',
    )
    parser.add_argument(
        '--out',
        required=True,
        metavar='FILE',
        help='.parquet with the columns path and feature, or .npy with the paths in a .json beside it',
    )
    parser.add_argument(
        '--pool',
        choices=['avg', 'cls', 'patch'],
        help='mean over the patches, class token, or all patches (default: the class token of a backbone '
        'that returns only that, else avg)',
    )
    parser.add_argument(
        '--image-size',
        type=int,
        metavar='PIXELS',
        help="side of the crop (default: the backbone's img_size, or the size of the training crops)",
    )
    parser.add_argument(
        '--batch-size', type=int, default=64, metavar='N', help='images per batch (default: 64)'
    )
    add_launcher(parser)
    add_workers(parser)
    add_device(parser)
    parser.add_argument('--seed', type=int, default=0, help='seed of random weights (default: 0)')
    add_progress(parser)
    add_cfg_options(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    """Compute the features and write the file.

    Returns:
        1 if images could not be read, which are reported and left out; else 0.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: An argument is out of range, or the weights do not fit.
    """
    check_minimums(args, batch_size=1, workers=0, image_size=1)
    find_weights(args)
    check_files(checkpoint_files(args.checkpoint))
    rank, world_size, device = process_of(args.launcher, args.device)
    from mmssl.apis.embedding import embed

    done = embed(
        args.config,
        args.checkpoint if checkpoint_files(args.checkpoint) else None,
        args.data,
        args.out,
        pool=args.pool,
        image_size=args.image_size,
        batch_size=args.batch_size,
        workers=args.workers,
        device=device,
        cfg_options=args.cfg_options,
        seed=args.seed,
        trust=args.trust_checkpoint,
        progress=not progress_hidden(args),
        rank=rank,
        world_size=world_size,
    )
    for reason in done.unreadable:
        print(f'mmssl embed: left out: {reason}', file=sys.stderr)
    if done.pending:
        print(f'{args.out}: {done.pending} of {done.images} images are left to other processes')
        return 0
    earlier = done.images - done.computed
    notes = f'; {earlier} by earlier runs or other processes' if earlier else ''
    notes += f'; {len(done.unreadable)} could not be read' if done.unreadable else ''
    print(f'{args.out}: {done.images - len(done.unreadable)} images{notes}')
    return int(bool(done.unreadable))
