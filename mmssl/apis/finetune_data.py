"""The user's labels as training data: read, split, and written in the formats that the toolboxes read."""

import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from mmssl.apis.pseudo_labels import join_pseudo_labels, read_pseudo_labels, with_pseudo_images
from mmssl.data.label_formats import (
    LabelSet,
    Split,
    read_labels,
    split_labels,
    write_class_list,
    write_coco,
    write_segmentation,
)
from mmssl.errors import LabelError


@dataclass
class TaskData:
    """The data of a fine-tuning run.

    Attributes:
        labels: All labels.
        split: The training and validation parts.
        classes: Names of the classes of the model.
        folder: Folder of the converted labels.
        size: (longer, shorter) side of the images in pixels, of the median image.
        train_file: The converted labels of the training part; for label maps the names of its images, or ''
            for all images below the folder.
    """

    labels: LabelSet
    split: Split
    classes: list[str]
    folder: str
    size: tuple[int, int]
    train_file: str


def prepare_data(data: str, task: str, work_dir: Path, options: Mapping) -> TaskData:
    """Read and split labels, and write them below ``work_dir/data``.

    Args:
        data: Folder or file of the labels.
        task: 'classify', 'detect', 'instance' or 'semantic'.
        work_dir: The work directory, which also gets the lists of the parts.
        options: 'format' and 'ignore' of :func:`mmssl.data.label_formats.read_labels`, 'by_folder' of
            :func:`mmssl.data.label_formats.split_labels`, 'pseudo' of
            :func:`mmssl.apis.pseudo_labels.read_pseudo_labels`.

    Raises:
        LabelError: There are no labels for the task, or a part has none.
    """
    labels = read_labels(data, task, options.get('format'), ignore=options.get('ignore', ()))
    split = split_labels(labels, work_dir, by_folder=options.get('by_folder', False))
    for part, name in ((split.train, 'training'), (split.val, 'validation')):
        if not part.images or not part.supports(task):
            raise LabelError(f'the {name} part has no labels for the task {task!r}', labels.root)
    pseudo = None
    if options.get('pseudo'):
        pseudo = read_pseudo_labels(options['pseudo'], task, labels)
        if task != 'semantic':
            labels, split = join_pseudo_labels(labels, split, pseudo)
    folder = work_dir.absolute() / 'data'
    for name in ('images', 'labels'):  # of an earlier run, with other labels
        shutil.rmtree(folder / name, ignore_errors=True)
    classes = labels.classes
    for part, name in ((split.train, 'train'), (split.val, 'val')):
        if task == 'semantic':
            classes = write_segmentation(part, folder, name)
            if pseudo and name == 'train':
                write_segmentation(pseudo, folder, name)
                split = with_pseudo_images(split, pseudo)
        elif task == 'classify':
            write_class_list(part, folder / f'{name}.txt')
        else:
            write_coco(part, folder / f'{name}.json')
    sizes = [(image.width, image.height) for image in split.train.images]
    longer = round(median(max(size) for size in sizes))
    shorter = round(median(min(size) for size in sizes))
    endings = {'classify': 'train.txt', 'semantic': ''}
    ending = endings.get(task, 'train.json')
    train_file = os.fspath(folder / ending) if ending else ''
    return TaskData(labels, split, classes, os.fspath(folder), (longer, shorter), train_file)


def scaled_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """Return (longer, shorter) reduced so that the longer side is ``longest`` at most."""
    factor = min(1.0, longest / size[0])
    return round(size[0] * factor), round(size[1] * factor)


def anchor_scales(data: TaskData, longest: int, stride: int) -> list[float]:
    """Return the scales of the anchors: powers of two from the small objects to the large ones.

    The side of an anchor is its scale times ``stride``; the 5th and the 95th percentile of the objects'
    sides (square roots of areas) at the size trained at are the ends.

    Args:
        data: The data.
        longest: Longer side of the images as the model gets them.
        stride: Stride of the map of the region proposal network.
    """
    ends = _side_range(data, longest)
    if ends is None:
        return [2, 4, 8]
    low, high = (math.log2(max(1.0, side) / stride) for side in ends)
    first, last = math.floor(low + 0.5), math.ceil(high)
    return [2.0**power if power < 0 else 2**power for power in range(first, max(first + 1, last) + 1)][:6]


def pyramid_scale(data: TaskData, longest: int, strides: Sequence[float]) -> int:
    """Return the scale of the anchors of a feature pyramid, which has one size per map: a power of two.

    The middle map gets the geometric mean of the 5th and the 95th percentile of the objects' sides; 2 to 8.

    Args:
        data: The data.
        longest: Longer side of the images as the model gets them.
        strides: Strides of the maps.
    """
    ends = _side_range(data, longest)
    if ends is None:
        return 8
    middle = math.sqrt(max(1.0, ends[0]) * max(1.0, ends[1]))
    power = round(math.log2(middle / strides[len(strides) // 2]))
    return 2 ** min(3, max(1, power))


def _side_range(data: TaskData, longest: int) -> tuple[float, float] | None:
    """Return the 5th and the 95th percentile of the sides of the objects; None without objects."""
    sides = []
    for image in data.split.train.images:
        factor = min(1.0, longest / max(image.width, image.height))
        for each in image.objects:
            left, top, right, bottom = each.box
            area = max(0.0, right - left) * max(0.0, bottom - top)
            if area and not each.crowd:
                sides.append(factor * math.sqrt(area))
    sides.sort()
    if not sides:
        return None
    return sides[int(0.05 * (len(sides) - 1))], sides[int(0.95 * (len(sides) - 1))]
