"""``mmssl linear``: linear probing on cached features, a sweep of learning rates and weight decays at once."""

import hashlib
import json
import time
from pathlib import Path

HELP = 'linear probing of the features of a checkpoint, in minutes'
DEFAULT_WORK_DIR = 'work_dirs/linear'


def add_arguments(parser) -> None:
    """Arguments of the command."""
    from mmssl.commands import features as command

    command.add_arguments(parser)
    parser.add_argument(
        '--work-dir',
        default=DEFAULT_WORK_DIR,
        metavar='DIR',
        help='keeps the features for the next run (default: %(default)s)',
    )
    parser.add_argument('--epochs', type=int, default=100, help='passes over the features (default: 100)')
    parser.add_argument('--lr', type=float, nargs='+', metavar='LR', help='learning rates to try')
    parser.add_argument('--weight-decay', type=float, nargs='+', metavar='WD', help='weight decays to try')
    parser.add_argument(
        '--head-batch-size',
        type=int,
        metavar='N',
        help='features in a step; by default N / 64 within 256 and 16384',
    )


def run(args) -> int:
    """Evaluate; prints a line and saves JSON."""
    from mmssl.commands import features as command

    command.check_arguments(args)
    if args.epochs < 1 or (args.head_batch_size or 1) < 1:
        raise ValueError(
            f'--epochs {args.epochs} and --head-batch-size {args.head_batch_size} must be at least 1'
        )
    start = time.monotonic()
    from mmssl.evaluation.labelled import labelled_images
    from mmssl.evaluation.linear import LEARNING_RATES, WEIGHT_DECAYS, linear_probe

    device = command.pick_device(args.device)
    model, settings = command.build_model(
        args.config, args.checkpoint, args.cfg_options, args.seed, args.trust_checkpoint
    )
    image_size = command.image_size_for(args, model)
    train, val = labelled_images(args.data, image_size)
    classes = len(train.classes)
    train, val = train.take(args.max_train, args.seed), val.take(args.max_val, args.seed)
    cache = Path(args.work_dir) / 'features' / f'{_key(model, settings, args, image_size, train, val)}.pth'
    (train_features, train_labels, features, labels), reused = _features(
        model, train, val, args, device, cache
    )
    extracted = time.monotonic() - start
    probe = linear_probe(
        train_features,
        train_labels,
        features,
        labels,
        args.lr or LEARNING_RATES,
        WEIGHT_DECAYS if args.weight_decay is None else args.weight_decay,
        args.epochs,
        args.head_batch_size,
        seed=args.seed,
        num_classes=classes,
        device=device,
    )
    result = dict(
        config=args.config,
        checkpoint=args.checkpoint,
        data=args.data,
        pool=args.pool,
        image_size=image_size,
        seed=args.seed,
        **probe,
        num_train=len(train_labels),
        num_val=len(labels),
        features_reused=reused,
        seconds_features=round(extracted, 2),
        seconds=round(time.monotonic() - start, 2),
    )
    print(
        f'linear: top1 {probe["top1"]:.2f} %, top5 {probe["top5"]:.2f} % (lr {probe["lr"]:g}, weight decay {probe["weight_decay"]:g}; '
        f'{len(labels)} images, {len(train_labels)} to train, {classes} classes, {result["seconds"]:.0f} s'
        f'{", features reused" if reused else ""})'
    )
    command.save_result(result, args.out or str(Path(args.work_dir) / 'linear.json'))
    return 0


def _key(model, settings: dict, args, image_size: int, *sets) -> str:
    """Digest of all that the features depend on: weights, config of the model, images (paths, sizes and times), crop, pooling."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    digest.update(repr(settings).encode())
    for images in sets:
        for index in images.indices.tolist():
            info = images.folder.get_data_info(index)
            digest.update(f'{info["img_path"]}\0{info["gt_label"]}\0{_stamp(info["img_path"])}\n'.encode())
        digest.update(b'\n')
    digest.update(json.dumps([args.pool, image_size]).encode())
    return digest.hexdigest()[:32]


def _stamp(path: str) -> str:
    """Size and time of a file; of the archive for an image inside one."""
    for candidate in (Path(path), *Path(path).parents):
        if candidate.exists():
            status = candidate.stat()
            return f'{status.st_size} {status.st_mtime_ns}'
    return ''


def _features(model, train, val, args, device, cache: Path) -> tuple[tuple, bool]:
    """Features and labels of both sets, from the cache where it has them."""
    from mmssl.checkpoint import load_file, save_file
    from mmssl.commands import features as command

    if cache.is_file():
        try:
            stored = load_file(cache)
            return tuple(
                stored[name] for name in ('train_features', 'train_labels', 'features', 'labels')
            ), True
        except (ValueError, KeyError, OSError) as error:
            print(f'{cache} cannot be used ({error}); the features are computed again')
    values = (
        *command.features_of(model, train, args, device),
        *command.features_of(model, val, args, device),
    )
    save_file(dict(zip(('train_features', 'train_labels', 'features', 'labels'), values, strict=True)), cache)
    return values, False
