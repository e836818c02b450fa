"""``mmssl knn``: k-nearest-neighbour accuracy of a backbone's features."""

import time

HELP = 'k-NN accuracy of the features of a checkpoint, without training'


def add_arguments(parser) -> None:
    """Arguments of the command."""
    from mmssl.commands import features as command

    command.add_arguments(parser)
    parser.add_argument('--k', type=int, default=20, help='neighbours that vote (default: 20)')
    parser.add_argument('--temperature', type=float, default=0.07, help='of the votes (default: 0.07)')


def run(args) -> int:
    """Evaluate; prints a line and saves JSON."""
    from mmssl.commands import features as command

    command.check_arguments(args)
    if args.k < 1 or not args.temperature > 0:
        raise ValueError(f'--k {args.k} must be at least 1 and --temperature {args.temperature} above 0')
    start = time.monotonic()
    from mmssl.evaluation.knn import knn_accuracy
    from mmssl.evaluation.labelled import labelled_images

    device = command.pick_device(args.device)
    model, _ = command.build_model(
        args.config, args.checkpoint, args.cfg_options, args.seed, args.trust_checkpoint
    )
    image_size = command.image_size_for(args, model)
    train, val = labelled_images(args.data, image_size)
    classes = len(train.classes)
    train, val = train.take(args.max_train, args.seed), val.take(args.max_val, args.seed)
    train_features, train_labels = command.features_of(model, train, args, device)
    features, labels = command.features_of(model, val, args, device)
    k = min(args.k, len(train_features))
    if k < args.k:
        print(f'--k {args.k}: there are {k} training images, all of them vote')
    scores = knn_accuracy(
        train_features.to(device), train_labels, features.to(device), labels, k, args.temperature, classes
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
        **scores,
        num_classes=classes,
        num_train=len(train_labels),
        num_val=len(labels),
        seconds=round(time.monotonic() - start, 2),
    )
    print(
        f'{k}-NN: top1 {scores["top1"]:.2f} %, top5 {scores["top5"]:.2f} % ({len(labels)} images against {len(train_labels)}, '
        f'{classes} classes, {result["seconds"]:.0f} s)'
    )
    command.save_result(result, args.out)
    return 0
