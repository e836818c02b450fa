"""Writes labels in the formats of labelling tools; a format says what it cannot hold."""

import csv
import io
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmssl.checkpoint import write_json, write_text
from mmssl.data.colors import class_color
from mmssl.data.label_formats.class_table import IGNORED_NAMES
from mmssl.data.label_formats.coco import coco_content
from mmssl.data.label_formats.convert import label_map_of, link, map_classes, save_png
from mmssl.data.label_formats.cvat import cvat_xml
from mmssl.data.label_formats.label_studio import CONFIG, label_config, label_studio_content
from mmssl.data.label_formats.labelme import labelme_content
from mmssl.data.label_formats.maps import IGNORE_INDEX
from mmssl.data.label_formats.records import ImageLabels, LabelSet
from mmssl.data.label_formats.voc import voc_xml
from mmssl.data.label_formats.yolo import yolo_text
from mmssl.errors import LabelError
from mmssl.hints import nearest

WRITABLE = ('coco', 'yolo', 'voc', 'png', 'labelme', 'cvat', 'label-studio')
IMAGES = ('none', 'link', 'copy')
# folder of the images beside the labels
_IMAGE_FOLDERS = {'voc': 'JPEGImages', 'labelme': ''}
IGNORED_COLOR = (224, 224, 192)


def write_labels(labels: LabelSet, out: str | os.PathLike, format: str, images: str = 'none') -> list[str]:
    """Write labels.

    ``coco``: ``annotations.json``. ``yolo``: ``labels/*.txt`` and ``data.yaml``. ``voc``:
    ``Annotations/*.xml``. ``png``: ``masks/*.png`` with a palette and ``classes.csv``. ``labelme``:
    ``*.json``. ``cvat``: ``annotations.xml``. ``label-studio``: ``tasks.json`` and ``label_config.xml``.
    Formats without a list of classes get ``classes.txt``. Each file is written completely or not at all.

    Args:
        labels: The labels.
        out: The folder, which is created.
        format: One of :data:`WRITABLE`.
        images: 'none', or 'link' or 'copy' to put the images beside the labels.

    Returns:
        What the format cannot hold, a sentence each.

    Raises:
        ValueError: There is no such format.
        LabelError: Two images would have the same file of labels, or the format cannot hold the name of a
            class.
    """
    for name, value, choices in (('format', format, WRITABLE), ('images', images, IMAGES)):
        if value not in choices:
            hint = nearest(value, choices) or f'; one of {", ".join(choices)}'
            raise ValueError(f'{name} {value!r} cannot be written{hint}')
    check_class_names(labels.classes, format)
    _check_names(labels)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    if images != 'none':
        for image in labels.images:
            _put_image(image, out / _IMAGE_FOLDERS.get(format, 'images') / image.name, images)
    _WRITERS[format](labels, out, images != 'none')
    return losses(labels, format)


def check_class_names(classes: Sequence[str], format: str) -> None:
    """Raise LabelError if a class has a name that would not be read again as it is.

    Names have one line, without spaces around it. ``classes.txt`` has comments, which begin with '# '.
    """
    for name in classes:
        if not name or name != ' '.join(name.splitlines()).strip():
            raise LabelError(
                f'the class {name!r} is empty, or has spaces around it or several lines; rename it', format
            )
        if format in ('voc', 'labelme') and (name == '#' or name.startswith('# ')):
            raise LabelError(f'the class {name!r} would be a comment in classes.txt; rename it', format)


def losses(labels: LabelSet, format: str) -> list[str]:
    """Return what a format cannot hold of labels, a sentence each."""
    objects = [each for image in labels.images for each in image.objects]
    notes = []
    if format == 'voc' and labels.num_masks:
        notes.append(f'voc holds boxes only: the outlines of {labels.num_masks} objects are not written')
    if format == 'yolo':
        several = sum(bool(each.rle) or len(each.polygons) > 1 for each in objects if not each.crowd)
        if several:
            notes.append(
                f'yolo holds one outline per object: of {several} objects that of the largest part is written'
            )
        crowds = sum(each.crowd for each in objects)
        if crowds:
            notes.append(f'yolo holds no crowds: {crowds} are not written')
    if format == 'png' and objects:
        notes.append('png holds classes, not objects: masks are joined, larger ones below smaller ones')
    if format not in ('label-studio', 'cvat') and any(image.label is not None for image in labels.images):
        notes.append(f'{format} holds no classes of whole images')
    return notes


def class_palette(count: int) -> list[tuple[int, int, int]]:
    """Return 256 colours for a label map: those of the classes, black, and the colour of ignored pixels."""
    colors = [class_color(index) for index in range(count)]
    return [*colors, *[(0, 0, 0)] * (IGNORE_INDEX - count), IGNORED_COLOR]


def _check_names(labels: LabelSet) -> None:
    names: dict[str, str] = {}
    for image in labels.images:
        name = os.path.splitext(image.name)[0].casefold()
        if names.setdefault(name, image.name) != image.name:
            raise LabelError(
                f'{names[name]} and {image.name} would have the same file of labels; rename one', labels.root
            )


def _put_image(image: ImageLabels, target: Path, how: str) -> None:
    if not image.path:
        return
    if how == 'link':
        link(image.path, target)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f'.{target.name}.{os.getpid()}.tmp')
    shutil.copyfile(image.path, temporary)
    os.replace(temporary, target)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)


def _file(out: Path, image: ImageLabels, suffix: str) -> Path:
    return out / (os.path.splitext(image.name)[0] + suffix)


def _write_classes(labels: LabelSet, out: Path) -> None:
    _write(out / 'classes.txt', ''.join(f'{name}\n' for name in labels.classes))


def _write_coco(labels: LabelSet, out: Path, with_images: bool) -> None:
    write_json(out / 'annotations.json', coco_content(labels), indent=None)


def _write_yolo(labels: LabelSet, out: Path, with_images: bool) -> None:
    import yaml

    for image in labels.images:
        _write(_file(out / 'labels', image, '.txt'), yolo_text(image))
    root = '.' if with_images else labels.image_root
    content: dict = dict(path=root, train='images' if with_images else '.')
    content['val'] = content['train']
    prefix = 'images/' if with_images else f'{labels.image_root}/'
    for split in labels.splits:
        names = [f'{prefix}{image.name}\n' for image in labels.of_split(split).images]
        _write(out / f'{split}.txt', ''.join(names))
        content[split] = f'{split}.txt' if with_images else str((out / f'{split}.txt').absolute())
    content['names'] = dict(enumerate(labels.classes))
    _write(out / 'data.yaml', yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _write_voc(labels: LabelSet, out: Path, with_images: bool) -> None:
    for image in labels.images:
        _write(_file(out / 'Annotations', image, '.xml'), voc_xml(image, labels.classes))
    for split in labels.splits:
        names = [os.path.splitext(image.name)[0] + '\n' for image in labels.of_split(split).images]
        _write(out / 'ImageSets' / 'Main' / f'{split}.txt', ''.join(names))
    _write_classes(labels, out)


def _write_png(labels: LabelSet, out: Path, with_images: bool) -> None:
    classes = map_classes(labels)
    palette = class_palette(len(classes))
    for image in labels.images:
        save_png(label_map_of(labels, image), _file(out / 'masks', image, '.png'), palette)
    write_class_table(classes, out)


def write_class_table(classes: list[str], out: str | os.PathLike) -> None:
    """Write ``classes.csv``, the names and colours of the label maps of :func:`class_palette`.

    If a class has a name by which pixels are ignored, such as void, a column says that its pixels are not.
    """
    ignored = IGNORED_NAMES[0]
    while ignored in classes:
        ignored = f'_{ignored}_'
    rows: list[tuple] = [
        (name, *color) for name, color in zip(classes, class_palette(len(classes)), strict=False)
    ]
    rows = [('name', 'r', 'g', 'b'), *rows, (ignored, *IGNORED_COLOR)]
    if any(name.lower() in IGNORED_NAMES for name in classes):
        flags = ['ignored', *[0] * len(classes), 1]
        rows = [(*row, flag) for row, flag in zip(rows, flags, strict=True)]
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    _write(Path(out) / 'classes.csv', text.getvalue())


def _write_labelme(labels: LabelSet, out: Path, with_images: bool) -> None:
    for image in labels.images:
        path = _file(out, image, '.json')
        source = out / image.name if with_images or not image.path else Path(image.path)
        name = Path(os.path.relpath(source, path.parent)).as_posix()
        write_json(path, labelme_content(image, labels.classes, name))
    _write_classes(labels, out)


def _write_cvat(labels: LabelSet, out: Path, with_images: bool) -> None:
    _write(out / 'annotations.xml', cvat_xml(labels))


def _write_label_studio(labels: LabelSet, out: Path, with_images: bool) -> None:
    write_json(out / 'tasks.json', label_studio_content(labels))
    _write(out / CONFIG, label_config(labels))


_WRITERS: Mapping[str, Callable[[LabelSet, Path, bool], None]] = {
    'coco': _write_coco,
    'yolo': _write_yolo,
    'voc': _write_voc,
    'png': _write_png,
    'labelme': _write_labelme,
    'cvat': _write_cvat,
    'label-studio': _write_label_studio,
}
