"""COCO's JSON of images, annotations and categories (Lin et al., 2014)."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from mmssl.data.label_formats.builder import LabelSetBuilder
from mmssl.data.label_formats.files import LabelFolder, entries_of, split_name
from mmssl.data.label_formats.records import Box, ImageLabels, LabelSet, ObjectLabel
from mmssl.data.label_formats.shapes import as_rle, mask_area, polygons_box, rle_box, shortest, written
from mmssl.errors import LabelError

# parts of the names of COCO's other files, which are read only if there is nothing else
OTHER_FILES = ('caption', 'keypoint', 'panoptic', 'stuff', 'image_info', 'unlabeled')

# relative rounding error of a sum of rounded numbers
NOISE = 1e-15


def is_coco(content: Any) -> bool:
    """Whether the content of a JSON file is COCO's, with labels of objects."""
    return (
        isinstance(content, dict)
        and isinstance(content.get('images'), list)
        and isinstance(content.get('annotations'), list)
        and isinstance(content.get('categories'), list)
    )


def read(folder: LabelFolder, files: list[str], need_images: bool = True) -> LabelSet:
    """Read one or several COCO files.

    Files whose names or folders say train, val or test are splits; others are joined. A file that only
    repeats the images of the splits is left out.

    Args:
        folder: The files.
        files: The COCO files.
        need_images: See :class:`LabelSetBuilder`.

    Raises:
        LabelError: A file is not consistent, an image is in two files, or the categories differ.
    """
    main = [file for file in files if not any(part in os.path.basename(file) for part in OTHER_FILES)]
    contents = {file: folder.json(file) for file in main or files}
    for file, content in contents.items():
        _check_entries(content, file)
    splits = {file: folder.split_of_file(file) for file in contents}
    notes = _drop_unions(folder, contents, splits)
    builder = LabelSetBuilder(folder, 'coco', _classes(folder, contents, notes), need_images)
    builder.notes += notes
    for file, content in contents.items():
        builder.sources.append(folder.below(file))
        _read_file(builder, file, content, splits[file] if len(contents) > 1 or splits[file] else None)
    return builder.build()


def _check_entries(content: dict, file: str) -> None:
    """Check that entries are mappings and their ids numbers; numbers written as text are converted."""
    for key, ids in (
        ('images', ['id']),
        ('annotations', ['image_id', 'category_id']),
        ('categories', ['id']),
    ):
        for entry in content[key]:
            if not isinstance(entry, dict):
                raise LabelError(f'{key} holds {entry!r:.60}, which is no entry; correct it', file)
            for name in ids:
                value = entry.get(name)
                number = whole_number(value)
                if number is not None:
                    entry[name] = number
                else:
                    raise LabelError(
                        f'{name} of an entry of {key} is {value!r:.60}; it must be a number', file
                    )
        if key == 'images':
            nameless = [entry for entry in content[key] if not isinstance(entry.get('file_name'), str)]
            if nameless:
                raise LabelError(f'the image {nameless[0]!r:.60} has no file_name', file)


def whole_number(value: Any) -> int | None:
    """Return an id that may be a text, or a float as pandas writes it; None for others."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return int(value) if value.strip().isdigit() else None
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return int(value) if is_whole else None


def _drop_unions(folder: LabelFolder, contents: dict[str, dict], splits: dict[str, str | None]) -> list[str]:
    """Remove the files without a split whose images are all in files with one."""
    split_names = {
        image.get('file_name')
        for file, content in contents.items()
        if splits[file]
        for image in content['images']
    }
    unions = [
        file
        for file, content in contents.items()
        if not splits[file] and {image.get('file_name') for image in content['images']} <= split_names
    ]
    for file in unions:
        del contents[file]
    return [f'{folder.below(file)} is left out: its images are in the files of the splits' for file in unions]


def _classes(folder: LabelFolder, contents: dict[str, dict], notes: list[str]) -> list[str]:
    """Return the classes of all files in the order of their ids."""
    names: dict[int, str] = {}
    for file, content in contents.items():
        used = {annotation.get('category_id') for annotation in content['annotations']}
        for category in _without_parent(content['categories'], used):
            number, name = category['id'], str(category.get('name') or '').strip()
            if not name:
                raise LabelError(f'the category {number} needs a name', file)
            if names.setdefault(number, name) != name:
                raise LabelError(
                    f'category {number} is {name!r} here and {names[number]!r} in another category or file; '
                    'use the same ids in all files',
                    file,
                )
    if not names:
        raise LabelError('the files have no categories; list the classes there', folder.path)
    ordered = [names[number] for number in sorted(names)]
    doubled = [name for name, count in Counter(ordered).items() if count > 1]
    if doubled:
        notes.append(f'the class {doubled[0]} has several ids, which are taken as the same class')
    return list(dict.fromkeys(ordered))


def _without_parent(categories: list[dict], used: set) -> list[dict]:
    """Leave out the unused category 0 that stands for the others in exports of Roboflow."""
    parents = {category.get('supercategory') for category in categories}
    return [
        category
        for category in categories
        if category.get('id') != 0
        or 0 in used
        or len(categories) == 1
        or category.get('supercategory') != 'none'
        or category.get('name') not in parents
    ]


def _read_file(builder: LabelSetBuilder, file: str, content: dict, split: str | None) -> None:
    annotations: dict[Any, list[dict]] = defaultdict(list)
    for annotation in content['annotations']:
        annotations[annotation.get('image_id')].append(annotation)
    names = {category['id']: str(category.get('name')).strip() for category in content['categories']}
    numbers = Counter(image.get('id') for image in content['images'])
    doubled = [number for number, count in numbers.items() if count > 1]
    if doubled:
        raise LabelError(
            f'the image id {doubled[0]} is used {numbers[doubled[0]]} times; ids must differ', file
        )
    unknown = [number for number in annotations if number not in numbers]
    if unknown:
        raise LabelError(
            f'{len(annotations[unknown[0]])} annotations belong to image id {unknown[0]!r}, which is not '
            'in the list of images; correct image_id',
            file,
        )
    for entry in content['images']:
        name = entry['file_name']
        with entries_of(file, f'the size of {name}'):
            size = (int(entry.get('width') or 0), int(entry.get('height') or 0))
        part = split or split_name(str(entry.get('split') or ''))
        image = builder.add_image(name, file, size, part, os.path.dirname(file))
        if image is None:
            continue
        if part is None and image.path:
            image.split = builder.folder.split_of(image.path)
        for annotation in annotations[entry['id']]:
            with entries_of(file, f'an annotation of {name}'):
                _add_annotation(builder, image, annotation, names)


def _add_annotation(
    builder: LabelSetBuilder, image: ImageLabels, annotation: dict, names: dict[int, str]
) -> None:
    category = annotation.get('category_id')
    if category not in names:
        raise LabelError(
            f'an annotation of {image.name} has category {category!r}, which is not in the list of '
            f'categories ({", ".join(map(str, sorted(names)[:5]))}); correct it',
            image.source,
        )
    polygons, rle = _segmentation(builder, annotation.get('segmentation'), image)
    box = annotation.get('bbox')
    if box:
        corners = box_corners(box, image)
    elif polygons:
        corners = polygons_box(polygons)
    elif rle:
        corners = rle_box(rle)
    else:
        builder.skipped['neither box nor segmentation'] += 1
        return
    area = None if annotation.get('area') is None else float(annotation['area'])
    if box and not polygons and not rle and area == float(box[2]) * float(box[3]):
        area = None  # that of the box, as :func:`coco_content` writes it
    builder.add_object(
        image,
        builder.label_of(names[category], image.source),
        corners,
        polygons=polygons,
        rle=rle,
        crowd=bool(annotation.get('iscrowd')),
        score=annotation.get('score'),
        area=area,
    )


def box_corners(box: Sequence[float], image: ImageLabels) -> Box:
    """Return (left, top, right, bottom) of COCO's (left, top, width, height).

    Raises:
        LabelError: There are not four numbers.
    """
    if len(box) != 4:
        raise LabelError(f'the box {box} of {image.name} needs four numbers', image.source)
    left, top, width, height = map(float, box)
    return left, top, _sum(left, width), _sum(top, height)


def _sum(first: float, second: float) -> float:
    """Return a sum without the noise of binary fractions: 274.21 + 124.6 = 398.81."""
    return shortest(first + second, NOISE * max(1.0, abs(first), abs(second)))


def _extent(first: float, last: float) -> float:
    """Return the length that :func:`_sum` adds to the first end to give the last one exactly."""
    return written(_sum(last, -first), last, lambda length: _sum(first, length))


def _segmentation(
    builder: LabelSetBuilder, value: Any, image: ImageLabels
) -> tuple[list[list[float]], dict | None]:
    if not value:
        return [], None
    if isinstance(value, dict):
        return [], as_rle(value, (image.height, image.width), image)
    parts = value if isinstance(value[0], list) else [value]
    odd = [part for part in parts if len(part) % 2]
    if odd:
        raise LabelError(
            f'an outline of {image.name} has {len(odd[0])} numbers; x and y of each point are needed',
            image.source,
        )
    outlines = [[float(number) for number in part] for part in parts if len(part) >= 6]
    builder.dropped_parts += len(parts) - len(outlines)
    return outlines, None


def coco_content(labels: LabelSet, with_scores: bool = True) -> dict:
    """Return the content of a COCO file.

    Images are numbered from 1 in their order, categories from 1 in the order of the classes. The area is the
    stated one, or that of the mask or box.
    """
    images: list[dict] = []
    annotations: list[dict] = []
    for number, image in enumerate(labels.images, 1):
        entry = dict(id=number, file_name=image.name, width=image.width, height=image.height)
        images.append({**entry, 'split': image.split} if image.split else entry)
        for each in image.objects:
            annotations.append(_annotation(each, image, number, len(annotations) + 1, with_scores))
    categories = [
        dict(id=index, name=name, supercategory='object') for index, name in enumerate(labels.classes, 1)
    ]
    return dict(images=images, annotations=annotations, categories=categories)


def _annotation(each: ObjectLabel, image: ImageLabels, image_id: int, number: int, with_scores: bool) -> dict:
    left, top, right, bottom = each.box
    width, height = _extent(left, right), _extent(top, bottom)
    area = each.area
    if area is None:
        area = mask_area(each, image) if each.has_mask else width * height
    content = dict(
        id=number,
        image_id=image_id,
        category_id=each.label + 1,
        bbox=[left, top, width, height],
        area=area,
        iscrowd=int(each.crowd),
    )
    if each.has_mask:
        content['segmentation'] = each.rle or each.polygons
    if with_scores and each.score is not None:
        content['score'] = each.score
    return content
