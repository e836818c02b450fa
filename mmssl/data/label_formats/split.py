"""Training and validation parts of labels: those of the layout, or by a hash of the file names."""

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mmssl.checkpoint import write_text
from mmssl.data.label_formats.files import read_names
from mmssl.data.label_formats.records import ImageLabels, LabelSet
from mmssl.errors import LabelError

FRACTION = 0.2
LISTS = {'train': 'train.txt', 'val': 'val.txt'}


class Split(NamedTuple):
    """The parts of labels.

    Attributes:
        train: The training part.
        val: The validation part.
        rule: How they were separated, a sentence.
    """

    train: LabelSet
    val: LabelSet
    rule: str


def split_labels(
    labels: LabelSet,
    work_dir: str | os.PathLike | None = None,
    fraction: float = FRACTION,
    seed: int = 0,
    by_folder: bool = False,
) -> Split:
    """Split labels into training and validation parts.

    A layout that names train and val (or train and test) is followed. Otherwise an image is validated if the
    hash of the seed and its file name is below ``fraction``, so that images that are added later do not move
    the others; the same images in another format are split alike.

    Args:
        labels: The labels.
        work_dir: Folder for ``train.txt`` and ``val.txt``, a name per line. Images that are listed there
            keep their part; None writes nothing.
        fraction: Part of the images to validate on.
        seed: Seed of the hash.
        by_folder: Hash the folder of an image instead of its name: images of a folder (a video, a patient)
            stay together.

    Raises:
        LabelError: There is only one image or, with ``by_folder``, only one folder; or the layout has no
            training part.
        ValueError: ``fraction`` is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise ValueError(f'fraction={fraction} of the validation part must be between 0 and 1')
    splits = labels.splits
    if splits and 'train' not in splits:
        raise LabelError(f'has a part {splits[0]!r} but none for training; add one named train', labels.root)
    for name in ('val', 'test'):
        if name in splits:
            split = Split(labels.of_split('train'), labels.of_split(name), _layout_rule(labels, name))
            break
    else:
        split = _hashed(labels, work_dir, fraction, seed, by_folder)
    if work_dir is not None:
        _write_lists(split, labels, Path(work_dir))
    return split


def _layout_rule(labels: LabelSet, name: str) -> str:
    others = sum(image.split is None for image in labels.images)
    unused = f'; {others} images in neither are not used' if others else ''
    return f'train and {name} of the layout{unused}'


def _hashed(labels: LabelSet, work_dir, fraction: float, seed: int, by_folder: bool) -> Split:
    images = labels.images
    keys = _keys(images, by_folder)
    hashes = {key: _hash(key, seed) for key in keys}
    if len(hashes) < 2:
        what = 'folder' if by_folder else 'image'
        raise LabelError(f'{len(hashes)} {what} cannot be split into training and validation', labels.root)
    validated = {key for key, value in hashes.items() if value < fraction}
    if not validated:
        validated = {min(hashes, key=lambda key: hashes[key])}
    if len(validated) == len(hashes):
        validated.remove(max(hashes, key=lambda key: hashes[key]))
    earlier = _read_lists(work_dir)
    parts: dict[str, list[ImageLabels]] = {'train': [], 'val': []}
    for image, key in zip(images, keys, strict=True):
        name = _list_name(labels, image)
        parts[earlier.get(name) or ('val' if key in validated else 'train')].append(image)
    what = 'folder' if by_folder else 'file name'
    rule = f'{fraction:.0%} for validation, by a hash of the {what} (seed {seed})'
    train, val = (LabelSet(**{**vars(labels), 'images': parts[name]}) for name in ('train', 'val'))
    return Split(train, val, rule)


def _keys(images: list[ImageLabels], by_folder: bool) -> list[str]:
    """Return what is hashed of each image: its folder, its file name, or its path where names repeat."""
    if by_folder:
        return [os.path.dirname(image.name) for image in images]
    names = [os.path.basename(image.name) for image in images]
    counts = Counter(names)
    return [name if counts[name] == 1 else image.name for name, image in zip(names, images, strict=True)]


def _hash(key: str, seed: int) -> float:
    """Return a number from 0 to 1 that depends only on a text and a seed."""
    digest = hashlib.blake2b(f'{seed}:{key}'.encode(), digest_size=8).digest()
    return int.from_bytes(digest, 'big') / 2**64


def _list_name(labels: LabelSet, image: ImageLabels) -> str:
    root = labels.root if os.path.isdir(labels.root) else os.path.dirname(labels.root)
    return Path(os.path.relpath(image.path, root)).as_posix() if image.path else image.name


def _read_lists(work_dir) -> dict[str, str]:
    parts: dict[str, str] = {}
    for name, file in LISTS.items():
        path = Path(work_dir or '.') / file
        if work_dir is not None and path.is_file():
            parts.update(dict.fromkeys(read_names(str(path)), name))
    return parts


def _write_lists(split: Split, labels: LabelSet, work_dir: Path) -> None:
    work_dir.mkdir(parents=True, exist_ok=True)
    for part, file in zip((split.train, split.val), LISTS.values(), strict=True):
        names = [_list_name(labels, image) for image in part.images]
        write_text(work_dir / file, ''.join(f'{name}\n' for name in names))
