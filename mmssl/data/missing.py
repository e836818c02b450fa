"""Messages about folders that do not exist or contain no images; they suggest the most similar name."""

import difflib
import os
from collections import Counter
from collections.abc import Sequence


def closest(name: str, candidates: Sequence[str], cutoff: float = 0.6) -> str | None:
    """Return the most similar candidate, or None if none is similar.

    Args:
        name: The name to compare.
        candidates: Existing names.
        cutoff: Smallest similarity, from 0 to 1 (difflib).
    """
    return next(iter(difflib.get_close_matches(name, candidates, n=1, cutoff=cutoff)), None)


def no_such_folder(path: str) -> str:
    """Say which part of a path is the first that does not exist, and what exists beside it."""
    parent = os.path.abspath(path)
    missing = os.path.basename(parent)
    while not os.path.exists(parent):
        parent, missing = os.path.split(parent)
    siblings = sorted(os.listdir(parent)) if os.path.isdir(parent) else []
    similar = closest(missing, siblings, cutoff=0.5)
    message = f'no such folder: {path}; {parent} has no {missing!r}'
    if similar:
        return f'{message}; did you mean {os.path.join(parent, similar)}?'
    return f'{message}, it holds {", ".join(siblings[:5]) or "nothing"}'


def no_such_folder_in_archive(archive: str, folder: str, images: Sequence[str]) -> str:
    """Say that an archive has no such folder of images, and which ones it has.

    Args:
        archive: Path of the archive.
        folder: The folder that does not exist.
        images: Names of all images in the archive.
    """
    nested = [name for name in images if '/' in name]
    folders = sorted({name.rsplit('/', 1)[0] for name in nested} | {name.split('/', 1)[0] for name in nested})
    similar = closest(folder, folders, cutoff=0.5)
    hint = f'; did you mean {similar!r}?' if similar else f'; it holds {", ".join(folders[:5])}'
    return f'{archive} holds no folder {folder!r} with images{hint}'


def no_images(path: str, suffixes: Sequence[str], other_suffixes: Counter) -> str:
    """Say that a folder has no images, which suffixes were searched and which files exist.

    Args:
        path: The folder or archive.
        suffixes: Suffixes that were searched.
        other_suffixes: Number of files per suffix.
    """
    counts = [f'{count} {suffix or "without a suffix"}' for suffix, count in other_suffixes.most_common(5)]
    files = ', '.join(counts) or 'no files at all'
    return f'no images in {path}: looked for {", ".join(suffixes)}; found {files}'


def unknown_class(folder: str, name: str, classes: Sequence[str]) -> str:
    """Say that a folder is not among the classes.

    Args:
        folder: Path of the folder.
        name: Its name.
        classes: Names of the classes.
    """
    message = f'the folder {folder} is none of the {len(classes)} classes'
    similar = closest(name, classes)
    if similar:
        return f'{message}; did you mean {similar!r}?'
    return f'{message} ({", ".join(classes[:10])}{", ..." if len(classes) > 10 else ""})'
