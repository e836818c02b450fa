"""The files of masks that a run of ``mmssl annotate`` has written, as labels."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from mmssl.apis.mask_prompts import NO_CLASS
from mmssl.data.annotations import Job, is_done
from mmssl.data.label_formats.records import ImageLabels, LabelSet, ObjectLabel


def read_masks(jobs: Sequence[Job], root: str | os.PathLike, classes: Sequence[str] = ()) -> LabelSet:
    """Return the masks of images as labels, whose scores are their confidences.

    The confidence of a mask is its predicted IoU, from 0 to 1, times the probability of its class.

    Args:
        jobs: The images; those without a file are left out, and so are masks with ``"kept": false``.
        root: Folder that their names are below.
        classes: Names of the classes, if there are more than the masks have.
    """
    contents = [(job, json.loads(job.file.read_bytes())) for job in jobs if is_done(job.file)]
    for _, content in contents:  # those that a person has marked
        content['annotations'] = [each for each in content['annotations'] if each.get('kept', True)]
    named = {
        record['category']
        for _, content in contents
        for record in content['annotations']
        if 'category' in record
    }
    names = [*classes, *sorted(named - set(classes))] or [NO_CLASS]
    is_nameless = any(
        'category' not in record for _, content in contents for record in content['annotations']
    )
    if is_nameless and NO_CLASS not in names:
        names.append(NO_CLASS)
    images = [_image_labels(job, content, names) for job, content in contents]
    return LabelSet(os.fspath(root), 'coco', names, images, image_root=os.path.abspath(root))


def _image_labels(job: Job, content: dict, names: Sequence[str]) -> ImageLabels:
    objects = []
    for record in content['annotations']:
        left, top, width, height = record['bbox']
        confidence = min(max(record.get('predicted_iou', 1.0), 0.0), 1.0) * record.get('category_score', 1.0)
        objects.append(
            ObjectLabel(
                names.index(record.get('category', NO_CLASS)),
                (left, top, left + width, top + height),
                rle=record['segmentation'],
                score=confidence,
                area=record['area'],
            )
        )
    image = content['image']
    return ImageLabels(
        job.name, os.path.abspath(job.image), image['width'], image['height'], objects, source=str(job.file)
    )


def uncertain_file(coco: Path) -> Path:
    """Return the file of the masks below the threshold: NAME-uncertain.json for NAME.json."""
    return coco.with_name(f'{coco.stem}-uncertain.json')
