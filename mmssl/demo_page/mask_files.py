"""Masks of the page as files: an image of indices, and COCO annotations."""

import io
from collections.abc import Sequence

import numpy as np


def index_image(records: Sequence[dict], image_size: tuple[int, int]) -> bytes:
    """Draw masks as 16-bit indices from 1 on, large ones below small ones; a single mask in black and white.

    Args:
        records: Records of the masks.
        image_size: (H, W).

    Returns:
        A PNG.
    """
    from PIL import Image
    from pycocotools import mask as coco

    indices = np.zeros(image_size, dtype=np.uint16)
    for index in sorted(range(len(records)), key=lambda index: -records[index]['area']):
        indices[coco.decode(records[index]['segmentation']).astype(bool)] = index + 1
    pixels = (indices > 0).astype(np.uint8) * 255 if len(records) == 1 else indices
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, 'png')
    return file.getvalue()


def coco_content_of(records: Sequence[dict], name: str, image_size: tuple[int, int]) -> dict:
    """Return the content of a COCO file, with a category for each name that a detector has given.

    Args:
        records: Records of the masks, with 'label' and 'label_score' if they were named.
        name: Name of the image file.
        image_size: (H, W).
    """
    from mmssl.data.annotations import coco_content

    height, width = image_size
    annotations = [
        dict(image_id=1, **{key: value for key, value in record.items() if not key.startswith('label')})
        for record in records
    ]
    content = coco_content([dict(id=1, file_name=name, width=width, height=height)], annotations)
    names = sorted({record['label'] for record in records if 'label' in record})
    first_id = len(content['categories']) + 1
    category_ids = {name: first_id + index for index, name in enumerate(names)}
    content['categories'] += [dict(id=category_id, name=name) for name, category_id in category_ids.items()]
    for annotation, record in zip(content['annotations'], records, strict=True):
        if 'label' in record:
            annotation.update(category_id=category_ids[record['label']], score=record['label_score'])
    return content
