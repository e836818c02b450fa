"""CVAT's XML for images, version 1.1: boxes, polygons, ellipses, masks and tags."""

import math
import os
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np

from mmssl.data.label_formats.builder import LabelSetBuilder
from mmssl.data.label_formats.files import LabelFolder, entries_of, split_name
from mmssl.data.label_formats.records import Box, ImageLabels, LabelSet, ObjectLabel
from mmssl.data.label_formats.shapes import encode, object_mask, polygons_box
from mmssl.data.label_formats.xml_files import Element, attribute_number, read_xml
from mmssl.errors import LabelError

ELLIPSE_CORNERS = 64
SKIPPED = ('polyline', 'points', 'skeleton', 'cuboid')


def read(folder: LabelFolder, files: list[str], need_images: bool = True) -> LabelSet:
    """Read CVAT's files.

    The classes are those of the task, in its order. Polygons of the same class and group are parts of one
    object. Points and lines are left out. Subsets are splits.

    Raises:
        LabelError: A shape cannot be read, or the file is CVAT's for videos.
    """
    roots = {file: read_xml(file) for file in files}
    builder = LabelSetBuilder(folder, 'cvat', _classes(roots), need_images)
    for file, root in roots.items():
        builder.sources.append(folder.below(file))
        if root.find('track') is not None:
            raise LabelError('is of the format "CVAT for video"; export it as "CVAT for images 1.1"', file)
        near = os.path.dirname(file)
        file_split = split_name(os.path.splitext(os.path.basename(file))[0])
        for element in root.iter('image'):
            with entries_of(file, f'the image {element.get("name")}'):
                split = split_name(element.get('subset') or '') or file_split
                _read_image(builder, element, file, split, near)
    return builder.build()


def _read_image(builder: LabelSetBuilder, element: Element, file: str, split: str | None, near: str) -> None:
    width, height = (int(attribute_number(element, name, file)) for name in ('width', 'height'))
    image = builder.add_image(element.get('name') or '', file, (width, height), split, near)
    if image is None:
        return
    image.split = image.split or (builder.folder.split_of(image.path) if image.path else None)
    _read_shapes(builder, image, element)


def _classes(roots: dict[str, Element]) -> list[str] | None:
    names: dict[str, None] = {}
    for root in roots.values():
        for label in root.findall('meta//labels/label'):
            names[(label.findtext('name') or '').strip()] = None
    return list(names) or None


def _read_shapes(builder: LabelSetBuilder, image: ImageLabels, element: Element) -> None:
    groups: dict[tuple, ObjectLabel] = {}
    for shape in element:
        label = builder.label_of(shape.get('label') or '', image.source)
        if shape.tag == 'tag':
            image.label = label
            continue
        box, polygons, rle = _geometry(shape, image)
        if box is None:
            builder.skipped[f'<{shape.tag}> is not an object'] += 1
            continue
        group = (label, shape.get('group_id') or '0')
        if polygons and group[1] != '0' and group in groups:
            groups[group].polygons += polygons
            groups[group].box = polygons_box(groups[group].polygons)
            continue
        attributes = {each.get('name'): each.text or '' for each in shape.findall('attribute')}
        score = attributes.get('score')
        each = builder.add_object(
            image,
            label,
            box,
            polygons=polygons,
            rle=rle,
            score=float(score) if score else None,
            crowd=attributes.get('crowd') == 'true',
        )
        if each is not None and polygons:
            groups[group] = each


def _geometry(shape: Element, image: ImageLabels) -> tuple[Box | None, list[list[float]], dict | None]:
    """Return the box, the outlines and the run lengths of a shape; no box for points and lines."""
    file = image.source
    if shape.tag == 'box':
        left, top, right, bottom = (
            attribute_number(shape, name, file) for name in ('xtl', 'ytl', 'xbr', 'ybr')
        )
        angle = float(shape.get('rotation') or 0)
        if not angle:
            return (left, top, right, bottom), [], None
        outline = rotated([(left, top), (right, top), (right, bottom), (left, bottom)], angle)
    elif shape.tag == 'polygon':
        try:
            pairs = [pair.split(',') for pair in (shape.get('points') or '').split(';') if pair]
            outline = [float(number) for x, y in pairs for number in (x, y)]
        except ValueError:
            raise LabelError(
                f'the polygon {(shape.get("points") or "")[:40]!r} cannot be read', file
            ) from None
        if len(outline) < 6:
            raise LabelError(f'a polygon of {image.name} has fewer than three points', file)
    elif shape.tag == 'ellipse':
        x, y, rx, ry = (attribute_number(shape, name, file) for name in ('cx', 'cy', 'rx', 'ry'))
        angles = [2 * math.pi * step / ELLIPSE_CORNERS for step in range(ELLIPSE_CORNERS)]
        corners = [(x + rx * math.cos(angle), y + ry * math.sin(angle)) for angle in angles]
        outline = rotated(corners, float(shape.get('rotation') or 0), (x, y))
    elif shape.tag == 'mask':
        rle = _mask(shape, image)
        left, top, width, height = (
            attribute_number(shape, name, file) for name in ('left', 'top', 'width', 'height')
        )
        return (left, top, left + width, top + height), [], rle
    elif shape.tag in SKIPPED:
        return None, [], None
    else:
        raise LabelError(f'<{shape.tag}> of {image.name} is not known', file)
    return polygons_box([outline]), [outline], None


def rotated(
    corners: Sequence[tuple[float, float]], degrees: float, center: tuple[float, float] | None = None
) -> list[float]:
    """Return corners rotated clockwise (in an image, whose y axis points down) about their centre."""
    x0, y0 = center or tuple(sum(values) / len(corners) for values in zip(*corners, strict=True))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    rotated: list[float] = []
    for x, y in corners:
        rotated += [x0 + cos * (x - x0) - sin * (y - y0), y0 + sin * (x - x0) + cos * (y - y0)]
    return rotated


def _mask(shape: Element, image: ImageLabels) -> dict:
    """Return the run lengths of a mask, whose runs go row by row through its box and begin with zeros."""
    file = image.source
    left, top, width, height = (
        int(attribute_number(shape, name, file)) for name in ('left', 'top', 'width', 'height')
    )
    try:
        runs = [int(run) for run in (shape.get('rle') or '').split(',')]
        values = np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)
        mask = np.zeros((image.height, image.width), bool)
        mask[top : top + height, left : left + width] = values
    except ValueError as error:
        raise LabelError(f'a mask of {image.name} cannot be read: {error}', file) from None
    return encode(mask)


def cvat_xml(labels: LabelSet) -> str:
    """Return the text of CVAT's file: all classes in their order, and a shape for each object."""
    has_scores = any(each.score is not None for image in labels.images for each in image.objects)
    lines = [
        '<?xml version="1.0" encoding="utf-8"?>',
        '<annotations>',
        '  <version>1.1</version>',
        '  <meta>',
    ]
    size, start = len(labels), '<start_frame>0</start_frame>'
    lines += ['    <task>', f'      <size>{size}</size>', '      <mode>annotation</mode>', f'      {start}']
    lines += [f'      <stop_frame>{max(size - 1, 0)}</stop_frame>', '      <labels>']
    for name in labels.classes:
        lines += ['        <label>', f'          <name>{_escape(name)}</name>', '          <type>any</type>']
        lines += [f'          <attributes>{_attributes(has_scores)}</attributes>', '        </label>']
    lines += ['      </labels>', '    </task>', '  </meta>']
    for number, image in enumerate(labels.images):
        subset = f' subset={quoteattr(image.split)}' if image.split else ''
        lines.append(
            f'  <image id="{number}" name={quoteattr(image.name)}{subset} width="{image.width}" '
            f'height="{image.height}">'
        )
        group = 0
        for each in image.objects:
            group += len(each.polygons) > 1
            lines += _shapes(each, image, labels.classes, group if len(each.polygons) > 1 else 0)
        if image.label is not None:
            lines.append(f'    <tag label={quoteattr(labels.classes[image.label])} source="manual"></tag>')
        lines.append('  </image>')
    return '\n'.join([*lines, '</annotations>', ''])


def _escape(text: str) -> str:
    from xml.sax.saxutils import escape

    return escape(text)


def _attributes(has_scores: bool) -> str:
    crowd = '<attribute><name>crowd</name><mutable>False</mutable><input_type>checkbox</input_type>'
    crowd += '<default_value>false</default_value><values>false</values></attribute>'
    score = '<attribute><name>score</name><mutable>False</mutable><input_type>text</input_type>'
    score += '<default_value></default_value><values></values></attribute>'
    return crowd + (score if has_scores else '')


def _shapes(each: ObjectLabel, image: ImageLabels, classes: Sequence[str], group: int) -> list[str]:
    common = f'label={quoteattr(classes[each.label])} source="manual" occluded="0"'
    attributes = '<attribute name="crowd">true</attribute>' if each.crowd else ''
    if each.score is not None:
        attributes += f'<attribute name="score">{float(each.score)!r}</attribute>'
    if each.rle:
        return [f'    <mask {common} {_mask_attributes(each, image)} z_order="0">{attributes}</mask>']
    if each.polygons:
        group_id = f' group_id="{group}"' if group else ''
        return [
            f'    <polygon {common} points="{_points(outline)}" z_order="0"{group_id}>{attributes}</polygon>'
            for outline in each.polygons
        ]
    names: Any = zip(('xtl', 'ytl', 'xbr', 'ybr'), each.box, strict=True)
    corners = ' '.join(f'{name}="{float(value)!r}"' for name, value in names)
    return [f'    <box {common} {corners} z_order="0">{attributes}</box>']


def _points(outline: Sequence[float]) -> str:
    pairs = zip(outline[0::2], outline[1::2], strict=True)
    return ';'.join(f'{float(x)!r},{float(y)!r}' for x, y in pairs)


def _mask_attributes(each: ObjectLabel, image: ImageLabels) -> str:
    mask = object_mask(each, image)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        raise LabelError(f'a mask of {image.name} has no pixel, which CVAT cannot hold', image.source)
    top, left = int(rows[0]), int(columns[0])
    part = mask[top : rows[-1] + 1, left : columns[-1] + 1]
    flat = np.concatenate([[False], part.reshape(-1)])
    changes = np.flatnonzero(flat[1:] != flat[:-1])
    runs = np.diff(np.concatenate([[0], changes, [part.size]]))
    text = ', '.join(map(str, runs.tolist()))
    return f'rle="{text}" left="{left}" top="{top}" width="{part.shape[1]}" height="{part.shape[0]}"'
