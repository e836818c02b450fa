"""``mmssl demo-data DIR``: small datasets made from installed packages."""

import argparse

HELP = 'make small datasets from installed packages: class folders, photographs, scenes with boxes and masks'

_PARTS = {
    'all': ('imagenet', 'photos', 'scenes', 'crops'),
    'pretrain': ('imagenet', 'photos', 'crops'),
    'scenes': ('scenes',),
}
_FOLDERS = (
    'imagenet/train',
    'imagenet/val',
    'crops/train',
    'crops/val',
    'photos',
    'scenes/images/train',
    'scenes/images/val',
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        'directory', metavar='DIR', help='folder to create; existing demo data in it is reused'
    )
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: 0)')
    parser.add_argument(
        '--kind',
        choices=_PARTS,
        default='all',
        help='pretrain: class folders and photographs; scenes: COCO, VOC and masks (default: all)',
    )
    parser.add_argument(
        '--size', type=int, default=48, help='side of the images in class folders, in pixels (default: 48)'
    )


def run(args: argparse.Namespace) -> int:
    """Make the data and print the number of images in each folder."""
    from mmssl.data.demo import make_demo_data

    directory = make_demo_data(args.directory, seed=args.seed, kinds=_PARTS[args.kind], size=args.size)
    for folder in _FOLDERS:
        count = sum(1 for _ in (directory / folder).rglob('*.jpg'))
        if count:
            print(f'{directory / folder}: {count} images')
    return 0
