"""A detector that names the masks of the page."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

MIN_SCORE = 0.3


class Detections(NamedTuple):
    """Boxes (N, 4), labels (N,) and scores (N,) of an image, and the names of the classes."""

    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    names: Sequence[str]


Detect = Callable[[np.ndarray], Detections]


def load_detector(config: str, checkpoint: str, device: str, trust: bool = False) -> Detect:
    """Load a detector.

    Args:
        config: Config of mmdet's scope: a path or a shipped name.
        checkpoint: File with its weights.
        device: Device to run on.
        trust: As for :func:`mmssl.checkpoint.load_file`.

    Returns:
        Function from an image (H, W, 3) RGB to its detections.

    Raises:
        ValueError: The checkpoint does not fit.
    """
    from mmdet.apis import inference_detector, init_detector

    from mmssl.apis.loading import load_all_weights
    from mmssl.config.load import load_config

    cfg = load_config(config)
    classes = cfg.test_dataloader.dataset.get('metainfo', {}).get('classes')
    model = init_detector(cfg, None, device=device)
    load_all_weights(model, checkpoint, trust)
    names = list(classes or model.dataset_meta['classes'])

    def detect(image: np.ndarray) -> Detections:
        instances = inference_detector(model, image[..., ::-1].copy()).pred_instances.cpu().numpy()
        instances = instances[instances.scores >= MIN_SCORE]
        return Detections(instances.bboxes, instances.labels, instances.scores, names)

    return detect


def box_ious(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Return the IoU of a box (4,) with boxes (N, 4), as left, top, right, bottom."""
    boxes = np.asarray(boxes, dtype=float).reshape(-1, 4)
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    intersection = (high - low).clip(min=0).prod(1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    union = (box[2:] - box[:2]).prod() + areas - intersection
    return intersection / np.maximum(union, 1e-9)
