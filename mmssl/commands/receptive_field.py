"""``mmssl visualize receptive-field``: the pixels that change an output of a backbone."""

import argparse

from mmssl.commands.arguments import (
    add_cfg_options,
    add_trust,
    check_files,
    check_minimums,
    check_output_suffix,
    checkpoint_files,
    make_parent,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the figure."""
    parser.add_argument(
        'config', help='config of any model with a backbone: a path, or its name below configs/'
    )
    parser.add_argument(
        'checkpoint', help="weights of the model or its backbone; 'random' for random weights"
    )
    parser.add_argument('--out', required=True, metavar='PNG', help='figure to write')
    parser.add_argument(
        '--size', type=int, default=224, metavar='PIXELS', help='side of the images (default: 224)'
    )
    parser.add_argument(
        '--level',
        type=int,
        default=-1,
        metavar='N',
        help='map of the backbone, from 0 (default: the last one)',
    )
    parser.add_argument(
        '--draws', type=int, default=8, metavar='N', help='images of noise to average over (default: 8)'
    )
    parser.add_argument('--seed', type=int, default=0, help='seed of random weights and noise (default: 0)')
    add_cfg_options(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> None:
    """Draw the receptive field.

    Raises:
        FileNotFoundError: The config or the checkpoint does not exist.
        ValueError: The model has no backbone of maps, or the checkpoint does not fit.
    """
    check_minimums(args, size=1, draws=1)
    check_files(checkpoint_files(args.checkpoint))
    check_output_suffix(args.out)
    from mmssl.apis.loading import build_model
    from mmssl.layers.input_channels import input_channels
    from mmssl.visualization.receptive_field import draw_receptive_field, receptive_field

    model, _ = build_model(args.config, args.checkpoint, args.cfg_options, args.seed, args.trust_checkpoint)
    backbone = getattr(model, 'backbone', None)
    if backbone is None:
        raise ValueError(f'{args.config}: {type(model).__name__} has no backbone')
    channels = input_channels(backbone)
    field = receptive_field(backbone, args.size, channels, args.level, args.draws, args.seed)
    make_parent(args.out)
    draw_receptive_field(field, max(1, 448 // args.size)).save(args.out)
    height, width = field.reach
    limit = ' (all of the image)' if (height, width) == (args.size, args.size) else ''
    print(
        f'{args.out}: {height}x{width} pixels can change the central output{limit}; '
        f'{field.effective:.0f}x{field.effective:.0f} pixels have more than 4.55 % of the largest gradient'
    )
