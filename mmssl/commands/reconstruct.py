"""``mmssl reconstruct``: images as a masked autoencoder reconstructs them."""

import argparse

from mmssl.commands.arguments import (
    add_cfg_options,
    add_trust,
    check_files,
    check_output_suffix,
    make_parent,
)
from mmssl.commands.default_models import find_weights
from mmssl.commands.picture_arguments import add_bands, reading_and_pictures

HELP = 'draw input, masked input and reconstruction of images by a masked autoencoder'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('config', help='config of pre-training')
    parser.add_argument('checkpoint', help='checkpoint of pre-training, decoder included')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument('--out', required=True, metavar='PNG', help='figure to write')
    parser.add_argument('--mask-ratio', type=float, help="fraction of masked patches (default: the config's)")
    parser.add_argument('--seed', type=int, default=0, help='seed of the masks (default: 0)')
    add_bands(parser)
    add_cfg_options(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Draw the reconstructions.

    Raises:
        FileNotFoundError: The config, the checkpoint or an image does not exist.
        ValueError: The config is not a masked autoencoder, or the checkpoint has no decoder.
    """
    find_weights(args)
    check_files([args.checkpoint, *args.images])
    check_output_suffix(args.out)
    import torch

    from mmssl.apis.loading import load_mae
    from mmssl.data.pictures import showing
    from mmssl.visualization.layout import image_grid
    from mmssl.visualization.reconstruction import TITLES, read_image, reconstruction_rows

    model = load_mae(args.config, args.checkpoint, args.cfg_options, args.trust_checkpoint)
    if args.mask_ratio is not None:
        model.backbone.mask_ratio = args.mask_ratio
    reading, pictures = reading_and_pictures(args)
    size = model.backbone.img_size
    images = torch.stack([read_image(path, size, **reading) for path in args.images])
    rows, columns = model.backbone.patch_resolution
    noise = torch.rand(len(images), rows * columns, generator=torch.Generator().manual_seed(args.seed))
    with showing(pictures):
        figure = image_grid(reconstruction_rows(model, images, noise), TITLES)
    make_parent(args.out)
    figure.save(args.out)
    print(f'{args.out}: {len(images)} images, {model.backbone.mask_ratio:.0%} of the patches masked')
