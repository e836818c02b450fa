"""Prompts of many images: boxes of a detector, or clicks of a person, from a file of labels."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmssl.data.label_formats import read_labels
from mmssl.data.label_formats.records import ImageLabels, ObjectLabel
from mmssl.errors import LabelError

# name of the only category of masks without classes, as mmssl segment writes it
NO_CLASS = 'object'


class MaskPrompt(NamedTuple):
    """A prompt for one mask.

    Attributes:
        object: 'points' (N, 2), 'labels' (N,) and 'box' (4,) as lists, as
            :class:`mmssl.apis.segmenters.PromptedSegmenter` takes them.
        category: Name of the class; None if there is none.
        score: Confidence of the class, 0 to 1.
        record: The mask, if the prompt has one already.
    """

    object: dict[str, list]
    category: str | None
    score: float
    record: dict[str, Any] | None


def read_prompts(path: str | os.PathLike, root: str | os.PathLike) -> dict[str, list[MaskPrompt]]:
    """Read the prompts of the images below a folder.

    A COCO file may have 'point_coords' [[x, y], ...] and 'point_labels' [1 or 0, ...] in place of boxes, as
    ``mmssl segment`` writes them; every other format gives boxes. Masks that are there stay as they are.
    Crowds, as ``mmssl predict --keep-uncertain`` writes uncertain boxes, are no prompts.

    Args:
        path: Folder or file of labels or predictions.
        root: Folder of the images.

    Returns:
        The prompts by the path of an image below the folder.

    Raises:
        FileNotFoundError: There is no such file.
        LabelError: There is no prompt for an image of the folder.
    """
    points = _read_points(path)
    if points is not None:
        return _checked(points, path, root)
    labels = read_labels(path, 'detect', images=[root])
    prompts = {}
    for image in labels.images:
        name = name_below(image.path, root)
        if image.path and name is not None:
            objects = [each for each in image.objects if not each.crowd]
            prompts[name] = [_of_object(each, image, labels.classes) for each in objects]
    return _checked(prompts, path, root)


def name_below(path: str | os.PathLike, root: str | os.PathLike) -> str | None:
    """Return the path of an image below a folder, through links or not; None if it is elsewhere."""
    for resolve in (os.path.abspath, os.path.realpath):
        name = os.path.relpath(resolve(path), resolve(root))
        if not name.startswith('..'):
            return Path(name).as_posix()
    return None


def _checked(prompts: dict[str, list[MaskPrompt]], path: str | os.PathLike, root: Any) -> dict:
    if not any(prompts.values()):
        raise LabelError(f'has no box or point in an image of {root}', path)
    return prompts


def _of_object(each: ObjectLabel, image: ImageLabels, classes: Sequence[str]) -> MaskPrompt:
    left, top, right, bottom = each.box
    box = [max(0.0, left), max(0.0, top), min(float(image.width), right), min(float(image.height), bottom)]
    name = classes[each.label]
    score = 1.0 if each.score is None else each.score
    record = None
    if each.has_mask:
        from mmssl.data.annotations import encode
        from mmssl.data.label_formats.shapes import object_mask

        record = dict(encode(object_mask(each, image)), predicted_iou=1.0)
    category = None if name == NO_CLASS else name
    return MaskPrompt(dict(points=[], labels=[], box=box), category, score, record)


def _read_points(path: str | os.PathLike) -> dict[str, list[MaskPrompt]] | None:
    """Return the prompts of a COCO file with points; None for any other file or folder."""
    if os.path.isdir(path) or Path(path).suffix.lower() != '.json':
        return None
    try:
        content = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise LabelError(f'is not JSON ({error}); it may be truncated: replace it', path) from None
    annotations = content.get('annotations') if isinstance(content, dict) else None
    if not isinstance(annotations, list) or not any(_has_points(each) for each in annotations):
        return None
    names = {each['id']: str(each['file_name']) for each in content.get('images', ())}
    categories = {each['id']: str(each['name']) for each in content.get('categories', ())}
    prompts: dict[str, list[MaskPrompt]] = {name: [] for name in names.values()}
    for index, each in enumerate(annotations):
        if not isinstance(each, Mapping) or each.get('image_id') not in names:
            raise LabelError(f'entry {index} of annotations belongs to no image of the file', path)
        prompts[names[each['image_id']]].append(_of_points(each, index, categories, path))
    return prompts


def _has_points(each: Any) -> bool:
    return isinstance(each, Mapping) and bool(each.get('point_coords'))


def _of_points(each: Mapping, index: int, categories: Mapping, path: str | os.PathLike) -> MaskPrompt:
    points = [[float(x), float(y)] for x, y in each.get('point_coords') or ()]
    labels = [int(label) for label in each.get('point_labels') or [1] * len(points)]
    box = [float(value) for value in each.get('box') or ()]
    if not points and not box and each.get('bbox'):
        left, top, width, height = map(float, each['bbox'])
        box = [left, top, left + width, top + height]
    if len(labels) != len(points) or not set(labels) <= {0, 1} or len(box) not in (0, 4):
        raise LabelError(
            f'entry {index} of annotations has {len(points)} points with labels {labels} and the box {box}; '
            'each point needs 1 (on the object) or 0 (beside it), a box four numbers',
            path,
        )
    if not box and 1 not in labels:
        raise LabelError(f'entry {index} of annotations has neither a box nor a point on its object', path)
    name = categories.get(each.get('category_id'))
    category = None if name == NO_CLASS else name
    return MaskPrompt(dict(points=points, labels=labels, box=box), category, 1.0, None)
