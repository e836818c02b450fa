"""Label Studio's JSON of tasks: rectangles, polygons and brush masks in percent of the image, and choices."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlparse

from mmssl.data.label_formats.brush import decode_brush, encode_brush
from mmssl.data.label_formats.builder import LabelSetBuilder
from mmssl.data.label_formats.cvat import rotated
from mmssl.data.label_formats.files import LabelFolder, entries_of
from mmssl.data.label_formats.records import Box, ImageLabels, LabelSet, ObjectLabel
from mmssl.data.label_formats.shapes import encode, object_mask, polygons_box, rle_box, shortest, written
from mmssl.data.label_formats.xml_files import read_xml
from mmssl.errors import LabelError

TOLERANCE = 1e-9
CONFIG = 'label_config.xml'
# how tasks name images of a local storage, below its folder
LOCAL_FILES = '/data/local-files/?d='
PART = 'part of'
_UPLOAD_PREFIX = 8  # hexadecimal digits and a hyphen before the name of an uploaded file


def is_label_studio(content: Any) -> bool:
    """Whether the content of a JSON file is Label Studio's, in its full form."""
    return (
        isinstance(content, list)
        and bool(content)
        and isinstance(content[0], dict)
        and isinstance(content[0].get('data'), dict)
        and any(
            isinstance(content[0].get(key), list) for key in ('annotations', 'predictions', 'completions')
        )
    )


def read(folder: LabelFolder, files: list[str], need_images: bool = True) -> LabelSet:
    """Read Label Studio's exports.

    The last annotation of a task counts, or its prediction if it has none. The classes are those of
    ``label_config.xml``, if it is there; otherwise they are collected and sorted. Polygons that a relation
    joins are parts of one object.

    Raises:
        LabelError: A result cannot be read.
    """
    config = folder.named(CONFIG)
    classes = None
    if config:
        root = read_xml(config)
        names = [element.get('value') or '' for tag in ('Label', 'Choice') for element in root.iter(tag)]
        classes = list(dict.fromkeys(names))
    builder = LabelSetBuilder(folder, 'label-studio', classes, need_images)
    for file in files:
        builder.sources.append(folder.below(file))
        for number, task in enumerate(folder.json(file), 1):
            with entries_of(file, f'task {number}'):
                _read_task(builder, task, file)
    return builder.build()


def _read_task(builder: LabelSetBuilder, task: Mapping, file: str) -> None:
    data = task.get('data') or {}
    url = next(
        (value for value in data.values() if isinstance(value, str) and _looks_like_image(value)), None
    )
    if url is None:
        raise LabelError(f'task {task.get("id")} names no image', file)
    results = _results(task)
    size = next(
        (
            (int(each['original_width']), int(each['original_height']))
            for each in results
            if each.get('original_width') and each.get('original_height')
        ),
        (int(data.get('width') or 0), int(data.get('height') or 0)),
    )
    near = os.path.dirname(file)
    name = _file_name(url)
    if builder.find_image(name, near) is None:
        stem = name.rpartition('/')[2]
        shortened = stem[_UPLOAD_PREFIX + 1 :] if stem[_UPLOAD_PREFIX : _UPLOAD_PREFIX + 1] == '-' else ''
        if shortened and builder.find_image(shortened, near):
            name = shortened
    image = builder.add_image(name, file, size, data.get('split'), near)
    if image is not None:
        _read_results(builder, image, results)


def _looks_like_image(value: str) -> bool:
    from mmssl.data.suffixes import is_image

    return is_image(urlparse(value).path) or 'd=' in urlparse(value).query


def _file_name(url: str) -> str:
    """Return the path of an image in its URL, also in that of a local storage, :data:`LOCAL_FILES`."""
    parts = urlparse(url)
    local = parse_qs(parts.query).get('d')
    path = local[0] if local else unquote(parts.path)
    return path.removeprefix('/data/upload/').lstrip('/') if not os.path.exists(path) else path


def _results(task: Mapping) -> list[dict]:
    for key in ('annotations', 'completions', 'predictions'):
        entries = [
            entry
            for entry in task.get(key) or ()
            if isinstance(entry, dict) and not entry.get('was_cancelled')
        ]
        if entries:
            return list(entries[-1].get('result') or ())
    return []


def _read_results(builder: LabelSetBuilder, image: ImageLabels, results: Sequence[dict]) -> None:
    parents = {
        each.get('from_id'): each.get('to_id')
        for each in results
        if each.get('type') == 'relation' and PART in (each.get('labels') or ())
    }
    by_id: dict[Any, ObjectLabel] = {}
    for result in results:
        value = result.get('value') or {}
        kind = result.get('type')
        names = value.get(kind) or value.get('labels')
        if kind == 'choices' and names:
            image.label = builder.label_of(names[0], image.source)
            continue
        if not names:
            continue
        box, polygons, rle = _geometry(value, image)
        if box is None:
            builder.skipped[f'{kind} is not an object'] += 1
            continue
        parent = by_id.get(parents.get(result.get('id')))
        if parent is not None and polygons:
            parent.polygons += polygons
            parent.box = polygons_box(parent.polygons)
            continue
        each = builder.add_object(
            image,
            builder.label_of(names[0], image.source),
            box,
            polygons=polygons,
            rle=rle,
            score=result.get('score'),
            crowd=bool((result.get('meta') or {}).get('crowd')),
        )
        if each is not None:
            by_id[result.get('id')] = each


def _geometry(value: Mapping, image: ImageLabels) -> tuple[Box | None, list[list[float]], dict | None]:
    try:
        if 'rle' in value:
            rle = encode(decode_brush(value['rle'], (image.height, image.width)))
            return rle_box(rle), [], rle
        if 'points' in value:
            outline = [
                _pixels(number, size)
                for x, y in value['points']
                for number, size in ((x, image.width), (y, image.height))
            ]
            return polygons_box([outline]), [outline], None
        if not {'x', 'y', 'width', 'height'} <= value.keys():
            return None, [], None
        left, right = (_pixels(number, image.width) for number in (value['x'], value['x'] + value['width']))
        top, bottom = (_pixels(number, image.height) for number in (value['y'], value['y'] + value['height']))
    except (TypeError, ValueError, IndexError) as error:
        raise LabelError(f'a result of {image.name} cannot be read: {error}', image.source) from None
    if not value.get('rotation'):
        return (left, top, right, bottom), [], None
    corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    outline = rotated(corners, float(value['rotation']), (left, top))  # about the upper left corner
    return polygons_box([outline]), [outline], None


def _pixels(percent: float, size: int) -> float:
    return shortest(percent * size / 100, TOLERANCE * size)


def label_studio_content(labels: LabelSet) -> list[dict]:
    """Return the tasks of an import: with predictions if objects have scores, otherwise with annotations."""
    tasks = []
    for number, image in enumerate(labels.images, 1):
        results = _image_results(image, labels.classes)
        scored = [each.score for each in image.objects if each.score is not None]
        data = dict(image=LOCAL_FILES + quote(image.name), width=image.width, height=image.height)
        if image.split:
            data['split'] = image.split
        entry: dict[str, Any] = dict(result=results)
        if scored or image.score is not None:
            entry['score'] = min(scored) if scored else image.score
            entry['model_version'] = 'mmssl'
            tasks.append(dict(id=number, data=data, predictions=[entry], annotations=[]))
        else:
            tasks.append(dict(id=number, data=data, annotations=[entry]))
    return tasks


def _image_results(image: ImageLabels, classes: Sequence[str]) -> list[dict]:
    results: list[dict] = []
    relations: list[dict] = []
    for number, each in enumerate(image.objects):
        base = dict(
            to_name='image', original_width=image.width, original_height=image.height, image_rotation=0
        )
        extra: dict[str, Any] = {} if each.score is None else dict(score=each.score)
        if each.crowd:
            extra['meta'] = dict(crowd=True)
        for part, (kind, value) in enumerate(_values(each, image)):
            value = {**value, kind: [classes[each.label]]}
            name = f'{number}' if part == 0 else f'{number}.{part}'
            results.append({**base, **extra, 'id': name, 'from_name': kind, 'type': kind, 'value': value})
            if part:
                relation = dict(type='relation', from_id=name, to_id=f'{number}', direction='right')
                relations.append({**relation, 'labels': [PART]})
    if image.label is not None:
        value = dict(choices=[classes[image.label]])
        results.append(dict(id='image', from_name='choices', to_name='image', type='choices', value=value))
    return results + relations


def _values(each: ObjectLabel, image: ImageLabels) -> list[tuple[str, dict]]:
    if each.rle:
        runs = encode_brush(object_mask(each, image))
        return [('brushlabels', dict(format='rle', rle=runs))]
    sizes = (image.width, image.height)
    if each.polygons:
        return [
            (
                'polygonlabels',
                dict(
                    points=[
                        [_percent(x, sizes[0]), _percent(y, sizes[1])]
                        for x, y in zip(outline[0::2], outline[1::2], strict=True)
                    ],
                    closed=True,
                ),
            )
            for outline in each.polygons
        ]
    (x, width), (y, height) = (
        _percent_and_length(each.box[axis], each.box[axis + 2], size) for axis, size in enumerate(sizes)
    )
    value = dict(x=x, y=y, width=width, height=height, rotation=0)
    return [('rectanglelabels', value)]


def _percent(value: float, size: int) -> float:
    return written(100 * value / size, value, lambda percent: _pixels(percent, size))


def _percent_and_length(first: float, last: float, size: int) -> tuple[float, float]:
    start = _percent(first, size)
    length = written(100 * (last - first) / size, last, lambda length: _pixels(start + length, size))
    return start, length


def label_config(labels: LabelSet) -> str:
    """Return the labelling configuration that the tasks need: the classes in their order."""
    from xml.sax.saxutils import quoteattr

    kinds: dict[str, str] = defaultdict(str)
    for image in labels.images:
        for each in image.objects:
            kinds['BrushLabels' if each.rle else 'PolygonLabels' if each.polygons else 'RectangleLabels'] = (
                'Label'
            )
        if image.label is not None:
            kinds['Choices'] = 'Choice'
    lines = ['<View>', '  <Image name="image" value="$image"/>']
    for kind, tag in (kinds or {'RectangleLabels': 'Label'}).items():
        lines.append(f'  <{kind} name="{kind.lower()}" toName="image">')
        lines += [f'    <{tag} value={quoteattr(name)}/>' for name in labels.classes]
        lines.append(f'  </{kind}>')
    return '\n'.join([*lines, '</View>', ''])
