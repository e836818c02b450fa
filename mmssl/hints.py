"""The nearest right name for a wrong one. Imports nothing outside Python."""

import difflib
import os
from collections.abc import Iterable
from pathlib import Path


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ``'; did you mean ...?'``, or '' if no name is similar."""
    matches = difflib.get_close_matches(name, map(str, names), n=1, cutoff=0.6)
    return f'; did you mean {matches[0]!r}?' if matches else ''


def nearest_path(path: str | os.PathLike) -> str:
    """Return the hint of :func:`nearest` for a path that does not exist, from its deepest existing folder."""
    path = Path(path)
    for folder in path.parents:
        if folder.is_dir():
            missing = path.relative_to(folder).parts[0]
            hint = nearest(missing, (entry.name for entry in folder.iterdir()))
            return hint or f' ({folder.resolve()} holds no {missing!r})'
    return ''
