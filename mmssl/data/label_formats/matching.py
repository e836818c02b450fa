"""Pairs the images of two sets of labels by their names."""

import os
from collections import Counter

from mmssl.data.label_formats.records import ImageLabels, LabelSet
from mmssl.errors import LabelError


def part_of(labels: LabelSet, split: str | None) -> LabelSet:
    """Return the labels of a split of the layout; all labels for None.

    Raises:
        LabelError: The layout has no such split.
    """
    if split is None:
        return labels
    if split not in labels.splits:
        named = ', '.join(labels.splits) or 'none'
        raise LabelError(f'has no part {split!r}; parts of the layout: {named}', labels.root)
    return labels.of_split(split)


def match_images(
    truth: LabelSet, prediction: LabelSet, may_lack: bool = False
) -> list[tuple[ImageLabels, ImageLabels | None]]:
    """Return each image of the truth with its predictions.

    Names are compared without their endings: the file name alone if it is unique on both sides, otherwise the
    path below the images.

    Args:
        truth: The truth.
        prediction: The predictions.
        may_lack: Accept images without predictions, as in formats that write nothing for them.

    Raises:
        LabelError: An image is only on one side, or its sizes differ.
    """
    key = _key([*(image.name for image in truth.images)], [*(image.name for image in prediction.images)])
    predicted = {key(image.name): image for image in prediction.images}
    known = {key(image.name) for image in truth.images}
    for image in prediction.images:
        if key(image.name) not in known:
            raise LabelError(f'{image.name} is not in {truth.root}; name the images alike', prediction.root)
    pairs = []
    for image in truth.images:
        other = predicted.get(key(image.name))
        if other is None and not may_lack:
            raise LabelError(
                f'{image.name} is not in {prediction.root}; predict it, or remove it', truth.root
            )
        if other is not None and 0 not in (image.width, other.width):
            _check_size(image, other)
        pairs.append((image, other))
    return pairs


def _key(*sides: list[str]):
    def stem(name: str) -> str:
        return os.path.splitext(name.rpartition('/')[2])[0]

    repeated = any(max(Counter(map(stem, names)).values(), default=0) > 1 for names in sides)
    return (lambda name: os.path.splitext(name)[0]) if repeated else stem


def _check_size(image: ImageLabels, other: ImageLabels) -> None:
    if (image.width, image.height) != (other.width, other.height):
        raise LabelError(
            f'{other.name} is {other.width}x{other.height}, {image.width}x{image.height} in the truth',
            other.source,
        )
