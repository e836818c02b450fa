"""labelme's JSON file for each image: rectangles, polygons, circles and masks."""

import base64
import io
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmssl.data.label_formats.builder import LabelSetBuilder
from mmssl.data.label_formats.files import LabelFolder, entries_of, read_names
from mmssl.data.label_formats.records import Box, ImageLabels, LabelSet, ObjectLabel
from mmssl.data.label_formats.shapes import encode, object_mask, polygons_box, rle_box
from mmssl.data.label_formats.voc import CLASS_FILES
from mmssl.errors import LabelError

# corners of the polygon that stands for a circle
CIRCLE_CORNERS = 64
VERSION = '5.5.0'
# what stands before the classes in labelme's own lists
HEAD = ('__ignore__', '_background_')


def is_labelme(content: Any) -> bool:
    """Whether the content of a JSON file is labelme's."""
    return isinstance(content, dict) and isinstance(content.get('shapes'), list) and 'imagePath' in content


def read(folder: LabelFolder, files: list[str], need_images: bool = True) -> LabelSet:
    """Read labelme's JSON files.

    Polygons of the same class and group are parts of one object. The classes are those of ``classes.txt`` or
    ``labels.txt``; otherwise they are collected and sorted. Points and lines are left out.

    Raises:
        LabelError: A shape cannot be read.
    """
    class_file = folder.named(*CLASS_FILES)
    names = _without_head(read_names(class_file), folder, files) if class_file else None
    builder = LabelSetBuilder(folder, 'labelme', names, need_images)
    builder.sources.append(f'{len(files)} labelme file{"s" if len(files) > 1 else ""}')
    for file in files:
        content = folder.json(file)
        if not is_labelme(content):
            continue
        with entries_of(file):
            size = (int(content.get('imageWidth') or 0), int(content.get('imageHeight') or 0))
            name = str(content['imagePath'] or os.path.splitext(os.path.basename(file))[0])
            near, split = os.path.dirname(file), folder.split_of(file)
            if builder.find_image(name, near, split) is None:  # paths are relative to the file
                name = os.path.normpath(os.path.join(folder.below(near), name.replace('\\', '/')))
            image = builder.add_image(name, file, size, split, near)
            if image is not None:
                _read_shapes(builder, image, content['shapes'])
    return builder.build()


def _without_head(names: list[str], folder: LabelFolder, files: list[str]) -> list[str]:
    """Return the classes of a file of labelme, which begins with names that no shape has."""
    contents = [content for content in map(folder.json, files) if is_labelme(content)]
    shapes = [shape for content in contents for shape in content['shapes'] if isinstance(shape, dict)]
    used = {shape.get('label') for shape in shapes}
    while names and names[0] in HEAD and names[0] not in used:
        names = names[1:]
    return names


def _read_shapes(builder: LabelSetBuilder, image: ImageLabels, shapes: Sequence[dict]) -> None:
    groups: dict[tuple, ObjectLabel] = {}
    for shape in shapes:
        kind = shape.get('shape_type') or 'polygon'
        label = builder.label_of(shape.get('label') or '', image.source)
        box, polygons, rle = _geometry(kind, shape, image)
        if box is None:
            builder.skipped[f'a {kind} is not an object'] += 1
            continue
        flags = shape.get('flags') or {}
        group = (label, shape.get('group_id'))
        if polygons and group[1] is not None and group in groups:
            groups[group].polygons += polygons
            groups[group].box = polygons_box(groups[group].polygons)
            continue
        each = builder.add_object(
            image,
            label,
            box,
            polygons=polygons,
            rle=rle,
            score=shape.get('score'),
            crowd=bool(flags.get('crowd')),
        )
        if each is not None and polygons:
            groups[group] = each


def _geometry(
    kind: str, shape: dict, image: ImageLabels
) -> tuple[Box | None, list[list[float]], dict | None]:
    """Return the box, the outlines and the run lengths of a shape; no box for points and lines."""
    try:
        points = [(float(x), float(y)) for x, y in shape['points']]
        if kind in ('rectangle', 'mask'):
            (x1, y1), (x2, y2) = points
            box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
            rle = _mask(shape['mask'], box, image) if kind == 'mask' else None
            return (rle_box(rle) if rle else box), [], rle
        if kind == 'circle':
            points = _circle(*points)
        elif kind != 'polygon':
            return None, [], None
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise LabelError(
            f'a {kind} cannot be read ({type(error).__name__}); correct it', image.source
        ) from None
    if len(points) < 3:
        raise LabelError(f'a polygon has {len(points)} points; three or more are needed', image.source)
    outline = [number for point in points for number in point]
    return polygons_box([outline]), [outline], None


def _circle(center: tuple[float, float], rim: tuple[float, float]) -> list[tuple[float, float]]:
    radius = math.dist(center, rim)
    angles = [2 * math.pi * step / CIRCLE_CORNERS for step in range(CIRCLE_CORNERS)]
    return [(center[0] + radius * math.cos(angle), center[1] + radius * math.sin(angle)) for angle in angles]


def _mask(data: str, box: Box, image: ImageLabels) -> dict:
    """Return the run lengths of a PNG in base64 that covers a box of whole pixels, both corners included."""
    part = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(bool)
    left, top = round(box[0]), round(box[1])
    mask = np.zeros((image.height, image.width), bool)
    height, width = mask[top : top + part.shape[0], left : left + part.shape[1]].shape
    mask[top : top + height, left : left + width] = part[:height, :width]
    return encode(mask)


def labelme_content(image: ImageLabels, classes: Sequence[str], image_path: str) -> dict:
    """Return the content of labelme's file of an image.

    Args:
        image: The image.
        classes: Names of the classes.
        image_path: Path of the image relative to the file.
    """
    shapes: list[dict] = []
    group = 0
    for each in image.objects:
        base: dict[str, Any] = dict(label=classes[each.label], group_id=None, description='', flags={})
        if each.crowd:
            base['flags'] = dict(crowd=True)
        if each.score is not None:
            base['score'] = each.score
        if each.rle:
            shapes.append({**base, **_mask_shape(each, image)})
        elif each.polygons:
            if len(each.polygons) > 1:
                group += 1
                base['group_id'] = group
            shapes += [
                {**base, 'shape_type': 'polygon', 'points': _pairs(outline), 'mask': None}
                for outline in each.polygons
            ]
        else:
            left, top, right, bottom = each.box
            points = [[left, top], [right, bottom]]
            shapes.append({**base, 'shape_type': 'rectangle', 'points': points, 'mask': None})
    return dict(
        version=VERSION,
        flags={},
        shapes=shapes,
        imagePath=image_path,
        imageData=None,
        imageHeight=image.height,
        imageWidth=image.width,
    )


def _pairs(outline: Sequence[float]) -> list[list[float]]:
    return [list(pair) for pair in zip(outline[0::2], outline[1::2], strict=True)]


def _mask_shape(each: ObjectLabel, image: ImageLabels) -> dict:
    mask = object_mask(each, image)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        raise LabelError(f'a mask of {image.name} has no pixel, which labelme cannot hold', image.source)
    top, bottom, left, right = (int(value) for value in (rows[0], rows[-1], columns[0], columns[-1]))
    buffer = io.BytesIO()
    part = mask[top : bottom + 1, left : right + 1]
    Image.fromarray(part.astype(np.uint8) * 255).convert('1').save(buffer, format='PNG')
    return dict(
        shape_type='mask',
        points=[[left, top], [right, bottom]],
        mask=base64.b64encode(buffer.getvalue()).decode(),
    )
