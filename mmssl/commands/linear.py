"""``mmssl linear``: linear probing on cached features, with a sweep of learning rates and weight decays."""

import argparse
import hashlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.commands.features import (
    add_evaluation_arguments,
    add_model_arguments,
    check_evaluation_arguments,
    features_of,
    image_size_for,
    reading_of,
    save_result,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from mmssl.evaluation.labelled import LabelledImages

HELP = 'train linear classifiers on the features of a checkpoint, in minutes'
DEFAULT_WORK_DIR = 'work_dirs/linear'
CACHED = ('train_features', 'train_labels', 'features', 'labels')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_arguments(parser)
    add_evaluation_arguments(parser)
    parser.add_argument(
        '--work-dir',
        default=DEFAULT_WORK_DIR,
        metavar='DIR',
        help='keep the features here for the next run (default: %(default)s)',
    )
    parser.add_argument(
        '--epochs', type=int, default=100, metavar='N', help='passes over the features (default: 100)'
    )
    parser.add_argument('--lr', type=float, nargs='+', metavar='LR', help='learning rates to try')
    parser.add_argument('--weight-decay', type=float, nargs='+', metavar='WD', help='weight decays to try')
    parser.add_argument(
        '--head-batch-size',
        type=int,
        metavar='N',
        help='features per step (default: a 64th of all, from 256 to 16384)',
    )


def run(args: argparse.Namespace) -> int:
    """Train linear classifiers, print a line about the best and save JSON.

    Raises:
        FileNotFoundError: The config, the checkpoint or the data do not exist.
        ValueError: An argument is out of range, or the checkpoint does not fit.
    """
    check_evaluation_arguments(args)
    if args.epochs < 1 or (args.head_batch_size or 1) < 1:
        raise ValueError(
            f'--epochs {args.epochs} and --head-batch-size {args.head_batch_size} must be at least 1'
        )
    start = time.monotonic()
    from mmssl.apis.loading import build_model, pick_device
    from mmssl.evaluation.labelled import labelled_images
    from mmssl.evaluation.linear import LEARNING_RATES, WEIGHT_DECAYS, linear_probe

    device = pick_device(args.device)
    model, settings = build_model(
        args.config, args.checkpoint, args.cfg_options, args.seed, args.trust_checkpoint
    )
    image_size = image_size_for(args, model)
    train, val = labelled_images(args.data, image_size, **reading_of(args))
    num_classes = len(train.classes)
    train = train.take(args.max_train, args.seed).take_labels(args.labels, args.seed)
    val = val.take(args.max_val, args.seed)
    options = [args.pool, image_size, reading_of(args)]
    digest = _digest(model, settings, options, (train, val))
    cache = Path(args.work_dir) / 'features' / f'{digest}.pth'
    cached = _read_cache(cache)
    if cached is None:
        values = (*features_of(model, train, args, device), *features_of(model, val, args, device))
        _write_cache(values, cache)
    else:
        values = cached
    train_features, train_labels, features, labels = values
    feature_seconds = time.monotonic() - start
    probe = linear_probe(
        train_features,
        train_labels,
        features,
        labels,
        learning_rates=args.lr or LEARNING_RATES,
        weight_decays=WEIGHT_DECAYS if args.weight_decay is None else args.weight_decay,
        epochs=args.epochs,
        batch_size=args.head_batch_size,
        seed=args.seed,
        num_classes=num_classes,
        device=device,
    )
    result = dict(
        config=args.config,
        checkpoint=args.checkpoint,
        data=args.data,
        pool=args.pool,
        image_size=image_size,
        seed=args.seed,
        labels=args.labels,
        **probe,
        num_train=len(train_labels),
        num_val=len(labels),
        features_reused=cached is not None,
        seconds_features=round(feature_seconds, 2),
        seconds=round(time.monotonic() - start, 2),
    )
    print(
        f'linear: top1 {probe["top1"]:.2f} %, top5 {probe["top5"]:.2f} % '
        f'(lr {probe["lr"]:g}, weight decay {probe["weight_decay"]:g}; '
        f'{len(labels)} images, {len(train_labels)} to train, {num_classes} classes, '
        f'{result["seconds"]:.0f} s'
        f'{"" if cached is None else ", features reused"})'
    )
    save_result(result, args.out or str(Path(args.work_dir) / 'linear.json'))
    return 0


def _digest(model: 'nn.Module', settings: dict, options: list, datasets: 'tuple[LabelledImages, ...]') -> str:
    """Hash all that the features depend on: weights, settings, images (paths, sizes, times), options."""
    import torch

    from mmssl.apis.embedding import digest_of_files

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(repr(settings).encode())
    for images in datasets:
        infos = [images.folder.get_data_info(index) for index in images.indices.tolist()]
        digest.update(digest_of_files([info['img_path'] for info in infos]).encode())
        digest.update(repr([(info['gt_label'], info.get('page')) for info in infos]).encode())
    digest.update(repr(options).encode())
    return digest.hexdigest()[:32]


def _read_cache(path: Path) -> 'tuple[Tensor, ...] | None':
    """Read features and labels of both splits; None if there is no usable file."""
    from mmssl.checkpoint import load_file

    if not path.is_file():
        return None
    try:
        stored = load_file(path)
        return tuple(stored[name] for name in CACHED)
    except (ValueError, KeyError, OSError) as error:
        print(f'{path} cannot be used ({error}); the features are computed again')
        return None


def _write_cache(values: 'tuple[torch.Tensor, ...]', path: Path) -> None:
    from mmssl.checkpoint import save_file

    save_file(dict(zip(CACHED, values, strict=True)), path)
