"""The state of a session as the page shows it: words for scores, places of prompts, an overlay of masks."""

import base64
from typing import Any

import numpy as np

from mmssl.data.colors import class_color
from mmssl.demo_page.overlay import overlay_png
from mmssl.demo_page.session import Session

MASK_COLOR = (30, 144, 255)
RANKS = ('Best', 'Second', 'Third')
# predicted IoU from which a mask is called so; 0.88 is the threshold of the paper's automatic masks
RELIABLE = ((0.88, 'looks reliable'), (0.7, 'looks fair'))
UNSURE = 'unsure'


def describe(session: Session) -> dict[str, Any]:
    """Return what the page shows of a session, as values of JSON.

    Returns:
        image: name, width and height; None without an image.
        note: What happened last.
        points: x, y and object (True or False) of each click.
        box: left, top, right, bottom; None for none.
        overlay: The masks as a data URL; None for none.
        masks: rank, area and quality of each mask of the prompts, in words.
        chosen: Index of the mask that is shown.
        names: x, y and text of the names of masks.
        count: Number of masks that a download would hold.
    """
    points, labels, box = session.prompts
    shown = None
    if session.image is not None:
        height, width = session.image.shape[:2]
        shown = dict(name=session.name, width=width, height=height)
    return dict(
        image=shown,
        note=session.note,
        points=[
            dict(x=x, y=y, object=bool(label))
            for (x, y), label in zip(points.tolist(), labels.tolist(), strict=True)
        ],
        box=None if box is None else box.tolist(),
        overlay=_overlay(session),
        masks=[
            mask_words(index, score, float(mask.mean()))
            for index, (mask, score) in enumerate(zip(session.masks, session.scores, strict=True))
        ],
        chosen=session.chosen,
        names=_names(session),
        count=len(session.records) or int(len(session.masks) and session.masks[session.chosen].any()),
    )


def mask_words(index: int, score: float, area: float) -> dict[str, str]:
    """Describe a mask of the prompts.

    Args:
        index: Rank by score, from 0.
        score: Predicted IoU, which the model does not bound.
        area: Fraction of the image.
    """
    rank = RANKS[min(index, len(RANKS) - 1)]
    quality = next((words for least, words in RELIABLE if score >= least), UNSURE)
    if not area:
        return dict(rank=rank, area='nothing found', quality='')
    percent = f'{100 * area:.0f} %' if area >= 0.01 else 'under 1 %'
    return dict(rank=rank, area=f'{percent} of the image', quality=quality)


def data_url(png: bytes) -> str:
    """Return a PNG as the address of a picture."""
    return f'data:image/png;base64,{base64.b64encode(png).decode()}'


def _overlay(session: Session) -> str | None:
    if session.everything and session.records:
        from pycocotools import mask as coco

        size = session.require_image().shape[:2]
        masks = (coco.decode(record['segmentation']).astype(bool) for record in session.records)
        colors = [class_color(index) for index in range(len(session.records))]
        return data_url(overlay_png(size, masks, colors))
    if len(session.masks):
        mask: np.ndarray = session.masks[session.chosen]
        return data_url(overlay_png(mask.shape, [mask], [MASK_COLOR]))
    return None


def _names(session: Session) -> list[dict]:
    return [
        dict(x=left + width / 2, y=top + height / 2, text=record['label'])
        for record in session.records
        if 'label' in record
        for left, top, width, height in [record['bbox']]
    ]
