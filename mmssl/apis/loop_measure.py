"""What a person has changed of pre-filled masks, and how many clicks a model needs for masks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mmssl.data.annotations import coco_masks
from mmssl.data.label_formats.records import ImageLabels, ObjectLabel
from mmssl.data.label_formats.shapes import object_mask, object_rle

if TYPE_CHECKING:
    from torch import nn

# IoU from which a corrected mask is the pre-filled one, and from which it is an edited form of it
SAME_IOU = 0.99
EDITED_IOU = 0.5


@dataclass
class Changes:
    """What a person has changed.

    Attributes:
        accepted: Number of pre-filled masks that have stayed.
        edited: Number of those whose outline or class has changed.
        added: Number of masks that were not pre-filled.
        deleted: Number of pre-filled masks that are gone.
        ious: IoU of each corrected mask with the pre-filled one; 0 for those that were added.
        redrawn: By the name of an image, the corrected masks that were not accepted.
    """

    accepted: int = 0
    edited: int = 0
    added: int = 0
    deleted: int = 0
    ious: list[float] = field(default_factory=list)
    redrawn: dict[str, list[ObjectLabel]] = field(default_factory=dict)

    @property
    def masks(self) -> int:
        """Number of corrected masks."""
        return self.accepted + self.edited + self.added


def compare(prefilled: Sequence[ImageLabels], corrected: Sequence[ImageLabels], classes: bool) -> Changes:
    """Compare pre-filled and corrected masks of the same images, one to one, the most similar first.

    Args:
        prefilled: The masks that were shown.
        corrected: The masks as they are now.
        classes: A changed class is an edit; the classes of both are the same.
    """
    changes = Changes()
    for before, after in zip(prefilled, corrected, strict=True):
        objects = [each for each in after.objects if not each.crowd]
        pairs = _pairs(before, objects, after)
        changes.deleted += len(before.objects) - len(pairs)
        redrawn = []
        for column, each in enumerate(objects):
            row, iou = pairs.get(column, (-1, 0.0))
            changes.ious.append(iou)
            same_class = row < 0 or not classes or before.objects[row].label == each.label
            if row < 0:
                changes.added += 1
            elif iou >= SAME_IOU:
                changes.accepted += same_class
                changes.edited += not same_class
            else:
                changes.edited += 1
            if iou < SAME_IOU:
                redrawn.append(each)
        changes.redrawn[after.name] = redrawn
    return changes


def _pairs(
    before: ImageLabels, objects: Sequence[ObjectLabel], after: ImageLabels
) -> dict[int, tuple[int, float]]:
    """Return {corrected mask: (pre-filled mask, IoU)}."""
    codes = [object_rle(each, before) for each in before.objects]
    targets = [object_rle(each, after) for each in objects]
    if not codes or not targets:
        return {}
    ious = np.asarray(coco_masks().iou(codes, targets, [0] * len(targets))).reshape(len(codes), -1)
    pairs: dict[int, tuple[int, float]] = {}
    while ious.max() >= EDITED_IOU:
        row, column = np.unravel_index(ious.argmax(), ious.shape)
        pairs[int(column)] = (int(row), float(ious[row, column]))
        ious[row], ious[:, column] = -1, -1
    return pairs


@dataclass
class ClickResults:
    """Clicks and boxes of a simulated user.

    Attributes:
        clicks: (N,) clicks until the masks are good enough, or all that were tried.
        box_ious: (N,) IoU of the masks from the exact boxes.
    """

    clicks: np.ndarray
    box_ious: np.ndarray


def simulate_clicks(
    model: 'nn.Module', images: Sequence[ImageLabels], min_iou: float, max_clicks: int
) -> ClickResults:
    """Click at the objects of images, as a person would, until their masks have an IoU.

    Args:
        model: A SAM.
        images: The images with their masks; crowds and masks without a pixel are left out.
        min_iou: IoU at which a mask is good enough.
        max_clicks: Clicks after which an object is given up, which counts as so many.
    """
    import torch

    from mmssl.data.pictures import read_rgb
    from mmssl.evaluation.clicks import number_of_clicks
    from mmssl.promptable import InteractiveSAM, SamPredictor
    from mmssl.promptable.simulation import ClickSimulation

    simulation = ClickSimulation(clicks=max_clicks)
    interactive, predictor = InteractiveSAM(model), SamPredictor(model)
    clicks, box_ious = [np.zeros(0, int)], [np.zeros(0)]
    with torch.no_grad():
        for image in images:
            masks = [object_mask(each, image) for each in image.objects if not each.crowd]
            masks = [mask for mask in masks if mask.any()]
            if not masks:
                continue
            predictor.set_image(read_rgb(image.path))
            targets = torch.from_numpy(np.stack(masks)).bool().to(predictor.device)
            embedding, (input_size, _) = predictor.get_image_embedding(), predictor.sizes()
            results = simulation(interactive, embedding, targets, input_size)
            clicks.append(number_of_clicks(results['click_ious'].numpy(), min_iou))
            box_ious.append(results['box_ious'].numpy())
    return ClickResults(np.concatenate(clicks), np.concatenate(box_ious))


def clicks_per_mask(changes: Changes, clicks: np.ndarray) -> float:
    """Return the clicks of a person for each corrected mask.

    An accepted mask needs none, any other one those of a simulated user from the start, and a click deletes a
    mask.

    Args:
        changes: What was changed.
        clicks: (N,) clicks for the masks that were not accepted.
    """
    return (float(clicks.sum()) + changes.deleted) / max(changes.masks, 1)
