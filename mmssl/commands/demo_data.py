"""``mmssl demo-data DIR``: the demo data, made from installed packages."""

import argparse

HELP = 'make small real data sets from installed packages: class folders, photographs, scenes with boxes and masks'

_KINDS = {
    'all': ('imagenet', 'photos', 'scenes', 'crops'),
    'pretrain': ('imagenet', 'photos', 'crops'),
    'scenes': ('scenes',),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        'directory', metavar='DIR', help='folder to make; demo data that is there already is reused'
    )
    parser.add_argument('--seed', type=int, default=0, help='of all draws (default: 0)')
    parser.add_argument(
        '--kind',
        choices=_KINDS,
        default='all',
        help='pretrain: class folders and photographs; scenes: COCO, VOC and masks (default: all)',
    )
    parser.add_argument(
        '--size', type=int, default=48, help='side of the images in the class folders, pixels (default: 48)'
    )


def run(args: argparse.Namespace) -> int:
    """Make the data and say what is where."""
    from mmssl.data.demo import make_demo_data

    directory = make_demo_data(args.directory, seed=args.seed, kinds=_KINDS[args.kind], size=args.size)
    for folder in (
        'imagenet/train',
        'imagenet/val',
        'crops/train',
        'crops/val',
        'photos',
        'scenes/images/train',
        'scenes/images/val',
    ):
        count = sum(1 for _ in (directory / folder).rglob('*.jpg'))
        if count:
            print(f'{directory / folder}: {count} images')
    return 0
