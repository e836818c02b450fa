"""Boxes of COCO files: which of them mmdet leaves out, and which are probably of another format."""

from collections.abc import Iterable

MAX_LISTED = 5
BOX = '[left, top, width, height] in pixels'
# pixels by which a box may reach beyond its image
_MARGIN = 1
# share of the boxes beyond their images from which on all are compared with the format of corners
_SUSPICIOUS = 0.05


def left_out(annotations: list[dict], images: dict) -> list[str]:
    """Describe the boxes that mmdet leaves out of training.

    Args:
        annotations: Annotations with a box of four finite numbers each.
        images: Id -> image, with its size.

    Raises:
        ValueError: These are all boxes.
    """
    ids_by_reason: dict[str, list] = {}
    for annotation in annotations:
        reason = _reason_left_out(annotation, images[annotation['image_id']])
        if reason:
            ids_by_reason.setdefault(reason, []).append(annotation['id'])
    texts = [f'{len(ids)} {reason} (annotations {listed(ids)})' for reason, ids in ids_by_reason.items()]
    if annotations and sum(map(len, ids_by_reason.values())) == len(annotations):
        shares = all(max(map(abs, annotation['bbox'])) <= 1 for annotation in annotations)
        hint = '; multiply them by the size of the image' if shares else ''
        raise ValueError(
            f'none of the {len(annotations)} boxes can be used: {"; ".join(texts)}. Boxes are {BOX}{hint}'
        )
    return texts


def beyond(annotations: list[dict], images: dict) -> list[str]:
    """Describe the boxes that reach beyond their images.

    Args:
        annotations: As for :func:`left_out`.
        images: As for :func:`left_out`.

    Raises:
        ValueError: There are many, and all boxes fit as [left, top, right, bottom].
    """
    ids = [each['id'] for each in annotations if not _fits(each, images[each['image_id']])]
    if not ids:
        return []
    text = f'{len(ids)} of {len(annotations)} boxes reach beyond their image (annotations {listed(ids)})'
    corners = all(_fits_as_corners(each, images[each['image_id']]) for each in annotations)
    if corners and len(ids) > _SUSPICIOUS * len(annotations):
        raise ValueError(
            f'{text}, and all are within it as [left, top, right, bottom]; boxes are {BOX}: convert them'
        )
    return [f'{text}; boxes are {BOX}']


def _fits(annotation: dict, image: dict) -> bool:
    left, top, width, height = annotation['bbox']
    right, bottom = left + width, top + height
    inside = left >= -_MARGIN and top >= -_MARGIN
    return inside and right <= image['width'] + _MARGIN and bottom <= image['height'] + _MARGIN


def _fits_as_corners(annotation: dict, image: dict) -> bool:
    left, top, right, bottom = annotation['bbox']
    inside = right <= image['width'] + _MARGIN and bottom <= image['height'] + _MARGIN
    return -_MARGIN <= left < right and -_MARGIN <= top < bottom and inside


def _reason_left_out(annotation: dict, image: dict) -> str:
    """Return why mmdet leaves an object out of training; empty if it does not."""
    left, top, width, height = annotation['bbox']
    if annotation.get('ignore'):
        return 'with ignore=1'
    if width <= 0 or height <= 0:
        return 'without area'
    if width < 1 or height < 1:
        return 'smaller than a pixel'
    if left >= image['width'] or top >= image['height'] or left + width <= 0 or top + height <= 0:
        return 'outside of their image'
    return 'without area' if annotation['area'] <= 0 else ''


def listed(values: Iterable) -> str:
    """Join the first values with commas, followed by '...' if there are more."""
    texts = list(map(str, values))
    return ', '.join(texts[:MAX_LISTED]) + (', ...' if len(texts) > MAX_LISTED else '')
