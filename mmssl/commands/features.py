"""Arguments and feature extraction that ``mmssl knn``, ``linear`` and ``embedding`` share."""

import argparse
import os
from typing import TYPE_CHECKING

from mmssl.commands.arguments import (
    RANDOM,
    add_cfg_options,
    add_config,
    add_device,
    add_progress,
    add_trust,
    add_workers,
    check_minimums,
)
from mmssl.commands.default_models import find_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from mmssl.evaluation.labelled import LabelledImages


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model, its weights and the data."""
    add_config(parser)
    parser.add_argument(
        'checkpoint', help=f'weights of the model or its backbone; {RANDOM!r} for random weights'
    )
    parser.add_argument(
        '--data',
        required=True,
        metavar='DIR',
        help='folder, archive, list, table or URL with train/<class> and val/<class>, or with classes only',
    )
    parser.add_argument(
        '--pool',
        choices=['avg', 'cls'],
        help='mean over the patches, or the class token (default: the class token of a backbone that returns '
        'only that, else avg)',
    )
    parser.add_argument(
        '--image-size',
        type=int,
        metavar='PIXELS',
        help="side of the crop (default: the backbone's img_size, or the size of the training crops)",
    )
    parser.add_argument(
        '--batch-size', type=int, default=64, metavar='N', help='images per batch (default: 64)'
    )
    add_workers(parser)
    add_device(parser)
    parser.add_argument('--seed', type=int, default=0, help='random seed (default: 0)')
    add_progress(parser)
    add_cfg_options(parser)
    add_trust(parser)


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the size of the evaluation and where its result goes."""
    parser.add_argument(
        '--max-train', type=int, metavar='N', help='use only N training images, balanced over the classes'
    )
    parser.add_argument(
        '--labels',
        metavar='AMOUNT',
        help="low-shot evaluation: '1%%' or '10%%' of each class, or N training images of each class",
    )
    parser.add_argument('--max-val', type=int, metavar='N', help='the same for the validation images')
    parser.add_argument('--out', metavar='FILE', help='write the result to this JSON file')


def check_model_arguments(args: argparse.Namespace) -> None:
    """Check the arguments of :func:`add_model_arguments` before anything is loaded.

    Raises:
        ValueError: A number is out of range.
        FileNotFoundError: The checkpoint does not exist.
        IsADirectoryError: The output is a folder.
    """
    check_minimums(args, batch_size=1, workers=0, image_size=1)
    find_weights(args)
    if args.checkpoint != RANDOM and not os.path.isfile(args.checkpoint):
        raise FileNotFoundError(
            f'no checkpoint {args.checkpoint!r}; give a file, or {RANDOM!r} for random weights'
        )
    if args.out and os.path.isdir(args.out):
        raise IsADirectoryError(f'--out {args.out} is a directory; name a file in it')


def check_evaluation_arguments(args: argparse.Namespace) -> None:
    """Check all arguments of an evaluation, as :func:`check_model_arguments` does."""
    check_model_arguments(args)
    check_minimums(args, max_train=2, max_val=2)
    if args.labels is not None:
        from mmssl.evaluation.labelled import parse_amount

        if args.max_train is not None:
            raise ValueError('--labels and --max-train both choose the training images; give one of them')
        try:
            parse_amount(args.labels)
        except ValueError as error:
            raise ValueError(f'--labels {error}') from None


def image_size_for(args: argparse.Namespace, model: 'nn.Module') -> int:
    """Return the side of the crops: ``--image-size``, or that of the backbone or of the training crops."""
    from mmssl.config.load import load_config
    from mmssl.evaluation.features import image_size_of

    return args.image_size or image_size_of(model, load_config(args.config, list(args.cfg_options)))


def reading_of(args: argparse.Namespace) -> dict:
    """Return the settings with which the config reads images: value_range, channels, pages."""
    from mmssl.config.load import load_config
    from mmssl.data.reader_settings import reader_settings

    return reader_settings(load_config(args.config, list(args.cfg_options)))


def features_of(
    model: 'nn.Module', images: 'LabelledImages', args: argparse.Namespace, device: 'torch.device'
) -> 'tuple[Tensor, Tensor]':
    """Return features (N, D) and labels (N,) of images; print how many files were unreadable."""
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


def save_result(result: dict, path: str | None) -> None:
    """Write the result as JSON; nothing if the path is None."""
    if path:
        from mmssl.checkpoint import write_json

        write_json(path, result)
