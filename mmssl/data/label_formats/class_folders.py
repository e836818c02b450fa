"""A folder of images for each class, with or without folders of the splits above."""

import os
from collections import defaultdict
from pathlib import PurePosixPath

from mmssl.data.label_formats.builder import LabelSetBuilder
from mmssl.data.label_formats.files import LabelFolder, split_name
from mmssl.data.label_formats.records import LabelSet
from mmssl.errors import LabelError


def is_class_folders(folder: LabelFolder) -> bool:
    """Whether the images are in two or more folders that may be classes."""
    names = {name for _, _, name in _located(folder) if name}
    return len(names) > 1


def read(folder: LabelFolder) -> LabelSet:
    """Read the class of each image from the folder it is in.

    Folders named train, val and test are splits. Folders inside a class belong to it. Classes are sorted by
    name, as torchvision and mmpretrain sort them.

    Raises:
        LabelError: An image is in no class, there is only one class, two names differ only in case, or a
            class is not in the training part.
    """
    located = _located(folder)
    outside = [path for path, _, name in located if not name]
    if outside:
        raise LabelError(
            f'{folder.below(outside[0])} is in no class folder, as {len(outside)} of {len(located)} images; '
            'move them into one',
            folder.root,
        )
    splits: dict[str, set] = defaultdict(set)
    for _, split, name in located:
        splits[name].add(split)
    classes = sorted(splits)
    _check_classes(folder, classes, splits)
    builder = LabelSetBuilder(folder, 'classes', classes, read_sizes=False)
    builder.sources.append(f'{len(classes)} class folders')
    for path, split, name in located:
        image = builder.add_image(path, path, split=split)
        assert image is not None
        image.label = builder.label_of(name, path)
    return builder.build()


def _located(folder: LabelFolder) -> list[tuple[str, str | None, str]]:
    """Return (path, split, class or '') of each image."""
    if not folder.images:
        return []
    root = os.path.commonpath([os.path.dirname(path) for path in folder.images])
    if split_name(os.path.basename(root)) and root != folder.root:
        root = os.path.dirname(root)
    located = []
    for path in folder.images:
        parts = PurePosixPath(os.path.relpath(path, root).replace(os.sep, '/')).parts[:-1]
        split = split_name(parts[0]) if parts else None
        rest = parts[1:] if split else parts
        located.append((path, split, rest[0] if rest else ''))
    if any(split is None for _, split, _ in located) and any(split for _, split, _ in located):
        # 'test' may be a class beside others
        return [(path, None, PurePosixPath(os.path.relpath(path, root)).parts[0]) for path, _, _ in located]
    return located


def _check_classes(folder: LabelFolder, classes: list[str], splits: dict[str, set]) -> None:
    if len(classes) < 2:
        raise LabelError(
            f'all images are in one folder, {classes[0]!r}; a classifier needs a folder for each of two '
            'classes or more',
            folder.root,
        )
    by_case: dict[str, str] = {}
    for name in classes:
        if by_case.setdefault(name.casefold(), name) != name:
            raise LabelError(
                f'the classes {by_case[name.casefold()]!r} and {name!r} differ only in case; rename or join '
                'them',
                folder.root,
            )
    if any('train' in of_class for of_class in splits.values()):
        absent = [name for name in classes if 'train' not in splits[name]]
        if absent:
            raise LabelError(
                f'the class {absent[0]!r} has no image in the training part; add some, or remove it',
                folder.root,
            )
