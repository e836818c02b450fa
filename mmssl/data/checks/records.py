"""What a check reports about one image, and how long lists are abbreviated."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from mmssl.data.checks.bands import BandCounts

# what is counted for each type of label
COUNTED = {'objects': 'objects', 'masks': 'masks', 'pixels': 'pixels', 'images': 'images', 'none': ''}


class ImageRecord(NamedTuple):
    """Result of checking one image.

    Attributes:
        path: The image file.
        size: (width, height), or None if the file cannot be read.
        reason: Why the file cannot be read.
        counts: Label -> number of objects, pixels or images with it.
        objects: Number of objects; None if the labels are not of objects.
        ignored: Number of pixels without a class.
        errors: Problems that break training.
        warnings: Problems that do not.
        digest: Hash of the file's bytes.
        bands: Counts of the values of each channel; None for floats without a range.
    """

    path: str
    size: tuple[int, int] | None = None
    reason: str = ''
    counts: Mapping[int, int] = {}
    objects: int | None = None
    ignored: int = 0
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    digest: str = ''
    bands: BandCounts | None = None


def abbreviated(values: Iterable, limit: int = 3) -> str:
    """Join the first ``limit`` values with commas, followed by '...' if there are more."""
    values = list(values)
    return ', '.join(map(str, values[:limit])) + (', ...' if len(values) > limit else '')
