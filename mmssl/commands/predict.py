"""``mmssl predict``: labels of images by a trained model, in the format of a labelling tool."""

import argparse
import sys

from mmssl.commands.arguments import (
    add_cfg_options,
    add_config,
    add_device,
    add_launcher,
    add_progress,
    add_trust,
    check_files,
    check_minimums,
    checkpoint_files,
    process_of,
    progress_hidden,
)

HELP = 'write the predictions of a model as labels in any format; continues where it stopped'
FORMATS = ('coco', 'yolo', 'voc', 'png', 'labelme', 'cvat', 'label-studio')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_config(parser)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='weights of the model, or random')
    parser.add_argument(
        'images',
        nargs='+',
        metavar='IMAGES',
        help='folder of images, searched with its subfolders; list file (.txt), a path per line; archive, '
        'shards, table, pattern or URL; video; or images',
    )
    parser.add_argument(
        '--to', required=True, choices=FORMATS, metavar='FORMAT', help=f'format: {", ".join(FORMATS)}'
    )
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the labels')
    parser.add_argument(
        '--threshold',
        nargs='+',
        action='extend',
        default=[],
        metavar='T',
        help='lowest score of boxes or classes of images, or CLASS=T for a class (default: 0.3); lowest '
        'probability of the classes of pixels, others are ignored (default: none)',
    )
    parser.add_argument(
        '--calibrate',
        metavar='DIR',
        help='labels, which the model was not trained on: measures a threshold for each class above which '
        'boxes are right as often as --precision says',
    )
    parser.add_argument(
        '--precision',
        type=float,
        default=0.95,
        metavar='P',
        help='share of right boxes for --calibrate (default: 0.95)',
    )
    parser.add_argument(
        '--keep-uncertain',
        action='store_true',
        help='write boxes below the threshold, from a score of 0.1, as crowds, which are not trained on',
    )
    parser.add_argument(
        '--tile',
        type=int,
        metavar='PIXELS',
        help='cut larger images into tiles of this side (default: whole)',
    )
    parser.add_argument(
        '--overlap',
        type=int,
        default=128,
        metavar='PIXELS',
        help='pixels that neighbouring tiles share: at least the size of the objects (default: 128)',
    )
    parser.add_argument(
        '--every', type=int, default=1, metavar='N', help='predict one of N frames of videos (default: 1)'
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=1,
        metavar='N',
        help='processes, each with its own model; with --device cuda distributed over the GPUs (default: 1)',
    )
    add_launcher(parser)
    add_device(parser)
    add_cfg_options(parser)
    add_progress(parser)
    add_trust(parser)


def run(args: argparse.Namespace) -> int:
    """Predict the images and write the labels.

    Returns:
        1 if images could not be read, which are reported and left out; else 0.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The checkpoint, the format or a threshold does not fit the model, or the folder was
            started with another model.
        OSError: Another run writes into the folder.
    """
    check_minimums(args, workers=1, tile=1, overlap=0, every=1)
    check_files(checkpoint_files(args.checkpoint))
    rank, world_size, device = process_of(args.launcher, args.device)
    from mmssl.apis import predict
    from mmssl.apis.predict_models import parse_thresholds

    done = predict(
        args.config,
        args.checkpoint if checkpoint_files(args.checkpoint) else None,
        args.images,
        args.out,
        args.to,
        parse_thresholds(args.threshold),
        device=device,
        workers=args.workers,
        cfg_options=args.cfg_options,
        trust=args.trust_checkpoint,
        progress=not progress_hidden(args),
        calibrate=args.calibrate,
        precision=args.precision,
        keep_uncertain=args.keep_uncertain,
        tile=args.tile,
        overlap=args.overlap,
        every=args.every,
        rank=rank,
        world_size=world_size,
    )
    for reason in done.unreadable:
        print(f'mmssl predict: left out: {reason}', file=sys.stderr)
    if done.pending:
        print(f'{args.out}: {done.pending} images are left to other processes')
        return int(bool(done.unreadable))
    if done.calibration:
        values = ', '.join(f'{name} {measured}' for name, measured in done.calibration.items())
        print(f'boxes are right in {args.precision:.0%} above: {values}')
    for loss in done.losses:
        print(f'note: {loss}')
    labels = done.labels
    objects = f', {labels.num_objects} objects' if labels.num_objects else ''
    print(
        f'{args.out}: {len(labels)} images{objects}'
        + (f'; {done.skipped} images were done before' if done.skipped else '')
        + (f'; {len(done.unreadable)} could not be read' if done.unreadable else '')
    )
    return int(bool(done.unreadable))
