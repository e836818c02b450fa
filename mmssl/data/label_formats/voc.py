"""PASCAL VOC's XML file for each image (Everingham et al., 2010): boxes, and lists of the splits."""

import os
from collections.abc import Mapping, Sequence

from mmssl.data.label_formats.builder import LabelSetBuilder
from mmssl.data.label_formats.files import LabelFolder, entries_of, read_names
from mmssl.data.label_formats.records import ImageLabels, LabelSet
from mmssl.data.label_formats.xml_files import Element, number_of, read_xml
from mmssl.data.suffixes import is_image
from mmssl.errors import LabelError

CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')
# files that list the classes in the order of their labels
CLASS_FILES = ('classes.txt', 'labels.txt', 'class_names.txt')


def read(folder: LabelFolder, files: list[str], need_images: bool = True) -> LabelSet:
    """Read VOC's XML files.

    Coordinates are taken as they stand in the files. The classes are those of ``classes.txt`` or
    ``labels.txt``; otherwise they are collected and sorted. Difficult objects are never trained on.

    Args:
        folder: The files.
        files: The XML files.
        need_images: See :class:`LabelSetBuilder`.

    Raises:
        LabelError: A file cannot be read, or names another image than its own name does.
    """
    class_file = folder.named(*CLASS_FILES)
    builder = LabelSetBuilder(folder, 'voc', read_names(class_file) if class_file else None, need_images)
    builder.sources.append(f'{len(files)} XML file{"s" if len(files) > 1 else ""}')
    splits = read_split_lists(folder)
    for file in files:
        with entries_of(file):
            _read_file(builder, file, splits)
    labelled = {image.path for image in builder.images}
    unlabelled = sum(path not in labelled for path in folder.images)
    if unlabelled and need_images:
        builder.notes.append(f'{unlabelled} images have no XML file and are left out')
    labels = builder.build()
    if splits:
        unlisted = sum(image.split is None for image in labels.images)
        if unlisted:
            labels.notes.append(f'{unlisted} images are in no list of ImageSets and are left out')
            labels.images = [image for image in labels.images if image.split]
    return labels


def _read_file(builder: LabelSetBuilder, file: str, splits: Mapping[str, str]) -> None:
    folder, root = builder.folder, read_xml(file)
    name = folder.below(file).rpartition('.')[0]
    name = name.partition('Annotations/')[2] or name
    image = _add_image(builder, root, file, name, splits)
    if image is None:
        return
    if not splits:
        image.split = folder.split_of(image.path or file)
    for element in root.findall('object'):
        _add_object(builder, image, element)


def read_split_lists(folder: LabelFolder) -> dict[str, str]:
    """Return the split of each image by its stem, from ``ImageSets/*/{train,val,test,trainval}.txt``.

    An image of val and test counts as one of val.

    Raises:
        LabelError: An image of train is also in another list.
    """
    lists: dict[str, list[str]] = {}
    for file in folder.with_suffix('.txt'):
        parts = folder.below(file).lower().split('/')
        if 'imagesets' in parts[:-1]:
            lists.setdefault(parts[-1].removesuffix('.txt'), []).append(file)
    if 'train' in lists:
        lists.pop('trainval', None)
    used = {'train': 'train', 'trainval': 'train', 'val': 'val', 'test': 'test'}
    splits: dict[str, str] = {}
    for name, split in used.items():
        for file in lists.get(name, ())[:1]:
            for line in read_names(file):
                name = line.replace('\\', '/')
                if is_image(name):
                    name = os.path.splitext(name)[0]
                earlier = splits.setdefault(name, split)
                if earlier != split and earlier == 'train':  # val and test are often the same
                    raise LabelError(f'{name} is also in the list of {splits[name]}; keep it in one', file)
    return splits


def _add_image(
    builder: LabelSetBuilder, root: Element, file: str, name: str, splits: Mapping[str, str]
) -> ImageLabels | None:
    folder, _, stem = name.rpartition('/')
    split = splits.get(name) or splits.get(stem, '')
    near = os.path.dirname(file)
    stated = (root.findtext('filename') or '').strip()
    other = None
    missing = stated or stem
    if is_image(stated) and os.path.splitext(stated)[0].casefold() == stem.casefold():
        name = missing = f'{folder}/{stated}' if folder else stated
    elif stated:
        other = builder.find_image(stated, near, split)
    own = builder.find_image(name, near, split)
    if own and other and os.path.realpath(own) != os.path.realpath(other):
        raise LabelError(
            f'<filename> is {stated}, which exists, as does {os.path.basename(own)}; rename the XML file, or '
            'correct <filename>',
            file,
        )
    path = own or other
    size = root.find('size')
    width, height = (
        (int(number_of(size, name, file)) for name in ('width', 'height')) if size is not None else (0, 0)
    )
    return builder.add_image(path or missing, file, (width, height), split or None, near)


def _add_object(builder: LabelSetBuilder, image: ImageLabels, element: Element) -> None:
    box = element.find('bndbox')
    if box is None:
        builder.skipped['no <bndbox>'] += 1
        return
    left, top, right, bottom = (number_of(box, name, image.source) for name in CORNERS)
    score = element.findtext('score')
    builder.add_object(
        image,
        builder.label_of(element.findtext('name') or '', image.source),
        (left, top, right, bottom),
        crowd=(element.findtext('difficult') or '0').strip() == '1',
        score=float(score) if score else None,
    )


def voc_xml(image: ImageLabels, classes: Sequence[str]) -> str:
    """Return the text of the XML file of an image; outlines are not part of the format."""
    from xml.sax.saxutils import escape

    lines = ['<annotation>', f'  <filename>{escape(os.path.basename(image.name))}</filename>']
    lines += [
        '  <size>',
        f'    <width>{image.width}</width>',
        f'    <height>{image.height}</height>',
        '    <depth>3</depth>',
        '  </size>',
        '  <segmented>0</segmented>',
    ]
    for each in image.objects:
        lines += [
            '  <object>',
            f'    <name>{escape(classes[each.label])}</name>',
            '    <pose>Unspecified</pose>',
        ]
        lines += ['    <truncated>0</truncated>', f'    <difficult>{int(each.crowd)}</difficult>']
        if each.score is not None:
            lines.append(f'    <score>{each.score!r}</score>')
        numbers = [int(value) if value == int(value) else value for value in each.box]
        corners = zip(CORNERS, numbers, strict=True)
        lines.append('    <bndbox>')
        lines += [f'      <{name}>{value}</{name}>' for name, value in corners]
        lines += ['    </bndbox>', '  </object>']
    return '\n'.join([*lines, '</annotation>', ''])
