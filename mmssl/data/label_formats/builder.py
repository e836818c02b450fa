"""Collects the images of a reader: finds files, checks sizes, numbers classes, counts what is left out."""

import math
from collections import Counter

from mmssl.data.label_formats.files import LabelFolder, image_size, no_images
from mmssl.data.label_formats.records import Box, ImageLabels, LabelSet, ObjectLabel, sort_and_name
from mmssl.errors import LabelError


class LabelSetBuilder:
    """Builds a :class:`LabelSet` image by image.

    Args:
        folder: The files.
        format: Name of the format.
        classes: Names of the classes if the format lists them; otherwise they are collected from the labels
            and sorted.
        need_images: Leave out images whose files are not there; False takes the size that the labels state.
        read_sizes: Open every image for its size; False leaves sizes that are not stated at 0.
    """

    def __init__(
        self,
        folder: LabelFolder,
        format: str,
        classes: list[str] | None = None,
        need_images: bool = True,
        read_sizes: bool = True,
    ):
        self.folder = folder
        self.format = format
        self.classes = list(classes or ())
        self.lists_classes = classes is not None
        self.need_images = need_images
        self.read_sizes = read_sizes
        self.images: list[ImageLabels] = []
        self.missing: list[str] = []
        self.notes: list[str] = []
        self.sources: list[str] = []
        self.skipped: Counter[str] = Counter()
        self.dropped_parts = 0
        self._indices = {name: index for index, name in enumerate(self.classes)}
        self._paths: dict[str, ImageLabels] = {}

    def add_image(
        self,
        name: str,
        source: str,
        size: tuple[int, int] | None = None,
        split: str | None = None,
        near: str = '',
    ) -> ImageLabels | None:
        """Start an image.

        Args:
            name: What the label file calls it.
            source: The label file.
            size: (width, height) as the labels state it; None or zeros if they do not.
            split: Its split.
            near: Folder of the label file.

        Returns:
            The image, to which objects are added; None if its file does not exist.

        Raises:
            LabelError: Its size differs from the stated one, or it has been there before.
        """
        path = self.find_image(name, near, split)
        stated = size if size and all(size) else None
        if not self.read_sizes:
            stated = stated or (0, 0)
        if path is None and (self.need_images or not stated):
            self.missing.append(name)
            return None
        if path is not None and self.read_sizes and (self.need_images or not stated):
            actual = image_size(path)
            if stated and stated != actual:
                raise LabelError(
                    f'{name} is {stated[0]}x{stated[1]} in the labels and {actual[0]}x{actual[1]} in '
                    f'{self.folder.below(path)}; the labels belong to another size or orientation',
                    source,
                )
            stated = actual
        assert stated is not None
        key = path or name
        if key in self._paths:
            other = self._paths[key].source
            raise LabelError(
                f'{name} is labelled twice'
                + (f', also in {other}' if other != source else '')
                + '; remove one of the two',
                source,
            )
        image = ImageLabels(name.replace('\\', '/'), path or '', *stated, split=split, source=source)
        self._paths[key] = image
        self.images.append(image)
        return image

    def find_image(self, name: str, near: str = '', split: str | None = None) -> str | None:
        """Find an image as :meth:`LabelFolder.find_image` does; None for several if none is needed."""
        try:
            return self.folder.find_image(name, near, split)
        except LabelError:
            if self.need_images:
                raise
            return None

    def label_of(self, name: str, source: str) -> int:
        """Return the index of a class, which is added unless the format lists the classes.

        Raises:
            LabelError: The class is not in the list.
        """
        name = str(name).strip()
        if name not in self._indices:
            if self.lists_classes or not name:
                listed = ', '.join(self.classes[:5]) + (', ...' if len(self.classes) > 5 else '')
                raise LabelError(
                    f'the class {name!r} is not in the list of classes ({listed}); add or correct it',
                    source,
                )
            self._indices[name] = len(self.classes)
            self.classes.append(name)
        return self._indices[name]

    def add_object(self, image: ImageLabels, label: int, box: Box, **attributes) -> ObjectLabel | None:
        """Add an object to an image.

        Returns:
            The object; None if its box has no area, which is counted.

        Raises:
            LabelError: A coordinate is not a number.
        """
        if not all(map(math.isfinite, box)):
            raise LabelError(f'the box {box} of {image.name} is not finite; correct it', image.source)
        if box[2] <= box[0] or box[3] <= box[1]:
            self.skipped['box without area'] += 1
            return None
        labelled = ObjectLabel(label, box, **attributes)
        image.objects.append(labelled)
        return labelled

    def build(self) -> LabelSet:
        """Return the labels, with the images sorted by name.

        Raises:
            LabelError: No image exists, or more than half of them do not.
        """
        self._check_missing()
        if not self.lists_classes:
            self._sort_classes()
        root = sort_and_name(self.images)
        self.notes += [
            f'{count} object{"s are" if count > 1 else " is"} left out: {reason}'
            for reason, count in self.skipped.items()
        ]
        if self.dropped_parts:
            self.notes.append(f'{self.dropped_parts} outlines of fewer than three points are left out')
        return LabelSet(
            root=self.folder.path,
            format=self.format,
            classes=self.classes,
            images=self.images,
            image_root=root,
            sources=self.sources,
            notes=self.notes,
        )

    def _check_missing(self) -> None:
        total = len(self.missing) + len(self.images)
        if not self.missing:
            if not total:
                raise LabelError('the labels name no image', self.folder.path)
            return
        if not self.images:
            raise no_images(self.folder, f'{total} labelled images (the first is {self.missing[0]})')
        if len(self.missing) > len(self.images):
            raise LabelError(
                f'{len(self.missing)} of {total} labelled images do not exist (the first is '
                f'{self.missing[0]}); put them below this folder',
                self.folder.root,
            )
        self.notes.append(
            f'{len(self.missing)} of {total} labelled images do not exist and are left out (the first is '
            f'{self.missing[0]})'
        )

    def _sort_classes(self) -> None:
        order = sorted(range(len(self.classes)), key=lambda index: self.classes[index])
        new_index = {old: new for new, old in enumerate(order)}
        self.classes = [self.classes[index] for index in order]
        for image in self.images:
            if image.label is not None:
                image.label = new_index[image.label]
            for each in image.objects:
                each.label = new_index[each.label]
