"""``mmssl duplicates``: exact and near duplicates of images."""

import argparse
import sys

from mmssl.commands.arguments import (
    add_launcher,
    add_progress,
    check_files,
    process_of,
    progress_hidden,
)
from mmssl.commands.select import add_features, add_sheet, check_sheet

HELP = 'find exact and near duplicates among images, or between two sets of them'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_features(parser)
    parser.add_argument(
        'other',
        nargs='?',
        metavar='OTHER',
        help='second file: find the images that both have, such as those of train in val',
    )
    parser.add_argument('--out', required=True, metavar='JSON', help='file to write the pairs to')
    parser.add_argument(
        '--threshold',
        type=float,
        metavar='T',
        help='smallest cosine similarity of features at which pixels are compared (default: 0.8)',
    )
    parser.add_argument(
        '--drop',
        metavar='TXT',
        help='list file to write: all but the largest image of each group; of two files, images of the first',
    )
    add_sheet(parser)
    add_launcher(parser)
    add_progress(parser)


def run(args: argparse.Namespace) -> int:
    """Find the duplicates and write them.

    Returns:
        1 if images could not be read; else 0.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: A file is not one of features, or the threshold is out of range.
    """
    check_sheet(args)
    if args.threshold is not None and not -1 <= args.threshold <= 1:
        raise ValueError(f'--threshold {args.threshold} must be a cosine similarity, from -1 to 1')
    check_files(filter(None, [args.features, args.other]))
    rank, world_size, _ = process_of(args.launcher, 'cpu')
    from mmssl.apis.duplicates import find_duplicates

    threshold = {} if args.threshold is None else {'threshold': args.threshold}
    result = find_duplicates(
        args.features,
        args.other,
        out=args.out,
        drop=args.drop,
        sheet=args.sheet,
        progress=not progress_hidden(args),
        rank=rank,
        world_size=world_size,
        **threshold,
    )
    for reason in result.unreadable:
        print(f'mmssl duplicates: not compared: {reason}', file=sys.stderr)
    if not result.complete:
        print(
            f'{len(result.pairs)} pairs in this share; the last of {world_size} processes writes {args.out}'
        )
        return int(bool(result.unreadable))
    print(f'{args.out}: {len(result.pairs)} pairs; without {len(result.dropped)} images none is left')
    return int(bool(result.unreadable))
