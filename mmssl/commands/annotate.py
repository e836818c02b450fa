"""``mmssl annotate``: automatic masks of a folder of images in the format of SA-1B."""

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from mmssl.commands.annotate_folder import parse_part, settings_of
from mmssl.commands.annotate_workers import Annotator, Recipe
from mmssl.commands.arguments import check_minimums, check_output_folder, progress_hidden
from mmssl.commands.picture_arguments import add_picture_arguments, picture_settings
from mmssl.commands.sam_arguments import (
    NO_MASKS,
    add_generator_arguments,
    add_model_arguments,
    generator_settings,
)

HELP = 'write automatic masks of a folder of images in the format of SA-1B; continues where it stopped'


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
    parser.add_argument(
        '--overlay',
        metavar='DIR',
        help='folder for NAME.png, the image with its masks and their numbers (the last four digits of '
        'their ids)',
    )
    add_model_arguments(parser)
    add_picture_arguments(parser)
    add_generator_arguments(parser)


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
    from mmssl.apis.loading import pick_device
    from mmssl.apis.output_folder import check_settings, locked, save_settings
    from mmssl.apis.processes import run_in_processes
    from mmssl.apis.sam import check_checkpoint, load_sam
    from mmssl.data import annotations

    check_minimums(args, workers=1)
    part = parse_part(args.part)
    settings = generator_settings(args)
    check_checkpoint(args.checkpoint)
    out = Path(args.out)
    check_output_folder(out)
    jobs = annotations.plan(args.images, out, part)
    if args.overlay and Path(args.overlay).resolve().is_relative_to(Path(args.images).resolve()):
        raise ValueError(
            f'--overlay {args.overlay} is inside the folder of images, where overlays would be taken for '
            'images; name '
            'another folder'
        )
    annotations.coco_masks()
    recipe = Recipe(
        args.model,
        args.checkpoint,
        tuple(args.cfg_options),
        args.trust_checkpoint,
        settings,
        str(pick_device(args.device)),
        args.overlay,
        args.cache_dir,
        picture_settings(args),
    )
    check_settings(out, 'annotate', settings_of(recipe))
    # load the model before anything is written; with several workers, each process loads its own later
    annotator = Annotator(recipe) if args.workers == 1 else None
    if annotator is None:
        load_sam(recipe.model, recipe.checkpoint, recipe.options, recipe.trust)
    with locked(out, 'annotate', part):
        pending = [job for job in jobs if not annotations.is_done(job.file)]
        save_settings(out, 'annotate', settings_of(recipe))
        if annotator is not None:
            results: Iterable = map(annotator, pending)
        else:
            results = run_in_processes(recipe, pending, min(args.workers, len(pending)))
        images, masks, unreadable = _collect(results, len(pending), progress_hidden(args))
    skipped = len(jobs) - len(pending)
    print(
        f'{out}: {masks} masks of {images} images'
        + (f', {skipped} images were done before and skipped' if skipped else '')
        + (f', {unreadable} could not be read' if unreadable else '')
        + (NO_MASKS if images and not masks else '')
    )
    return int(unreadable > 0)


def _collect(results: Iterable, total: int, hidden: bool) -> tuple[int, int, int]:
    """Consume the results with a progress line; return the numbers of images, masks and unreadable files."""
    from tqdm import tqdm

    images = masks = unreadable = 0
    with tqdm(total=total, desc='annotating', unit='image', disable=hidden) as bar:
        for count, reason in results:
            bar.update()
            if reason:
                unreadable += 1
                tqdm.write(f'mmssl annotate: left out: {reason}', file=sys.stderr)
            else:
                images += 1
                masks += count
    return images, masks, unreadable
