"""``mmssl attention``: maps of what the class token of a vision transformer attends to."""

import argparse

from mmssl.commands.arguments import (
    add_cfg_options,
    add_config,
    add_trust,
    check_files,
    check_output_suffix,
    checkpoint_files,
    make_parent,
)
from mmssl.commands.default_models import find_weights
from mmssl.commands.picture_arguments import add_bands, reading_and_pictures

HELP = 'draw the attention of the class token of a vision transformer over images'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument(
        'checkpoint', help="weights of the model or its backbone; 'random' for random weights"
    )
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument('--out', required=True, metavar='PNG', help='figure to write')
    parser.add_argument(
        '--image-size',
        type=int,
        metavar='PIXELS',
        help='side to resize images to; a larger one gives finer maps (default: that of the backbone)',
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of random weights (default: 0)')
    add_bands(parser)
    add_cfg_options(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Draw the maps.

    Raises:
        FileNotFoundError: The config, the checkpoint or an image does not exist.
        ValueError: The backbone has no class token or no attention, or the checkpoint does not fit.
    """
    find_weights(args)
    check_files([*checkpoint_files(args.checkpoint), *args.images])
    check_output_suffix(args.out)
    import torch

    from mmssl.apis.loading import build_model
    from mmssl.data.pictures import showing
    from mmssl.visualization.attention import attention_rows, backbone_of, check_attention
    from mmssl.visualization.layout import image_grid
    from mmssl.visualization.reconstruction import read_image

    model, _ = build_model(args.config, args.checkpoint, args.cfg_options, args.seed, args.trust_checkpoint)
    backbone = backbone_of(model)
    check_attention(backbone)
    patch_size = backbone.patch_embed.patch_size
    if args.image_size is None:
        size = backbone.img_size
    else:
        size = tuple(args.image_size // patch * patch for patch in patch_size)
    if not all(size):
        raise ValueError(
            f'--image-size {args.image_size} is less than a patch of {patch_size[0]}x{patch_size[1]} pixels'
        )
    reading, pictures = reading_and_pictures(args)
    images = torch.stack([read_image(path, size, **reading) for path in args.images])
    with showing(pictures):
        rows, titles = attention_rows(model, images)
    figure = image_grid(rows, titles, height=224 if len(titles) <= 8 else 160)
    make_parent(args.out)
    figure.save(args.out)
    print(
        f'{args.out}: {len(images)} images, {len(titles) - 2} heads, '
        f'{size[0] // patch_size[0]}x{size[1] // patch_size[1]} patches'
    )
