"""Nested subsets of labelled images for few-label curves: how they are counted, drawn and written."""

import hashlib
import heapq
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from mmssl.apis.finetune_data import TaskData
from mmssl.checkpoint import write_text
from mmssl.data.label_formats import LabelSet, write_class_list, write_coco
from mmssl.data.label_formats.convert import label_map_of
from mmssl.data.label_formats.maps import IGNORE_INDEX
from mmssl.data.label_formats.records import ImageLabels
from mmssl.errors import UserError

ALL = 'all'
RULE = (
    'subsets are nested: in the order of a hash of seed and file name, the next image is always the first '
    'one with the class of which the smallest fraction has been drawn'
)
# an image without any object counts as one of a class of its own
_EMPTY = -1


def parse_labels(text: str, num_images: int) -> dict[str, int]:
    """Return the numbers of images that a list such as ``10,50,1%,10%,all`` names, in ascending order.

    Args:
        text: Numbers, percentages and 'all', separated by commas.
        num_images: Number of training images.

    Returns:
        Entry -> number of images, at least 1; an entry that names the number of an earlier one is left out.

    Raises:
        UserError: An entry is none of these, or names more images than there are.
    """
    counts: dict[str, int] = {}
    for entry in filter(None, (part.strip() for part in text.split(','))):
        count = num_images if entry == ALL else _count(entry, num_images)
        if not 1 <= count <= num_images:
            raise UserError(
                f"--labels {entry}: the training part has {num_images} images; name 1 to as many, or 'all'"
            )
        if count not in counts.values():
            counts[entry] = count
    if not counts:
        raise UserError(f"--labels {text!r} names no number; give some, such as '10,50,10%,all'")
    return dict(sorted(counts.items(), key=lambda item: item[1]))


def _count(entry: str, num_images: int) -> int:
    try:
        if not entry.endswith('%'):
            return int(entry)
        percent = float(entry[:-1])
    except ValueError:
        raise UserError(
            f"--labels {entry} is neither a number of images, nor a percentage such as '10%', nor 'all'"
        ) from None
    if not 0 < percent <= 100:
        raise UserError(f'--labels {entry} must be above 0 % and at most 100 %')
    return max(1, round(num_images * percent / 100))


def image_classes(data: TaskData, task: str) -> list[set[int]]:
    """Return the classes of each training image, for :func:`drawing_order`; label maps are read for them."""
    return [_classes(data.labels, image, task) for image in data.split.train.images]


def drawing_order(data: TaskData, classes: Sequence[set[int]], seed: int) -> list[ImageLabels]:
    """Order the training images so that the first N are a subset of N for every N; see :data:`RULE`.

    While a class is missing, an image that has it is next, the rarest class first; then the classes follow in
    proportion. Images without an object are last among those that are equally far.

    Args:
        data: The data.
        classes: Those of :func:`image_classes`.
        seed: Seed of the order.
    """
    images = data.split.train.images
    members: dict[int, list[int]] = {}
    for index in sorted(range(len(images)), key=lambda index: _hash(seed, images[index].name)):
        for label in classes[index]:
            members.setdefault(label, []).append(index)
    drawn: Counter[int] = Counter()
    heap = [(0.0, label == _EMPTY, len(indices), label) for label, indices in members.items()]
    heapq.heapify(heap)
    position = dict.fromkeys(members, 0)
    taken = [False] * len(images)
    order = []
    while heap:
        fraction, is_empty, total, label = heapq.heappop(heap)
        if fraction < drawn[label] / total:  # an image of another class had this one too
            heapq.heappush(heap, (drawn[label] / total, is_empty, total, label))
            continue
        indices = members[label]
        while position[label] < total and taken[indices[position[label]]]:
            position[label] += 1
        if position[label] == total:
            continue
        index = indices[position[label]]
        taken[index] = True
        order.append(images[index])
        drawn.update(classes[index])
        heapq.heappush(heap, (drawn[label] / total, is_empty, total, label))
    return order


def _hash(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f'{seed}:{name}'.encode(), digest_size=8).digest()


def _classes(labels: LabelSet, image: ImageLabels, task: str) -> set[int]:
    """Return the classes of an image; those of the pixels of a label map."""
    if task == 'classify':
        labels_present = {image.label} if image.label is not None else set()
    elif image.mask_file:
        labels_present = {int(value) for value in np.unique(label_map_of(labels, image))} - {IGNORE_INDEX}
    else:
        labels_present = {each.label for each in image.objects if not each.crowd}
    return labels_present or {_EMPTY}


def write_subset(
    data: TaskData, task: str, images: Sequence[ImageLabels], path: str | os.PathLike
) -> TaskData:
    """Write a subset of the training images as the toolboxes' data sets read it.

    ``path`` gets the names, a line each; a file beside it the labels (COCO's JSON for boxes and masks, names
    with class numbers for classes).

    Args:
        data: All the data.
        task: The task.
        images: The images of the subset.
        path: The list, '....txt'.

    Returns:
        The data with the subset as training part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = replace(data.split.train, images=sorted(images, key=lambda image: image.name))
    names = [image.name for image in part.images]
    if task == 'semantic':  # the data set's names have no ending
        names = [os.path.splitext(name)[0] for name in names]
    write_text(path, ''.join(f'{name}\n' for name in names))
    file = path
    if task == 'classify':
        file = path.with_suffix('.classes.txt')
        write_class_list(part, file)
    elif task != 'semantic':
        file = path.with_suffix('.json')
        write_coco(part, file)
    return replace(data, split=data.split._replace(train=part), train_file=str(file.absolute()))
