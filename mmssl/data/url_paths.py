"""Paths that may be URLs (``s3://bucket/a.jpg``). Imports nothing outside Python."""

import os
import posixpath
import re
from collections.abc import Sequence

_URL = re.compile(r'[a-z][a-z0-9+.-]*://', re.IGNORECASE)


def is_url(path: str) -> bool:
    """Return True for ``scheme://...``."""
    return _URL.match(path) is not None


def split_scheme(path: str) -> tuple[str, str]:
    """Split ``s3://bucket/a.jpg`` into ``s3://`` and ``bucket/a.jpg``; a local path has the scheme ''."""
    match = _URL.match(path)
    return (match.group(), path[match.end() :]) if match else ('', path)


def join_path(folder: str, path: str) -> str:
    """Return a path that may be relative to a folder, normalised; both may be URLs."""
    if is_url(path):
        return path
    if not is_url(folder):
        return os.path.normpath(os.path.join(folder, path))
    scheme, rest = split_scheme(folder)
    return scheme + posixpath.normpath(posixpath.join(rest, path))


def absolute_path(path: str) -> str:
    """Return the absolute form of a local path; a URL as it is."""
    return path if is_url(path) else os.path.abspath(path)


def common_folder(paths: Sequence[str]) -> str:
    """Return the folder above all paths, which are all local or all of one scheme; '' if there is none.

    Raises:
        ValueError: They are not.
    """
    schemes = {split_scheme(path)[0] for path in paths}
    if len(schemes) > 1:
        raise ValueError(
            f'{next(path for path in paths if is_url(path))} is not on the same file system as the other '
            'images; copy them to one'
        )
    scheme = schemes.pop() if schemes else ''
    parents = [os.path.dirname(split_scheme(path)[1]) for path in paths]
    return scheme + os.path.commonpath(parents) if parents else ''
