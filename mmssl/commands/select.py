"""``mmssl select``: images to label first, by their features."""

import argparse

from mmssl.commands.arguments import (
    add_cfg_options,
    add_device,
    add_trust,
    check_files,
    check_minimums,
    check_output_suffix,
)

HELP = 'select images by their features: diverse, typical, outliers, or like others'
WAYS = ('diverse', 'typical', 'outliers', 'like')


def add_features(parser: argparse.ArgumentParser) -> None:
    """Add the file of features."""
    parser.add_argument('features', metavar='FEATURES', help='file of mmssl embed (.parquet or .npy)')


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the model for images that are not in the file."""
    parser.add_argument(
        '--model',
        nargs=2,
        metavar=('CONFIG', 'CHECKPOINT'),
        help='model that made the features, for images that are not in the file',
    )
    add_device(parser)
    add_cfg_options(parser)
    add_trust(parser)


def add_sheet(parser: argparse.ArgumentParser) -> None:
    """Add the contact sheet."""
    parser.add_argument('--sheet', metavar='PNG', help='contact sheet to write')


def check_sheet(args: argparse.Namespace) -> None:
    """Raise ValueError unless the sheet is a PNG file."""
    if args.sheet:
        check_output_suffix(args.sheet, ('.png',))


def model_of(args: argparse.Namespace) -> tuple[str, str | None] | None:
    """Return the config and the checkpoint of ``--model``, None for random weights."""
    if not args.model:
        return None
    config, checkpoint = args.model
    return config, None if checkpoint == 'random' else checkpoint


def model_options(args: argparse.Namespace) -> dict:
    """Return the options of :func:`add_model`, as :func:`mmssl.apis.embed` takes them."""
    return dict(device=args.device, cfg_options=args.cfg_options, trust=args.trust_checkpoint)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_features(parser)
    parser.add_argument('--number', type=int, required=True, metavar='N', help='number of images')
    parser.add_argument(
        '--how',
        nargs='+',
        default=['typical'],
        metavar='WAY',
        help='diverse: cover all images; typical: the densest of each cluster; outliers: far from all '
        'others; like IMAGE ...: similar to these (default: typical)',
    )
    parser.add_argument(
        '--exclude',
        nargs='+',
        default=[],
        metavar='LIST',
        help='list files (.txt) of images that are labelled already',
    )
    parser.add_argument('--out', required=True, metavar='TXT', help='list file to write, a path per line')
    add_sheet(parser)
    add_model(parser)


def run(args: argparse.Namespace) -> int:
    """Select the images.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: An argument is out of range, or the file is not one of features.
    """
    check_minimums(args, number=1)
    check_sheet(args)
    how, *like = args.how
    if how != 'like' and like:
        raise ValueError(f'--how {how} takes no images; only like does')
    if how == 'like' and not like:
        raise ValueError('--how like needs images: --how like IMAGE ...')
    check_files([args.features, *args.exclude])
    from mmssl.apis.selection import select

    paths = select(
        args.features,
        args.number,
        how,
        like,
        args.exclude,
        args.out,
        args.sheet,
        model=model_of(args),
        **model_options(args),
    )
    print(f'{args.out}: {len(paths)} images, {how}')
    return 0
