"""``mmssl annotate``: masks of a folder of images in the format of SA-1B, and as a COCO file."""

import argparse
import sys
from pathlib import Path

from mmssl.commands.arguments import (
    add_launcher,
    check_minimums,
    check_output_folder,
    process_of,
    progress_hidden,
)
from mmssl.commands.default_models import find_sam
from mmssl.commands.picture_arguments import add_picture_arguments, picture_settings
from mmssl.commands.sam_arguments import (
    NO_MASKS,
    add_generator_arguments,
    add_model_arguments,
    generator_settings,
)

HELP = 'write masks of a folder of images, automatic or from prompts; continues where it stopped'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument('images', metavar='DIR', help='folder of images, searched with its subfolders')
    parser.add_argument(
        '--out',
        required=True,
        metavar='DIR',
        help='folder for one NAME.json per image, in the same subfolders; may be the folder of the images',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=1,
        metavar='N',
        help='processes, each with its own model; with --device cuda distributed over the GPUs (default: 1)',
    )
    parser.add_argument(
        '--part', default='1/1', metavar='K/N', help='K-th of N parts of the images, for several machines'
    )
    add_launcher(parser)
    parser.add_argument(
        '--overlay',
        metavar='DIR',
        help='folder for NAME.png, the image with its masks and their numbers (the last four digits of '
        'their ids)',
    )
    _add_stages(parser)
    add_model_arguments(parser)
    add_picture_arguments(parser)
    add_generator_arguments(parser)


def _add_stages(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group('prompts, classes and confidence')
    group.add_argument(
        '--prompts',
        metavar='LABELS',
        help='segment these boxes, of any format, or the points of a COCO file, instead of everything',
    )
    group.add_argument(
        '--classes',
        metavar='LABELS',
        help='labelled masks, a handful per class, from which masks get classes',
    )
    group.add_argument(
        '--class-method',
        choices=('knn', 'linear'),
        default='knn',
        help='vote of the nearest examples, or logistic regression (default: knn)',
    )
    group.add_argument('--coco', metavar='FILE', help='COCO file to write when all images are done')
    group.add_argument(
        '--calibrate',
        metavar='LABELS',
        help='labelled images that measure which confidence is enough: --coco gets the masks above it, '
        'FILE-uncertain.json the others',
    )
    group.add_argument(
        '--precision',
        type=float,
        default=0.95,
        metavar='P',
        help='share of right masks above it (default: 0.95)',
    )
    group.add_argument(
        '--min-iou', type=float, default=0.75, metavar='X', help='IoU of right masks (default: 0.75)'
    )


def run(args: argparse.Namespace) -> int:
    """Annotate the images.

    Returns:
        1 if images could not be read, which are reported and left out; else 0.

    Raises:
        FileNotFoundError: The folder or the checkpoint does not exist.
        ValueError: There are no images, the checkpoint does not fit, or the folder was started with other
            settings.
        OSError: Another run writes into the folder.
    """
    check_minimums(args, workers=1)
    rank, world_size, device = process_of(args.launcher, args.device)
    part = _part_of(args, rank, world_size)
    find_sam(args, automatic=not args.prompts)
    settings = generator_settings(args)
    from mmssl.apis.annotate import AnnotateOptions, annotate

    check_output_folder(Path(args.out))
    if args.overlay and Path(args.overlay).resolve().is_relative_to(Path(args.images).resolve()):
        raise ValueError(
            f'--overlay {args.overlay} is inside the folder of images, where overlays would be taken for '
            'images; name another folder'
        )
    options = AnnotateOptions(
        coco=args.coco,
        calibrate=args.calibrate,
        precision=args.precision,
        min_iou=args.min_iou,
        workers=args.workers,
        part=part,
        progress=not progress_hidden(args),
    )
    done = annotate(args.images, args.out, _recipe(args, settings, device), options)
    for reason in done.unreadable:
        print(f'mmssl annotate: left out: {reason}', file=sys.stderr)
    print(
        f'{args.out}: {done.masks} masks of {done.images} images'
        + (f', {done.skipped} images were done before and skipped' if done.skipped else '')
        + (f', {len(done.unreadable)} could not be read' if done.unreadable else '')
        + (NO_MASKS if done.images and not done.masks and not args.prompts else '')
    )
    _report_coco(args, done)
    return int(bool(done.unreadable))


def parse_part(text: str) -> tuple[int, int]:
    """Parse 'K/N' with 1 <= K <= N.

    Raises:
        ValueError: The text does not have this form.
    """
    part, _, count = text.partition('/')
    if not (part.isdigit() and count.isdigit() and 1 <= int(part) <= int(count)):
        raise ValueError(f'--part {text} is not K/N with K from 1 to N, as 1/4')
    return int(part), int(count)


def _part_of(args: argparse.Namespace, rank: int, world_size: int) -> tuple[int, int]:
    part = parse_part(args.part)
    if world_size == 1:
        return part
    if part != (1, 1):
        raise ValueError(f'--part {args.part}: the {world_size} processes of the launcher share the images')
    return rank + 1, world_size


def _recipe(args: argparse.Namespace, settings: dict, device: str | None):
    """Return the model with its prompts and classes."""
    from mmssl.apis.annotate_workers import Recipe
    from mmssl.apis.loading import pick_device
    from mmssl.apis.mask_classes import learn_classes
    from mmssl.apis.mask_prompts import read_prompts
    from mmssl.apis.sam import load_sam

    recipe = Recipe(
        args.model,
        args.checkpoint,
        tuple(args.cfg_options),
        args.trust_checkpoint,
        settings,
        str(pick_device(device)),
        args.overlay,
        args.cache_dir,
        picture_settings(args),
    )
    if args.prompts:
        recipe = recipe._replace(prompts=read_prompts(args.prompts, args.images))
    if args.classes:
        from mmssl.promptable import SamPredictor

        model = load_sam(recipe.model, recipe.checkpoint, recipe.options, recipe.trust).to(recipe.device)
        predictor = SamPredictor(model, recipe.cache_dir)
        classes = learn_classes(predictor, args.classes, args.class_method, recipe.pictures)
        recipe = recipe._replace(classes=classes)
    return recipe


def _report_coco(args: argparse.Namespace, done) -> None:
    if args.coco and done.pending:
        print(f'{args.coco}: {done.pending} images are left to other processes')
    if done.labels is None:
        return
    classes = '' if len(done.labels.classes) == 1 else f' of {len(done.labels.classes)} classes'
    print(f'{args.coco}: {done.labels.num_objects} masks{classes}')
    if done.uncertain is not None:
        print(
            f'{done.uncertain.num_objects} uncertain masks are left to people; the others have a confidence '
            f'of at least {done.threshold:.3f}, above which {args.precision:.0%} are right'
        )
