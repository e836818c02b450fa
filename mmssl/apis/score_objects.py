"""Average precision of predicted boxes or masks in files against the truth in files."""

import math
import os
from typing import Any

import numpy as np

from mmssl.apis.score_results import read_results
from mmssl.data.label_formats import LabelSet, read_labels
from mmssl.data.label_formats.coco import coco_content
from mmssl.data.label_formats.files import read_json
from mmssl.data.label_formats.matching import match_images, part_of
from mmssl.data.label_formats.shapes import object_rle
from mmssl.errors import LabelError
from mmssl.evaluation.average_precision import (
    class_matches,
    class_precisions,
    coco_scores,
    evaluate_coco,
    precision_intervals,
    ratios,
    right_and_total,
)

# formats that write nothing for an image without objects
MAY_LACK = ('yolo', 'csv', 'results')


def score_objects(
    truth, prediction, task: str, resamples: int, seed: int, split: str | None = None
) -> dict[str, Any]:
    """Score predicted objects by pycocotools.

    Args:
        truth: Folder or file of the truth, in any format.
        prediction: Folder or file of the predictions: in any format, or COCO's list of results.
        task: 'detect' compares boxes, 'instance' masks.
        resamples: Resamples of the images for the intervals.
        seed: Seed of the resamples.
        split: Part of the truth; None for all of it.

    Returns:
        See :func:`mmssl.apis.score.score`.

    Raises:
        LabelError: An image or class of the predictions is not in the truth, or sizes differ.
    """
    true_labels = part_of(read_labels(truth, task, sizes={}), split)
    predicted, notes = _predictions(prediction, true_labels, task)
    pairs = match_images(true_labels, predicted, may_lack=predicted.format in MAY_LACK)
    lacking = [image.name for image, other in pairs if other is None]
    if lacking:
        notes.append(
            f'{len(lacking)} images have no predictions and count as empty (the first is {lacking[0]})'
        )
    content = coco_content(true_labels)
    if task == 'instance':
        _add_masks(content, true_labels)
    results = _results(pairs, true_labels, predicted, task)
    evaluation = evaluate_coco(content, results, 'segm' if task == 'instance' else 'bbox')
    intervals = precision_intervals(evaluation, resamples, seed)
    precisions = class_precisions(evaluation)
    outcomes = [right_and_total(each, len(pairs)).sum(1) for each in class_matches(evaluation)]
    per_class = {}
    counts = [0] * len(true_labels.classes)
    for image in true_labels.images:
        for each in image.objects:
            counts[each.label] += not each.crowd
    for index, name in enumerate(true_labels.classes):
        ap, ap50 = precisions[index + 1]
        if counts[index]:
            interval = intervals['class_ap'][index] if intervals['class_ap'] else None
            per_class[name] = {
                'ap': ap,
                'ap50': ap50,
                **_numbers_of(ratios(outcomes[index])),
                'objects': counts[index],
                'interval': {'ap': interval},
            }
    return {
        **coco_scores(evaluation),
        **_numbers_of(ratios(np.sum(outcomes, axis=0))),
        'per_class': per_class,
        'interval': {name: intervals[name] for name in ('ap', 'ap50', 'precision', 'recall')},
        'images': len(pairs),
        'notes': [*(f'truth: {note}' for note in true_labels.notes), *notes],
    }


def _numbers_of(values: dict[str, np.ndarray]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _predictions(prediction, truth: LabelSet, task: str) -> tuple[LabelSet, list[str]]:
    """Return the predictions and notes on them."""
    if os.path.isfile(prediction) and str(prediction).lower().endswith('.json'):
        content = read_json(str(prediction))
        if isinstance(content, list) and all(
            isinstance(each, dict) and 'image_id' in each for each in content
        ):
            return read_results(content, truth, str(prediction)), []
    sizes = {os.path.splitext(image.name)[0]: (image.width, image.height) for image in truth.images}
    labels = read_labels(prediction, sizes=sizes)
    notes = [f'prediction: {note}' for note in labels.notes]
    objects = [each for image in labels.images for each in image.objects]
    if objects and all(each.score is None for each in objects):
        notes.append('the predictions state no scores; all count as 1')
    if task == 'instance' and objects and not labels.num_masks:
        raise LabelError('holds boxes only; the task instance compares outlines or masks', prediction)
    return labels, notes


def _add_masks(content: dict, labels: LabelSet) -> None:
    """Give every object of a COCO file a mask; of its box if it has no outline."""
    annotations = iter(content['annotations'])
    for image in labels.images:
        for each in image.objects:
            annotation = next(annotations)
            if 'segmentation' not in annotation:
                annotation['segmentation'] = object_rle(each, image)


def _results(pairs, truth: LabelSet, predicted: LabelSet, task: str) -> list[dict]:
    results = []
    for number, (_, other) in enumerate(pairs, 1):
        for each in other.objects if other else ():
            name = predicted.classes[each.label]
            if name not in truth.classes:
                raise LabelError(
                    f'predicts the class {name!r}, which the truth does not have '
                    f'({", ".join(truth.classes[:5])})',
                    other.source or predicted.root,
                )
            score = 1.0 if each.score is None else each.score
            if not all(
                isinstance(value, (int, float)) and math.isfinite(value) for value in (score, *each.box)
            ):
                raise LabelError(
                    f'a prediction of {other.name} has the score {score} and the box {each.box}; all '
                    'must be finite numbers',
                    other.source or predicted.root,
                )
            left, top, right, bottom = each.box
            result: dict[str, Any] = dict(
                image_id=number,
                category_id=truth.classes.index(name) + 1,
                score=score,
            )
            if task == 'instance':
                result['segmentation'] = object_rle(each, other)
            else:
                result['bbox'] = [left, top, right - left, bottom - top]
            results.append(result)
    return results
