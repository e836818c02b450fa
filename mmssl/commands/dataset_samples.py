"""Samples of a dataset with their labels, for the contact sheet of ``mmssl check-data``."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mmssl.commands.dataset_report import class_names

if TYPE_CHECKING:
    from PIL import Image

    from mmssl.data.checks.findings import Findings
    from mmssl.data.checks.inspector import DatasetInspector
    from mmssl.data.pictures import PictureSettings


def sample_tiles(
    findings: 'Findings', count: int, pictures: 'PictureSettings | None' = None
) -> 'tuple[list[tuple[Image.Image, str, str]], list[str]]':
    """Draw samples that are spread over the dataset, and pass them through the pipeline of the config.

    Returns:
        The tiles (image, file name, line about its labels), and errors of the pipeline.
    """
    from mmssl.config.error_text import explained_error
    from mmssl.data.pictures import read_rgb
    from mmssl.errors import BadImageError
    from mmssl.visualization.contact_sheet import class_colors, draw_sample

    inspector = findings.inspector
    classes = class_names(findings)
    # a palette is made for label maps; boxes side by side need colors that differ
    colors = class_colors(classes, inspector.palette if inspector.label_type == 'pixels' else None)
    tiles = []
    errors: dict[str, str] = {}
    for index in _spread(findings, count):
        info = inspector.info(index)
        path = info['img_path']
        try:
            pixels = read_rgb(path, pictures, info.get('page'))
        except (BadImageError, OSError):
            continue
        line, labels = _labels(inspector, info, classes)
        tiles.append((draw_sample(pixels, labels, classes, colors), path.rsplit('/', 1)[-1], line))
        try:
            inspector.dataset.pipeline(inspector.info(index))
        except Exception as error:  # a transform can fail in any way
            errors.setdefault(f'the pipeline fails: {explained_error(error)}', path)
    return tiles, [f'{text}: {path}' for text, path in errors.items()]


def _spread(findings: 'Findings', count: int) -> list[int]:
    """Return the indices of up to ``count`` images without errors, evenly spaced."""
    inspector = findings.inspector
    valid = {record.path for record in findings.records if record.size and not record.errors}
    indices = [index for index in range(len(inspector)) if inspector.info(index).get('img_path') in valid]
    count = min(count, len(indices))
    return [indices[number * len(indices) // count] for number in range(count)]


def _labels(inspector: 'DatasetInspector', info: dict, classes: Sequence[str]) -> tuple[str, dict]:
    """Return the line about the labels of an image, and what is drawn over it."""
    import numpy as np

    size = f'{info["width"]}x{info["height"]}' if 'width' in info else ''
    label_type = inspector.label_type
    if label_type == 'images':
        return ', '.join(classes[int(label)] for label in np.atleast_1d(info['gt_label'])), {}
    if label_type == 'objects':
        instances = [instance for instance in info['instances'] if not instance.get('ignore_flag')]
        boxes = [instance['bbox'] for instance in instances]
        names = [int(instance['bbox_label']) for instance in instances]
        text = f'{len(instances)} objects'
        return f'{text}, {size}' if size else text, dict(boxes=boxes, names=names)
    if label_type == 'masks':
        masks = info['read_masks'](info)
        return f'{len(masks)} masks', dict(masks=masks)
    if label_type == 'pixels':
        labels = inspector.label_map(info)
        num_classes = len(np.setdiff1d(np.unique(labels), [inspector.ignore_index]))
        return f'{num_classes} classes', dict(map=labels)
    return size, {}
