"""``mmssl knn``: k-nearest-neighbour accuracy of a backbone's features."""

import argparse
import time

from mmssl.commands.features import (
    add_evaluation_arguments,
    add_model_arguments,
    check_evaluation_arguments,
    features_of,
    image_size_for,
    reading_of,
    save_result,
)

HELP = 'measure the k-NN accuracy of the features of a checkpoint, without training'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_model_arguments(parser)
    add_evaluation_arguments(parser)
    parser.add_argument('--k', type=int, default=20, metavar='N', help='neighbors that vote (default: 20)')
    parser.add_argument(
        '--temperature',
        type=float,
        default=0.07,
        metavar='T',
        help='temperature of the votes (default: 0.07)',
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate the features, print a line and save JSON.

    Raises:
        FileNotFoundError: The config, the checkpoint or the data do not exist.
        ValueError: An argument is out of range, or the checkpoint does not fit.
    """
    check_evaluation_arguments(args)
    if args.k < 1 or not args.temperature > 0:
        raise ValueError(f'--k {args.k} must be at least 1 and --temperature {args.temperature} above 0')
    start = time.monotonic()
    from mmssl.apis.loading import build_model, pick_device
    from mmssl.evaluation.knn import knn_accuracy
    from mmssl.evaluation.labelled import labelled_images

    device = pick_device(args.device)
    model, _ = build_model(args.config, args.checkpoint, args.cfg_options, args.seed, args.trust_checkpoint)
    image_size = image_size_for(args, model)
    train, val = labelled_images(args.data, image_size, **reading_of(args))
    num_classes = len(train.classes)
    train = train.take(args.max_train, args.seed).take_labels(args.labels, args.seed)
    val = val.take(args.max_val, args.seed)
    train_features, train_labels = features_of(model, train, args, device)
    features, labels = features_of(model, val, args, device)
    k = min(args.k, len(train_features))
    if k < args.k:
        print(f'--k {args.k}: there are {k} training images, all of them vote')
    scores = knn_accuracy(
        train_features.to(device), train_labels, features.to(device), labels, k, args.temperature, num_classes
    )
    result = dict(
        config=args.config,
        checkpoint=args.checkpoint,
        data=args.data,
        pool=args.pool,
        image_size=image_size,
        k=k,
        temperature=args.temperature,
        seed=args.seed,
        labels=args.labels,
        **scores,
        num_classes=num_classes,
        num_train=len(train_labels),
        num_val=len(labels),
        seconds=round(time.monotonic() - start, 2),
    )
    print(
        f'{k}-NN: top1 {scores["top1"]:.2f} %, top5 {scores["top5"]:.2f} % ({len(labels)} images against '
        f'{len(train_labels)}, {num_classes} classes, {result["seconds"]:.0f} s)'
    )
    save_result(result, args.out)
    return 0
