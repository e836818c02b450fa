"""Labels in the forms that the toolboxes' datasets read: COCO's JSON, label maps, lists of classes."""

import os
from pathlib import Path

import numpy as np
from PIL import Image

from mmssl.checkpoint import write_json, write_text
from mmssl.data.label_formats.coco import coco_content
from mmssl.data.label_formats.maps import IGNORE_INDEX, read_classes
from mmssl.data.label_formats.records import ImageLabels, LabelSet
from mmssl.data.label_formats.shapes import object_mask
from mmssl.data.label_values import BINARY_CLASSES
from mmssl.errors import LabelError


def write_coco(labels: LabelSet, path: str | os.PathLike) -> None:
    """Write a COCO file for mmdet's ``CocoDataset``.

    The names of the images are below ``labels.image_root``, the dataset's ``data_prefix``; categories are in
    the order of the classes.
    """
    write_json(path, coco_content(labels), indent=None)


def write_class_list(labels: LabelSet, path: str | os.PathLike) -> None:
    """Write the list of mmpretrain's ``CustomDataset``: names below ``labels.image_root``, class numbers.

    Raises:
        LabelError: An image has no class.
    """
    lines = []
    for image in labels.images:
        if image.label is None:
            raise LabelError(f'{image.name} has no class', image.source or labels.root)
        lines.append(f'{image.name} {image.label}\n')
    Path(path).absolute().parent.mkdir(parents=True, exist_ok=True)
    write_text(path, ''.join(lines))


def write_segmentation(labels: LabelSet, out: str | os.PathLike, split: str) -> list[str]:
    """Write the layout of :class:`mmssl.data.segmentation.SegmentationFolder`.

    ``images/<split>`` holds links to the images, ``labels/<split>`` label maps of class numbers with 255 for
    ignored pixels, ``classes.txt`` the names. Outlines and masks of objects become label maps with a
    background, larger objects below smaller ones.

    Args:
        labels: The labels of one split.
        out: The folder.
        split: 'train' or 'val'.

    Returns:
        The classes of the label maps.

    Raises:
        LabelError: Two images would have the same name, or there are more than 255 classes.
    """
    out = Path(out)
    classes = map_classes(labels)
    names: dict[str, str] = {}
    for image in labels.images:
        name = os.path.splitext(image.name)[0]
        if names.setdefault(name, image.name) != image.name:
            raise LabelError(
                f'{names[name]} and {image.name} differ only in their endings; rename one', labels.root
            )
        # mmseg's dataset has one ending for all images; the decoder goes by the content
        link(image.path, out / 'images' / split / f'{name}.jpg')
        save_png(label_map_of(labels, image), out / 'labels' / split / f'{name}.png')
    write_text(out / 'classes.txt', ''.join(f'{name}\n' for name in classes))
    return classes


def map_classes(labels: LabelSet) -> list[str]:
    """Return the classes of the label maps of labels; objects stand before a background."""
    if labels.format == 'png':
        return labels.classes
    background = BINARY_CLASSES[0]
    while background in labels.classes:  # objects of a class of that name
        background = f'_{background}_'
    return [background, *labels.classes]


def label_map_of(labels: LabelSet, image: ImageLabels) -> np.ndarray:
    """Return the (H, W) uint8 label map of an image, with 255 for ignored pixels.

    The label map in its file, or one made of its objects: 0 is the background, and class i has the value
    i + 1. Crowds are ignored.
    """
    if image.mask_file:
        return read_classes(labels, image)
    if len(labels.classes) >= IGNORE_INDEX:
        raise LabelError(f'{len(labels.classes)} classes are more than a label map holds', labels.root)
    result = np.zeros((image.height, image.width), np.uint8)
    masks = [(object_mask(each, image), each) for each in image.objects]
    for mask, each in sorted(masks, key=lambda pair: -int(pair[0].sum())):
        result[mask] = IGNORE_INDEX if each.crowd else each.label + 1
    return result


def save_png(
    classes: np.ndarray, path: str | os.PathLike, palette: list[tuple[int, int, int]] | None = None
) -> None:
    """Write an (H, W) uint8 label map as PNG, completely or not at all; with a palette if there is one."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(classes)
    if palette:
        image.putpalette([value for color in palette for value in color])
    temporary = path.with_name(f'.{path.name}.{os.getpid()}.tmp')
    try:
        image.save(temporary, format='PNG')
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def link(source: str | os.PathLike, target: Path) -> None:
    """Create a symbolic link, in place of an earlier one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        target.unlink()
    target.symlink_to(os.path.abspath(source))
