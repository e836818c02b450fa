"""``mmssl check-data --duplicates``: validation images that are among the training images, too."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl.commands.arguments import check_files, progress_hidden

if TYPE_CHECKING:
    from mmssl.apis.duplicates import Duplicates
    from mmssl.data.label_formats import LabelSet

MAX_LINES = 5


def add_duplicates(parser: argparse.ArgumentParser) -> None:
    """Add the search for duplicates."""
    parser.add_argument(
        '--duplicates',
        nargs='?',
        const='',
        metavar='FEATURES',
        help='also find images that training and validation share; with many images, give a file of '
        'mmssl embed (default: by a perceptual hash alone)',
    )


def config_leaks(train: dict, val: dict, model: dict, args: argparse.Namespace) -> int:
    """Compare the training and validation images of a config, and print what both have.

    Args:
        train: Settings of the training data.
        val: Settings of the validation data.
        model: Settings of the model.
        args: Arguments of the command.

    Returns:
        Number of training images that are validation images, too.

    Raises:
        ValueError: The images are no files.
    """
    return _report(list(_images_of(train, model)), list(_images_of(val, model)), args)


def label_leaks(labels: 'LabelSet', args: argparse.Namespace) -> int:
    """As :func:`config_leaks` for labels of a folder, split as ``mmssl finetune`` does."""
    from mmssl.data.label_formats import split_labels

    split = split_labels(labels)
    print(f'\n{split.rule}')
    parts = [[image.path for image in part.images if image.path] for part in (split.train, split.val)]
    return _report(parts[0], parts[1], args)


def _images_of(settings: dict, model: dict) -> Iterator[str]:
    from mmssl.data.checks.inspector import DatasetInspector
    from mmssl.data.checks.settings import innermost_datasets

    for dataset in innermost_datasets(settings):
        inspector = DatasetInspector(dataset, model)
        for index in range(len(inspector)):
            path = inspector.info(index).get('img_path')
            if path is None:
                raise ValueError(f'--duplicates compares files, and {dataset.get("type")} has none')
            yield path


def _report(train: Sequence[str], val: Sequence[str], args: argparse.Namespace) -> int:
    from mmssl.apis.leaks import find_leaks

    check_files([args.duplicates] if args.duplicates else [])
    result = find_leaks(train, val, args.duplicates or None, progress=not progress_hidden(args))
    for reason in result.unreadable[:MAX_LINES]:
        print(f'not compared: {reason}')
    shared = {pair[1] for pair in result.pairs}
    print(f'duplicates: {len(shared)} of {len(val)} validation images are training images, too')
    for first, second, similarity in result.pairs[:MAX_LINES]:
        print(f'           {second} is {first} ({similarity:.3f})')
    if len(result.pairs) > MAX_LINES:
        print(f'           and {len(result.pairs) - MAX_LINES} more; --out DIR writes them all')
    if args.out:
        _write(Path(args.out), result)
    return len(result.dropped)


def _write(out: Path, result: 'Duplicates') -> None:
    """Write the pairs, the training images to drop, and a sheet of pictures."""
    from mmssl.apis.duplicates import draw_pairs
    from mmssl.apis.feature_images import write_list
    from mmssl.checkpoint import write_json

    out.mkdir(parents=True, exist_ok=True)
    write_json(out / 'duplicates.json', dict(pairs=[list(pair) for pair in result.pairs]))
    write_list(out / 'duplicates_to_drop.txt', result.dropped)
    if result.pairs:
        draw_pairs(out / 'duplicates.png', result)
