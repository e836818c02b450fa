"""Checks of a COCO annotation file itself, whether or not a data set can be built from it."""

import json
from collections import Counter
from collections.abc import Iterable

from mmssl.data.checks.records import abbreviated


def coco_problems(path: str, used_images: int | None = None) -> tuple[list[str], list[str]]:
    """List the errors and warnings of a COCO file.

    Args:
        path: The JSON file; a file of another format has no problems.
        used_images: Number of images in the data set, if it leaves out images without counting them.

    Returns:
        Errors and warnings.
    """
    try:
        with open(path, encoding='utf-8') as file:
            content = json.load(file)
    except FileNotFoundError:
        return [], []  # the data set reports it
    except ValueError as error:
        return [f'{path} is not valid JSON: {error}'], []
    if not isinstance(content, dict) or 'images' not in content or 'annotations' not in content:
        return [], []
    warnings = []
    num_images = len(_ids(content['images']))
    if used_images is not None and used_images < num_images:
        warnings.append(
            f'{num_images - used_images} of {num_images} images are left out: '
            'nothing to learn from in their annotations'
        )
    flat = [
        annotation.get('id')
        for annotation in content['annotations']
        if len(annotation.get('bbox') or ()) == 4 and not min(annotation['bbox'][2:]) > 0
    ]
    if flat:
        warnings.append(f'{len(flat)} boxes without area are left out: annotations {abbreviated(flat)}')
    return _id_errors(content), warnings


def _id_errors(content: dict) -> list[str]:
    """Describe duplicate ids, and ids of images and categories that are not listed."""
    errors = []
    for section in ('images', 'annotations', 'categories'):
        counts = Counter(entry.get('id') for entry in content.get(section) or [])
        repeated = [entry_id for entry_id, count in counts.items() if count > 1]
        if repeated:
            errors.append(f'{len(repeated)} ids of {section} more than once: {abbreviated(repeated)}')
    annotations = content['annotations']
    images = _ids(content['images'])
    orphans = [annotation.get('id') for annotation in annotations if annotation.get('image_id') not in images]
    if orphans:
        errors.append(f'{len(orphans)} annotations are of images that are not listed: {abbreviated(orphans)}')
    categories = _ids(content.get('categories') or [])
    unknown = [
        annotation.get('id')
        for annotation in annotations
        if categories and annotation.get('category_id') not in categories
    ]
    if unknown:
        errors.append(
            f'{len(unknown)} annotations are of categories that are not listed: {abbreviated(unknown)}'
        )
    return errors


def _ids(entries: Iterable[dict]) -> set:
    return {entry.get('id') for entry in entries}
