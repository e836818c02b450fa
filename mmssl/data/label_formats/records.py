"""Labels of images, whatever the format of their files: the form that readers return and writers take."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmssl.data.label_values import Color

Box = tuple[float, float, float, float]
TASKS = ('classify', 'detect', 'instance', 'semantic')


@dataclass
class ObjectLabel:
    """An object in an image.

    Attributes:
        label: Index of its class.
        box: (left, top, right, bottom) in pixels, zero at the image's left and upper edges.
        polygons: Outlines of its parts, each [x1, y1, x2, y2, ...] in pixels.
        rle: Run lengths of its mask as pycocotools writes them: 'size', [H, W], and 'counts', a string.
        crowd: It stands for several objects, or is too difficult to count: never trained on.
        score: Confidence of a prediction, 0 to 1; None for the truth.
        area: Area in pixels as the file states it; None if it does not.
    """

    label: int
    box: Box
    polygons: list[list[float]] = field(default_factory=list)
    rle: dict[str, Any] | None = None
    crowd: bool = False
    score: float | None = None
    area: float | None = None

    @property
    def has_mask(self) -> bool:
        """Whether the object has an outline or a mask, not only a box."""
        return bool(self.polygons or self.rle)


@dataclass
class ImageLabels:
    """An image with its labels.

    Attributes:
        name: Path below the folder of the images, with '/' between folders.
        path: The image file; '' if it is not there.
        width: Width in pixels, after the EXIF orientation has been applied.
        height: Height in pixels, likewise.
        objects: Its objects, in the order of the file.
        label: Index of the class of the whole image; None if there is none.
        score: Confidence of ``label``, if it is a prediction.
        mask_file: The label map of the image; None if there is none.
        split: 'train', 'val' or 'test' as the layout says; None if it says nothing.
        source: The file that holds the labels, for messages.
    """

    name: str
    path: str
    width: int
    height: int
    objects: list[ObjectLabel] = field(default_factory=list)
    label: int | None = None
    score: float | None = None
    mask_file: str | None = None
    split: str | None = None
    source: str = ''

    def to_dict(self) -> dict[str, Any]:
        """Return the labels as plain values for JSON; :meth:`from_dict` reads them."""
        return {**vars(self), 'objects': [dict(vars(each)) for each in self.objects]}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> 'ImageLabels':
        """Return the labels that :meth:`to_dict` has written."""
        objects = [ObjectLabel(**{**each, 'box': tuple(each['box'])}) for each in content.get('objects', ())]
        return cls(**{**content, 'objects': objects})


@dataclass
class LabelSet:
    """All labels of a folder.

    Attributes:
        root: The folder, or the file, that was read.
        format: Name of the format: 'coco', 'voc', 'yolo', 'png', 'classes', 'csv', 'labelme', 'cvat' or
            'label-studio'.
        classes: Names of the classes; labels are their indices.
        images: The images, sorted by name.
        image_root: Folder that the names of the images are below; '' if the images are not there.
        label_map: For label maps: value, or colour as (R, G, B), in the files -> index of the class, or None
            for pixels to ignore.
        sources: Files that hold the labels, for the description: 'annotations/train.json', '364 XML files'.
        notes: What the reader left out or assumed, a sentence each.
    """

    root: str
    format: str
    classes: list[str]
    images: list[ImageLabels]
    image_root: str = ''
    label_map: dict[int | Color, int | None] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def num_objects(self) -> int:
        """Number of objects in all images."""
        return sum(len(image.objects) for image in self.images)

    @property
    def num_masks(self) -> int:
        """Number of objects with an outline or a mask."""
        return sum(each.has_mask for image in self.images for each in image.objects)

    @property
    def splits(self) -> list[str]:
        """The splits that the layout names, in the order train, val, test."""
        names = {image.split for image in self.images}
        return [split for split in ('train', 'val', 'test') if split in names]

    def supports(self, task: str) -> bool:
        """Whether the labels are enough for a task, one of :data:`TASKS`."""
        if task == 'classify':
            return any(image.label is not None for image in self.images)
        if task == 'semantic':
            return self.format == 'png' or self.num_masks > 0
        return self.num_masks > 0 if task == 'instance' else self.num_objects > 0

    def of_split(self, split: str) -> 'LabelSet':
        """Return the labels of the images of a split; the objects are shared, not copied."""
        images = [image for image in self.images if image.split == split]
        return LabelSet(**{**vars(self), 'images': images})


def common_root(paths: list[str]) -> str:
    """Return the deepest folder that holds all files; '' without files."""
    existing = [os.path.dirname(path) for path in paths if path]
    return os.path.commonpath(existing) if existing else ''


def sort_and_name(images: list[ImageLabels]) -> str:
    """Name images by their paths below the folder that holds all of them, sort them, and return that folder.

    Images without a file keep their names.
    """
    root = common_root([image.path for image in images])
    for image in images:
        if image.path:
            image.name = Path(image.path).relative_to(root).as_posix()
    images.sort(key=lambda image: image.name)
    return root
