"""The confidence above which masks may be taken as they are, measured on labelled images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from mmssl.apis.predict_calibration import smooth_threshold_of
from mmssl.data.annotations import coco_masks
from mmssl.data.label_formats import LabelSet
from mmssl.data.label_formats.records import ImageLabels
from mmssl.data.label_formats.shapes import object_rle


class Matches(NamedTuple):
    """Which masks are right.

    Attributes:
        scores: (N,) confidences of the masks.
        right: (N,) bool.
    """

    scores: np.ndarray
    right: np.ndarray


def match_masks(predicted: ImageLabels, truth: ImageLabels, min_iou: float, by_class: bool) -> Matches:
    """Match the masks of an image with the labelled ones, the most confident first.

    A mask is right if it covers a labelled one, which no more confident mask covers, with an IoU of at least
    ``min_iou``. Masks that cover crowds are left out.

    Args:
        predicted: The masks with their confidences.
        truth: The labelled masks.
        min_iou: Smallest IoU.
        by_class: The classes must be equal, too.
    """
    objects = sorted(predicted.objects, key=lambda each: -(each.score or 0.0))
    codes = [object_rle(each, predicted) for each in objects]
    labelled = [object_rle(each, truth) for each in truth.objects]
    crowds = [int(each.crowd) for each in truth.objects]
    ious = np.zeros((len(codes), len(labelled)))
    if codes and labelled:
        ious = np.asarray(coco_masks().iou(codes, labelled, crowds)).reshape(len(codes), len(labelled))
    if by_class and ious.size:
        classes = np.array([each.label for each in truth.objects])
        ious[np.array([each.label for each in objects])[:, None] != classes] = 0
    scores, right = [], []
    free = np.array([not crowd for crowd in crowds], bool)
    for row, each in enumerate(objects):
        candidates = np.where(free, ious[row], 0)
        best = int(candidates.argmax()) if candidates.size else -1
        is_right = best >= 0 and candidates[best] >= min_iou
        if is_right:
            free[best] = False
        elif ious[row, np.array(crowds, bool)].max(initial=0) >= min_iou:
            continue
        scores.append(each.score or 0.0)
        right.append(is_right)
    return Matches(np.array(scores, float), np.array(right, bool))


def confident_threshold(
    predicted: Sequence[ImageLabels],
    truth: Sequence[ImageLabels],
    precision: float,
    min_iou: float,
    by_class: bool,
) -> float:
    """Return the confidence above which masks are right in a given share of the cases.

    Args:
        predicted: Masks of images with their confidences.
        truth: The labels of the same images.
        precision: The share, above 0 and up to 1.
        min_iou: See :func:`match_masks`.
        by_class: See :func:`match_masks`.

    Returns:
        The threshold; infinity if there is none.
    """
    matches = [
        match_masks(*images, min_iou=min_iou, by_class=by_class)
        for images in zip(predicted, truth, strict=True)
    ]
    scores = np.concatenate([np.zeros(0), *(each.scores for each in matches)])
    right = np.concatenate([np.zeros(0, bool), *(each.right for each in matches)])
    return smooth_threshold_of(scores, right, precision)


def split_by_confidence(labels: LabelSet, threshold: float) -> tuple[LabelSet, LabelSet]:
    """Return the masks from a confidence on, and the others; all images are in both."""
    parts = []
    for is_confident in (True, False):
        images = [
            replace(
                image,
                objects=[
                    each for each in image.objects if ((each.score or 0.0) >= threshold) == is_confident
                ],
            )
            for image in labels.images
        ]
        parts.append(replace(labels, images=images))
    return parts[0], parts[1]
