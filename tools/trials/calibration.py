"""How exactly calibrated thresholds keep their promise, by resampling labelled images.

    mmssl predict CONFIG CHECKPOINT VAL_IMAGES --to coco --out found --threshold 0
    python tools/trials/calibration.py LABELS found/annotations.json --split val

takes the labelled images as the population, draws as many of them with replacement, sets the thresholds on
the draw, and counts the right boxes above them among all the labelled images. The table has the mean of many
draws and their standard deviation: for the lowest score at which the measured share is high enough, for that
of a logistic curve alone, and for both, which is what ``mmssl predict --calibrate`` does. It needs no
test part.
"""

import argparse
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from mmssl.apis.predict_calibration import (
    class_outcomes,
    curve_threshold_of,
    smooth_threshold_of,
    threshold_of,
)
from mmssl.data.label_formats import read_labels
from mmssl.data.label_formats.coco import coco_content
from mmssl.data.label_formats.matching import match_images, part_of
from mmssl.evaluation.average_precision import evaluate_coco

METHODS: dict[str, Callable[[np.ndarray, np.ndarray, float], float]] = {
    'measured share': threshold_of,
    'logistic curve': curve_threshold_of,
    'both (--calibrate)': smooth_threshold_of,
}
# of the promised share, which counts as kept
BAND = 0.02


def outcomes(labels: str, predictions: str, split: str | None) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """Return for each class and image the scores of its boxes, and whether each is right."""
    truth = part_of(read_labels(labels, 'detect'), split)
    predicted = read_labels(predictions, 'detect', sizes={})
    images = []
    for image, other in match_images(truth, predicted):
        assert other is not None
        objects = [
            replace(each, label=truth.classes.index(predicted.classes[each.label])) for each in other.objects
        ]
        images.append(replace(image, objects=objects))
    annotations = coco_content(replace(truth, images=images))['annotations']
    evaluation = evaluate_coco(coco_content(truth), annotations, 'bbox')
    classes = []
    for index in range(len(truth.classes)):
        scores, right, owners = class_outcomes(evaluation, index)
        classes.append([(scores[owners == image], right[owners == image]) for image in range(len(images))])
    return classes


def share_of_draw(classes: list, draw: np.ndarray, method: Callable, precision: float) -> tuple[int, int]:
    """Return the right boxes and all boxes of all images above the thresholds of the drawn images."""
    right_boxes = boxes = 0
    for images in classes:
        scores, right = (np.concatenate(parts) for parts in zip(*images, strict=True))
        drawn = [np.concatenate(parts) for parts in zip(*(images[index] for index in draw), strict=True)]
        written = scores >= method(*drawn, precision)
        right_boxes += int(right[written].sum())
        boxes += int(written.sum())
    return right_boxes, boxes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('labels')
    parser.add_argument('predictions')
    parser.add_argument('--split')
    parser.add_argument('--precision', type=float, nargs='+', default=[0.9, 0.95])
    parser.add_argument('--draws', type=int, default=200)
    args = parser.parse_args()
    classes = outcomes(args.labels, args.predictions, args.split)
    generator = np.random.default_rng(0)
    num_images = len(classes[0])
    draws = [generator.integers(0, num_images, num_images) for _ in range(args.draws)]
    print(f'{num_images} images, {args.draws} draws\n')
    print(f'| promised | thresholds by | right | within {BAND:.0%} | boxes |\n|---|---|---|---|---|')
    for precision in args.precision:
        for name, method in METHODS.items():
            counts = [share_of_draw(classes, draw, method, precision) for draw in draws]
            shares = np.array([right / boxes if boxes else math.nan for right, boxes in counts])
            within = np.mean(np.abs(shares - precision) <= BAND)
            boxes = np.mean([boxes for _, boxes in counts])
            print(
                f'| {precision:.0%} | {name} | {np.nanmean(shares):.1%} ± {np.nanstd(shares):.1%} | '
                f'{within:.0%} of draws | {boxes:.0f} |'
            )


if __name__ == '__main__':
    main()
