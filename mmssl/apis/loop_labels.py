"""The labels of a loop: the corrected masks of each round, and all of them as training data."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mmssl.apis.loop_state import LoopState, Round
from mmssl.apis.mask_prompts import name_below
from mmssl.checkpoint import write_json
from mmssl.data.label_formats import LabelSet, read_labels
from mmssl.data.label_formats.coco import coco_content
from mmssl.errors import UserError

PREFILLED = 'prefilled.json'
# what a labelling tool writes, and what mmssl demo does
CORRECTED = (Path('corrected.json'), Path('corrected/annotations.json'))
LABELS_FOLDER = 'labels'


def round_folder(folder: str | os.PathLike, number: int) -> Path:
    """Return the folder of a round."""
    return Path(folder) / f'round-{number}'


def labels_file(folder: Path, split: str) -> str | None:
    """Return the file of the corrected masks of 'train' or 'val' images; None before the first training."""
    file = folder / LABELS_FOLDER / f'{split}.json'
    return str(file) if file.is_file() else None


def read_corrected(
    folder: Path, each: Round, images: str, report: Callable[[str], None] = lambda text: None
) -> LabelSet | None:
    """Return the corrected masks of a round in the order of its images.

    Args:
        folder: Folder of the loop.
        each: The round.
        images: Folder of the images.
        report: Receives what is missing.

    Returns:
        The masks, with the names below ``images`` and the parts; None while images are missing.

    Raises:
        LabelError: The file is damaged or not consistent.
    """
    path = round_folder(folder, each.number)
    file = next((path / name for name in CORRECTED if (path / name).is_file()), None)
    if file is None:
        report(
            f'round {each.number}: correct the masks, and run this again: mmssl demo --data {images} --order '
            f'{path}/images.txt --prefill {path / PREFILLED} --out {path / CORRECTED[1].parent}; or with '
            f'another tool, which writes {path / CORRECTED[0]}'
        )
        return None
    labels = read_labels(file, images=[images])
    by_name = {name_below(image.path, images): image for image in labels.images}
    missing = [name for name in each.images if name not in by_name]
    if missing:
        report(
            f'round {each.number}: {len(missing)} of {len(each.images)} images are not in {file} yet, such '
            f'as {missing[0]}; images without objects belong into its list, too'
        )
        return None
    ordered = [
        replace(by_name[name], name=name, split='val' if name in each.validation else 'train')
        for name in each.images
    ]
    return replace(labels, images=ordered)


def write_labels(folder: Path, state: LoopState, images: str) -> None:
    """Write the corrected masks of all rounds as ``labels/train.json`` and ``labels/val.json``.

    Args:
        folder: Folder of the loop.
        state: Its state.
        images: Folder of the images.

    Raises:
        UserError: The file of an earlier round is gone.
    """
    parts = []
    for each in state.rounds:
        part = read_corrected(folder, each, images)
        if part is None:
            raise UserError(f'{round_folder(folder, each.number) / CORRECTED[0]} is gone; restore it')
        parts.append(part)
    classes = list(dict.fromkeys(name for part in parts for name in part.classes))
    for split in ('train', 'val'):
        labelled = []
        for part in parts:
            indices = [classes.index(name) for name in part.classes]
            for image in part.images:
                if image.split == split:
                    objects = [replace(each, label=indices[each.label]) for each in image.objects]
                    labelled.append(replace(image, name=image.path, objects=objects))
        content = coco_content(replace(parts[0], classes=classes, images=labelled), with_scores=False)
        write_json(folder / LABELS_FOLDER / f'{split}.json', content, indent=None)
