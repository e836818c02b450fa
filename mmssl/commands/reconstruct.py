"""``mmssl reconstruct``: what a masked autoencoder makes of images."""

import argparse
from collections.abc import Sequence

HELP = 'draw input, masked input and reconstruction of images by a masked autoencoder'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument('config', help='config of the pre-training')
    parser.add_argument('checkpoint', help='checkpoint of the pre-training, decoder included')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument('--out', required=True, metavar='PNG', help='picture to write')
    parser.add_argument('--mask-ratio', type=float, help="another share of masked patches than the config's")
    parser.add_argument('--seed', type=int, default=0, help='draw of the masks')
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
        ValueError: the config is not a masked autoencoder, or the checkpoint has no decoder.
    """
    import os
    from pathlib import Path

    import torch

    from mmssl.hints import nearest_path
    from mmssl.visualization.reconstruction import picture, read_image, reconstruction_rows

    for path in (args.checkpoint, *args.images):
        if not os.path.isfile(path):
            raise FileNotFoundError(
                f'{path} does not exist{nearest_path(path)}'
                if not os.path.exists(path)
                else f'{path} is not a file'
            )
    if Path(args.out).suffix.lower() not in ('.png', '.jpg', '.jpeg', '.webp'):
        raise ValueError(f'--out {args.out}: give a name that ends in .png')
    model = load_mae(args.config, args.checkpoint, args.cfg_options, args.trust_checkpoint)
    if args.mask_ratio is not None:
        model.backbone.mask_ratio = args.mask_ratio
    images = torch.stack([read_image(path, model.backbone.img_size) for path in args.images])
    rows, columns = model.backbone.patch_resolution
    noise = torch.rand(len(images), rows * columns, generator=torch.Generator().manual_seed(args.seed))
    sheet = picture(reconstruction_rows(model, images, noise))
    os.makedirs(os.path.dirname(os.path.abspath(args.out)), exist_ok=True)
    sheet.save(args.out)
    print(f'{args.out}: {len(images)} images, {model.backbone.mask_ratio:.0%} of the patches masked')


def load_mae(config: str, checkpoint: str, options: Sequence[str] = (), trust: bool = False):
    """Build the masked autoencoder of a config with the weights of its pre-training.

    Raises:
        ValueError: the config is not a masked autoencoder, or the file has no decoder.
    """
    from mmengine.registry import init_default_scope

    from mmssl.checkpoint import load_file, load_weights, strip_module, weights_of
    from mmssl.engine.launch import load_config
    from mmssl.registry import MODELS, build

    cfg = load_config(config, options)
    init_default_scope(cfg.get('default_scope', 'mmpretrain'))
    model = build({'data_preprocessor': cfg.get('data_preprocessor'), **cfg.model}, MODELS)
    if not hasattr(model, 'reconstruct'):
        raise ValueError(
            f'{config} builds a {type(model).__name__}, which does not reconstruct; give a config of configs/mae'
        )
    weights = strip_module(weights_of(load_file(checkpoint, trust=trust), checkpoint))
    if not any(key.startswith('neck.') for key in weights):
        if any(key.startswith(('decoder_blocks.', 'model.decoder_blocks.')) for key in weights):
            raise ValueError(
                f"{checkpoint} has the official code's names; convert it first: mmssl convert mae {checkpoint} OUT.pth"
            )
        raise ValueError(
            f'{checkpoint} holds an encoder without a decoder (no neck.* weights): it encodes, it cannot draw pixels. '
            'Give the checkpoint of the pre-training itself'
        )
    report = load_weights(model, weights)
    if report.missing or report.mismatched:
        raise ValueError(f'{checkpoint} does not fit {config}:\n{report}')
    return model.eval()
