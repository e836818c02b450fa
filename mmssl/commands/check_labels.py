"""``mmssl check-data DIR``: what the labels of a folder are, and which images cannot be read."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.commands.arguments import check_output_folder, progress_hidden
from mmssl.commands.check_leaks import label_leaks

if TYPE_CHECKING:
    from mmssl.data.label_formats import LabelSet

LABEL_SUFFIXES = ('.json', '.xml', '.csv', '.tsv')


def is_label_path(path: str) -> bool:
    """Whether an argument is a folder or a file of labels, not a config."""
    return Path(path).is_dir() or (Path(path).suffix.lower() in LABEL_SUFFIXES and Path(path).is_file())


def check_labels(args: argparse.Namespace) -> int:
    """Read the labels of a folder, decode its images, and print what is there.

    Returns:
        1 if an image cannot be read, or if training and validation share one; else 0.

    Raises:
        LabelError: The labels cannot be read or mean more than one thing.
        ValueError: An option of a config was given.
    """
    from mmssl.checkpoint import write_json, write_text
    from mmssl.data.bad_files import list_line
    from mmssl.data.label_formats import class_counts, describe, read_labels

    if args.data or args.cfg_options:
        raise ValueError(f'{args.config} is no config, so that --data and --cfg-options have no meaning')
    labels = read_labels(args.config, args.task, args.format)
    print(describe(labels))
    warnings = _beyond_images(labels)
    unreadable = _unreadable(labels, args)
    for warning in warnings:
        print(f'note: {warning}')
    for path, reason in unreadable[:5]:
        print(f'{path}: {reason}')
    if args.out:
        out = Path(args.out)
        check_output_folder(out)
        facts = dict(format=labels.format, images=len(labels), classes=class_counts(labels))
        content = dict(root=labels.root, facts=facts, notes=[*labels.notes, *warnings], unreadable=unreadable)
        write_json(out / 'check.json', content)
        write_text(out / 'bad_files.txt', ''.join(list_line(path, reason) for path, reason in unreadable))
    leaks = 0 if args.duplicates is None else label_leaks(labels, args)
    verdict = f'{len(unreadable)} images cannot be read' if unreadable else 'all images can be read'
    if leaks:
        verdict += f'; {leaks} training images are validation images, too'
    print(f'\n{args.config}: {verdict}')
    return int(bool(unreadable or leaks))


def _beyond_images(labels: 'LabelSet') -> list[str]:
    beyond = [
        (image.name, each.box)
        for image in labels.images
        for each in image.objects
        if each.box[0] < -1
        or each.box[1] < -1
        or each.box[2] > image.width + 1
        or each.box[3] > image.height + 1
    ]
    if not beyond:
        return []
    return [f'{len(beyond)} boxes reach beyond their images (the first is {beyond[0][1]} of {beyond[0][0]})']


def _unreadable(labels: 'LabelSet', args: argparse.Namespace) -> list[tuple[str, str]]:
    from tqdm import tqdm

    from mmssl.data.images import BadImageError, decode, open_image

    images = [image for image in labels.images if image.path]
    if args.max_images and args.max_images < len(images):
        images = [images[index * len(images) // args.max_images] for index in range(args.max_images)]
    unreadable = []
    for image in tqdm(images, desc='images', disable=progress_hidden(args), leave=False):
        try:
            decode(open_image(image.path))
        except BadImageError as error:
            unreadable.append((image.path, error.reason))
    return unreadable
