"""``mmssl pack``: images in one archive, which ``--data`` reads in place."""

import argparse

from mmssl.commands.arguments import (
    add_launcher,
    add_progress,
    check_minimums,
    process_of,
    progress_hidden,
)

HELP = 'pack images into tar shards, Parquet, zip or LMDB'
DESCRIPTION = (
    'Pack images into tar shards (WebDataset), Parquet (Hugging Face), a zip file or an LMDB, and compare '
    'the checksum of each with its source. --data reads the result in place; an interrupted run continues.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('source', metavar='DIR', help='a folder or archive of images, a list or a table')
    parser.add_argument('out', metavar='OUT', help='folder to write (zip: file)')
    parser.add_argument('--to', choices=('tar', 'lmdb', 'zip', 'parquet'), default='tar', help='default: tar')
    parser.add_argument(
        '--shard-size', type=int, default=10_000, metavar='N', help='images in a shard (default: 10000)'
    )
    add_launcher(parser)
    add_progress(parser)


def run(args: argparse.Namespace) -> None:
    """Pack the images.

    Raises:
        FileExistsError, FileNotFoundError, ValueError: The output exists, or there are no images.
        OSError: A checksum differs.
    """
    check_minimums(args, shard_size=1)
    from mmssl.apis.packing import pack

    rank, world_size, _ = process_of(args.launcher, 'cpu')
    count = pack(args.source, args.out, args.to, args.shard_size, not progress_hidden(args), rank, world_size)
    if not count:
        print(f'{args.out}: other processes are left to finish')
        return
    print(f'{args.out}: {count} images, all checksums match; read it with --data {args.out}')
