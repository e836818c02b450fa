"""``mmssl attention``: what the class token of a vision transformer attends to."""

import argparse

HELP = 'draw the attention of the class token of a vision transformer over images'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument('config', help='path of a config, or its name below configs/')
    parser.add_argument(
        'checkpoint', help="weights of the model or of its backbone; 'random' for a random initialisation"
    )
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument('--out', required=True, metavar='PNG', help='picture to write')
    parser.add_argument(
        '--image-size',
        type=int,
        metavar='PIXELS',
        help='side to which images are resized; a larger one gives finer maps (default: that of the backbone)',
    )
    parser.add_argument('--seed', type=int, default=0, help='of a random initialisation')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override settings of the config'
    )
    parser.add_argument(
        '--trust-checkpoint', action='store_true', help='load a checkpoint that holds pickled code'
    )


def run(args: argparse.Namespace) -> None:
    """Draw.

    Raises:
        FileNotFoundError: no such config, checkpoint or image.
        ValueError: the backbone has no class token or no attention, or the checkpoint does not fit.
    """
    import os
    from pathlib import Path

    import torch

    from mmssl.commands.features import RANDOM, build_model
    from mmssl.hints import nearest_path
    from mmssl.visualization.attention import attention_rows, backbone_of, check_attention
    from mmssl.visualization.reconstruction import picture, read_image

    for path in (*([] if args.checkpoint == RANDOM else [args.checkpoint]), *args.images):
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f'{path} does not exist{nearest_path(path)}'
                if not os.path.exists(path)
                else f'{path} is not a file'
            )
    if Path(args.out).suffix.lower() not in ('.png', '.jpg', '.jpeg', '.webp'):
        raise ValueError(f'--out {args.out}: give a name that ends in .png')
    model, _ = build_model(args.config, args.checkpoint, args.cfg_options, args.seed, args.trust_checkpoint)
    backbone = backbone_of(model)
    check_attention(backbone)
    patch = backbone.patch_embed.patch_size
    size = (
        backbone.img_size
        if args.image_size is None
        else tuple(args.image_size // side * side for side in patch)
    )
    if not all(size):
        raise ValueError(
            f'--image-size {args.image_size} is less than a patch of {patch[0]}x{patch[1]} pixels'
        )
    images = torch.stack([read_image(path, size) for path in args.images])
    rows, titles = attention_rows(model, images)
    sheet = picture(rows, height=224 if len(titles) <= 8 else 160, titles=titles)
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    sheet.save(args.out)
    print(
        f'{args.out}: {len(images)} images, {len(titles) - 2} heads, {size[0] // patch[0]}x{size[1] // patch[1]} patches'
    )
