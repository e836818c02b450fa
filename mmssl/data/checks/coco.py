"""Checks of a COCO annotation file itself, whether or not a data set can be built from it."""

from collections.abc import Iterable, Sequence

from mmssl.data.coco_masks import prepare_masks
from mmssl.hosts.coco_files import compare_classes, prepare_coco, read_json


def coco_problems(
    path: str, used_images: int | None = None, classes: Sequence[str] = (), masks: bool = False
) -> tuple[list[str], list[str]]:
    """List the errors and warnings of a COCO file.

    Args:
        path: The JSON file; a file of another format has no problems.
        used_images: Number of images in the data set, if it leaves out images without counting them.
        classes: Names of the classes, to which the categories are compared.
        masks: Whether masks without classes are read from it, instead of boxes.

    Returns:
        Errors and warnings.
    """
    try:
        content = read_json(path)
    except OSError:
        return [], []  # the data set reports it
    except ValueError as error:
        return [str(error)], []
    if not isinstance(content, dict) or 'images' not in content or 'annotations' not in content:
        return [], []
    warnings = []
    images = content['images'] if isinstance(content['images'], list) else []
    num_images = len(_ids(images))
    if used_images is not None and used_images < num_images:
        warnings.append(
            f'{num_images - used_images} of {num_images} images are left out: '
            'nothing to learn from in their annotations'
        )
    try:
        if masks:
            warnings += prepare_masks(content)
        elif 'categories' in content:
            warnings += prepare_coco(content)
            warnings += compare_classes(content, classes) if classes else []
    except ValueError as error:
        return [f'{path}: {error}'], warnings
    return [], warnings


def _ids(entries: Iterable[dict]) -> set:
    return {str(entry.get('id')) for entry in entries if isinstance(entry, dict)}
