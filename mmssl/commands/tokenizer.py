"""``mmssl tokenizer fit`` and ``show``: visual tokens for BEiT from a set of images."""

import argparse
import os

from mmssl.commands.arguments import add_device, add_progress, add_workers, make_parent

HELP = 'fit a visual tokenizer for BEiT on images, or draw one'
SHEET_SIZE = 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the two actions."""
    actions = parser.add_subparsers(dest='action', required=True, metavar='fit|show')
    _add_fit_arguments(
        actions.add_parser('fit', help='cluster normalized patches of images, with or without labels')
    )
    show = actions.add_parser('show', help='draw the tokens, the most frequent first')
    show.add_argument('file', help='file written by fit')
    show.add_argument('--out', required=True, metavar='PNG', help='figure to write')
    show.add_argument('--max', type=int, default=1024, metavar='N', help='tokens to draw (default: 1024)')


def _add_fit_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--data',
        required=True,
        metavar='DIR',
        help='folder, archive, list or URL of images; its train folder if it has one',
    )
    parser.add_argument('--out', required=True, metavar='FILE.pth', help='file to write')
    parser.add_argument(
        '--tokens', type=int, default=8192, metavar='K', help='number of tokens (default: 8192)'
    )
    parser.add_argument(
        '--patch-size', type=int, default=16, metavar='PIXELS', help='side of a patch (default: 16)'
    )
    parser.add_argument(
        '--image-size',
        type=int,
        default=224,
        metavar='PIXELS',
        help='side of the crops, as in training (default: 224)',
    )
    parser.add_argument(
        '--crop',
        type=float,
        nargs=2,
        default=(0.08, 1.0),
        metavar=('MIN', 'MAX'),
        help='area of a crop as a fraction of the image, as in training (default: 0.08 1)',
    )
    parser.add_argument(
        '--images', type=int, default=20000, metavar='N', help='number of crops (default: 20000)'
    )
    parser.add_argument(
        '--patches-per-image', type=int, default=64, metavar='N', help='patches per crop (default: 64)'
    )
    parser.add_argument(
        '--batch-size', type=int, default=128, metavar='N', help='images per batch (default: 128)'
    )
    add_workers(parser)
    add_device(parser)
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: 0)')
    add_progress(parser)
    parser.add_argument('--force', action='store_true', help='replace the file if it exists')


def run(args: argparse.Namespace) -> int:
    """Fit or draw a tokenizer.

    Raises:
        FileExistsError: The file exists already.
        ValueError: An argument is out of range, or the file is not a tokenizer.
    """
    if args.action == 'fit':
        from mmssl.commands.tokenizer_fit import fit

        return fit(args)
    return show(args)


def show(args: argparse.Namespace) -> int:
    """Draw the tokens of a file in rows, the most frequent first."""
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
    image = Image.fromarray((sheet * 255).byte().numpy())
    scale = max(1, SHEET_SIZE // image.width)
    make_parent(args.out)
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(args.out)
    print(f'{os.fspath(args.out)}: {len(tiles)} of {len(saved["centroids"])} tokens, the most frequent first')
    return 0
