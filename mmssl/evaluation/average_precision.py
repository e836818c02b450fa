"""COCO's average precision by pycocotools, with intervals by the bootstrap over images."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmssl.evaluation.bootstrap import bootstrap_intervals

# names of pycocotools' twelve numbers
STATS = (
    'ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large',
    'ar_1', 'ar_10', 'ar_100', 'ar_small', 'ar_medium', 'ar_large',
)  # fmt: skip


class ClassMatches(NamedTuple):
    """Detections of a class, in descending order of their scores.

    Attributes:
        matched: (T, D) bool, which are matched at each threshold of IoU.
        ignored: (T, D) bool, which do not count.
        image: (D,) index of the image of each.
        num_objects: (N,) objects of the class in each image, without ignored ones.
    """

    matched: np.ndarray
    ignored: np.ndarray
    image: np.ndarray
    num_objects: np.ndarray


def evaluate_coco(truth: Mapping, predictions: Sequence[Mapping], iou_type: str) -> Any:
    """Run pycocotools' evaluation, without its printed lines.

    Args:
        truth: Content of a COCO file.
        predictions: Entries with 'image_id', 'category_id', 'score', and 'bbox' or 'segmentation'.
        iou_type: 'bbox' or 'segm'.

    Returns:
        The evaluated ``COCOeval``.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = truth
        coco.createIndex()
        if predictions:
            detections = coco.loadRes([dict(each) for each in predictions])
        else:
            detections = COCO()
            detections.dataset = dict(truth, annotations=[])
            detections.createIndex()
        evaluation = COCOeval(coco, detections, iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def coco_scores(evaluation: Any) -> dict[str, float]:
    """Return pycocotools' numbers by name; NaN for those of no object."""
    return {
        name: float(value) if value > -1 else float('nan')
        for name, value in zip(STATS, evaluation.stats, strict=True)
    }


def class_precisions(evaluation: Any) -> dict[int, tuple[float, float]]:
    """Return (AP, AP50) of each category by its id; NaN for those without objects."""
    precision = evaluation.eval['precision'][:, :, :, 0, -1]  # (T, R, K) of all areas, 100 detections
    return {
        category: (_mean(precision[:, :, index]), _mean(precision[0, :, index]))
        for index, category in enumerate(evaluation.params.catIds)
    }


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float('nan')


def class_matches(evaluation: Any) -> list[ClassMatches]:
    """Return the matches of each category for objects of all areas."""
    params = evaluation.params
    num_images, num_areas = len(params.imgIds), len(params.areaRng)
    limit = params.maxDets[-1]
    matches = []
    for index in range(len(params.catIds)):
        start = index * num_areas * num_images
        entries = evaluation.evalImgs[start : start + num_images]
        known = [(image, entry) for image, entry in enumerate(entries) if entry is not None]
        num_objects = np.zeros(num_images)
        for image, entry in known:
            num_objects[image] = np.count_nonzero(np.asarray(entry['gtIgnore']) == 0)
        scores = np.concatenate([[], *(entry['dtScores'][:limit] for _, entry in known)])
        order = np.argsort(-scores, kind='mergesort')
        empty = np.zeros((len(params.iouThrs), 0))
        matched, ignored = (
            np.concatenate([empty, *(entry[key][:, :limit] for _, entry in known)], axis=1).astype(bool)
            for key in ('dtMatches', 'dtIgnore')
        )
        owners = [np.full(len(entry['dtScores'][:limit]), image) for image, entry in known]
        image_index = np.concatenate([np.zeros(0, np.int64), *owners])
        matches.append(ClassMatches(matched[:, order], ignored[:, order], image_index[order], num_objects))
    return matches


def resampled_precision(matches: ClassMatches, counts: np.ndarray, recalls: np.ndarray) -> np.ndarray:
    """Return the average precision of a class for many resamples of the images.

    An image that is drawn twice adds each of its detections and objects twice. The two follow each other,
    whose order does not change the interpolated precision.

    Args:
        matches: The detections of the class.
        counts: (B, N) how often each image is drawn.
        recalls: (R,) recalls at which the precision is interpolated.

    Returns:
        (B, T) float64; NaN for resamples without an object.
    """
    num_objects = counts @ matches.num_objects
    drawn = counts[:, matches.image]
    result = np.zeros((len(counts), len(matches.matched)))
    for threshold, (matched, ignored) in enumerate(zip(matches.matched, matches.ignored, strict=True)):
        true = np.cumsum(drawn * (matched & ~ignored), axis=1)
        false = np.cumsum(drawn * (~matched & ~ignored), axis=1)
        precision = true / (true + false + np.spacing(1))
        precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        with np.errstate(divide='ignore', invalid='ignore'):
            recall = true / num_objects[:, None]
        for row, (of_row, at) in enumerate(zip(precision, recall, strict=True)):
            position = np.searchsorted(at, recalls, side='left')
            position = position[position < len(of_row)]
            result[row, threshold] = of_row[position].sum() / len(recalls)
    result[num_objects == 0] = np.nan
    return result


def right_and_total(matches: ClassMatches, num_images: int) -> np.ndarray:
    """Return how many detections of a class are right, how many there are, and how many objects.

    A detection is right if it covers, with an IoU of at least 0.5, an object that no better one covers;
    those on crowds do not count.

    Args:
        matches: The detections.
        num_images: Number of images.

    Returns:
        (3, N), for each image.
    """
    counted = ~matches.ignored[0]
    right = matches.matched[0] & counted
    counts = [np.bincount(matches.image[kind], minlength=num_images) for kind in (right, counted)]
    return np.stack([*counts, matches.num_objects]).astype(np.float64)


def ratios(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return 'precision' and 'recall' of (..., 3) counts of :func:`right_and_total`; NaN without any."""
    right, total, objects = np.moveaxis(counts, -1, 0)
    with np.errstate(divide='ignore', invalid='ignore'):
        return {'precision': right / total, 'recall': right / objects}


def precision_intervals(evaluation: Any, resamples: int, seed: int) -> dict[str, Any]:
    """Return the 95 % intervals of 'ap', 'ap50', 'precision' and 'recall', and 'class_ap' per category."""
    matches = class_matches(evaluation)
    images = len(evaluation.params.imgIds)
    counted = np.sum([right_and_total(each, images) for each in matches], axis=0)
    recalls = evaluation.params.recThrs

    def scores(counts: np.ndarray) -> dict[str, np.ndarray]:
        per_class = np.stack([resampled_precision(each, counts, recalls) for each in matches], axis=1)
        known = ~np.isnan(per_class[..., 0])
        number = np.maximum(known.sum(1), 1)
        total = np.where(known[..., None], per_class, 0).sum(1) / number[:, None]
        total[known.sum(1) == 0] = np.nan
        results = {'ap': total.mean(1), 'ap50': total[:, 0], 'class_ap': per_class.mean(2)}
        return {**results, **ratios(counts @ counted.T)}

    return bootstrap_intervals(scores, len(evaluation.params.imgIds), resamples, seed)
