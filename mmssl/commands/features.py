"""What ``mmssl knn``, ``mmssl linear`` and the hook share: arguments, the model of a config, its features of a data set."""

import json
import os
from pathlib import Path

RANDOM = 'random'


def add_arguments(parser) -> None:
    """Arguments of every evaluation of features."""
    parser.add_argument('config', help='path of a config, or its name below configs/')
    parser.add_argument(
        'checkpoint', help=f'weights of the model or of its backbone; {RANDOM!r} for a random initialisation'
    )
    parser.add_argument(
        '--data',
        required=True,
        metavar='DIR',
        help='folder or archive with train/<class> and val/<class>, or with class folders only',
    )
    parser.add_argument(
        '--pool',
        choices=['avg', 'cls'],
        default='avg',
        help='mean of the patches, or the class token (default: avg)',
    )
    parser.add_argument(
        '--image-size',
        type=int,
        metavar='PIXELS',
        help="side of the crop; by default the backbone's img_size, or that of the crops in training",
    )
    parser.add_argument(
        '--max-train', type=int, metavar='N', help='use N training images only, of every class its share'
    )
    parser.add_argument('--max-val', type=int, metavar='N', help='the same for the validation images')
    parser.add_argument('--batch-size', type=int, default=64, help='images at once (default: 64)')
    parser.add_argument('--workers', type=int, default=2, help='processes that read images (default: 2)')
    parser.add_argument('--device', help='cpu, cuda, cuda:1, ...; a GPU by default where there is one')
    parser.add_argument('--seed', type=int, default=0, help='of every draw (default: 0)')
    parser.add_argument('--out', metavar='FILE', help='JSON file for the result')
    parser.add_argument(
        '--progress', action='store_true', help='show a progress line even where there is no terminal'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override settings of the config'
    )
    parser.add_argument(
        '--trust-checkpoint',
        action='store_true',
        help='load checkpoints that hold pickled code; they can do anything on this machine',
    )


def check_arguments(args) -> None:
    """Refuse before anything is built what would fail after minutes."""
    for name, least in (
        ('batch_size', 1),
        ('workers', 0),
        ('image_size', 1),
        ('max_train', 2),
        ('max_val', 2),
    ):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f'--{name.replace("_", "-")} {value} must be at least {least}')
    if args.checkpoint != RANDOM and not os.path.isfile(args.checkpoint):
        raise FileNotFoundError(
            f'no checkpoint {args.checkpoint!r}; give a file, or {RANDOM!r} for a random initialisation'
        )
    if args.out and os.path.isdir(args.out):
        raise IsADirectoryError(f'--out {args.out} is a directory; name a file in it')


def _without_pretrained(node):
    """A copy of a model's config without ``init_cfg=dict(type='Pretrained', ...)``, whose file need not exist here."""
    if isinstance(node, dict):
        return type(node)(
            {
                key: _without_pretrained(value)
                for key, value in node.items()
                if not (key == 'init_cfg' and isinstance(value, dict) and value.get('type') == 'Pretrained')
            }
        )
    return [_without_pretrained(value) for value in node] if isinstance(node, list) else node


def build_model(config: str, checkpoint: str, cfg_options=(), seed: int = 0, trust: bool = False) -> tuple:
    """The model of a config with the weights of a file.

    Args:
        config: path or shipped name.
        checkpoint: file with the weights of the model or of its backbone, or 'random'.
        cfg_options: ``KEY=VALUE`` overrides.
        seed: of the initialisation.
        trust: as for ``mmssl.checkpoint.load_file``.

    Returns:
        the model, on the CPU, and the dict that it was built from.

    Raises:
        ValueError: the config has no model, or the file leaves a part of the backbone at its random
            initialisation.
    """
    from mmengine.runner import set_random_seed

    from mmssl.engine.launch import load_config

    cfg = load_config(config, list(cfg_options))
    if not cfg.get('model'):
        raise ValueError(f'{config} has no model')
    set_random_seed(seed)
    model, settings = model_of(cfg)
    if checkpoint == RANDOM:
        init_weights(model)
    else:
        load_backbone(model, checkpoint, trust)
    return model, settings


def model_of(cfg) -> tuple:
    """The model of a config, as it is constructed, and the dict that it was built from; files of pre-trained weights are not read.

    Raises:
        ValueError, TypeError, KeyError: a part cannot be built; said in words for a person.
    """
    from mmengine.config import ConfigDict
    from mmengine.registry import init_default_scope

    from mmssl.engine.launch import describe
    from mmssl.registry import MODELS, build

    init_default_scope(cfg.get('default_scope', 'mmengine'))
    settings = _without_pretrained(cfg.model.to_dict())
    # algorithms take their preprocessor from the runner's config, as mmengine's Runner does
    if cfg.get('data_preprocessor') and not settings.get('data_preprocessor'):
        settings['data_preprocessor'] = cfg.data_preprocessor.to_dict()
    try:
        return build(ConfigDict(settings), MODELS), settings  # segmentors read theirs by attribute
    except (TypeError, KeyError, ValueError) as error:
        raise describe(error) from error


def init_weights(model) -> None:
    """The model's own initialisation, without three lines of log a parameter."""
    from mmengine.logging import MMLogger

    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('WARNING')
    try:
        model.init_weights()
    finally:
        logger.setLevel(level)


def load_backbone(model, checkpoint: str, trust: bool = False) -> None:
    """Weights of the whole model or of its backbone out of a file.

    Raises:
        ValueError: the file leaves a part of the backbone at its random initialisation.
    """
    from mmssl.checkpoint import load_file, load_weights, weights_of

    weights = weights_of(load_file(checkpoint, trust=trust), checkpoint)
    backbone = getattr(model, 'backbone', None)
    of_backbone = {key for key, _ in backbone.named_parameters()} if backbone is not None else set()
    if of_backbone and any(key in weights for key in of_backbone):
        report, part = load_weights(backbone, dict(weights)), ''
        for momentum_copy, encoder in getattr(
            model, 'momentum_pairs', list
        )():  # whose features are the ones to look at in some methods
            momentum_copy.copy_from(encoder)
    else:
        report, part = load_weights(model, dict(weights)), 'backbone.' if of_backbone else ''
    unset = [
        key for key in (*report.missing, *(key for key, *_ in report.mismatched)) if key.startswith(part)
    ]
    if unset:
        raise ValueError(
            f'{checkpoint} leaves {len(unset)} weights of the backbone at their random initialisation ({", ".join(unset[:4])}'
            f'{", ..." if len(unset) > 4 else ""}); is it the checkpoint of this config?'
        )


def image_size_for(args, model) -> int:
    """Side of the crops in pixels: as given, or what the backbone was made for, or what the config trains on."""
    from mmssl.engine.launch import load_config
    from mmssl.evaluation.features import image_size_of

    return args.image_size or image_size_of(model, load_config(args.config, list(args.cfg_options)))


def features_of(model, images, args, device) -> tuple:
    """Features (N, D) and labels (N,) of a :class:`~mmssl.evaluation.labelled.LabelledImages`; says how many files were bad."""
    from mmssl.evaluation.features import extract_features
    from mmssl.evaluation.labelled import image_loader

    features, labels = extract_features(
        model,
        image_loader(images, args.batch_size, args.workers),
        args.pool,
        device,
        progress=True if args.progress else None,
    )
    if len(labels) < len(images):
        print(f'{len(images) - len(labels)} of {len(images)} files cannot be read and are left out')
    return features, labels


def pick_device(name: str | None):
    """The device of a name; the GPU where there is one when None.

    Raises:
        ValueError: no such device on this machine.
    """
    import torch

    if name is None:
        return torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f'--device {name!r} is no device; use cpu, cuda or cuda:N') from None
    if device.type == 'cuda' and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f'--device {name}: this machine has {torch.cuda.device_count()} GPUs; use cpu'
            + (f' or cuda:0 to cuda:{torch.cuda.device_count() - 1}' if torch.cuda.device_count() else '')
        )
    return device


def save_result(result: dict, path: str | None) -> None:
    """Write the result as JSON, atomically; nothing for None."""
    if path:
        from mmssl.checkpoint import write_text

        Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(result, indent=2) + '\n')
