"""Predictions of any classifier, detector or segmentor as labels of an image."""

import copy
import math
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mmssl.apis.predict_files import Job, write_failure, write_image_labels
from mmssl.apis.predict_pixels import PixelScores
from mmssl.apis.predict_tiles import Tiling, detect_in_tiles, segment_in_tiles
from mmssl.data.images import read_rgb
from mmssl.data.label_formats.convert import save_png
from mmssl.data.label_formats.files import image_size
from mmssl.data.label_formats.records import ImageLabels, LabelSet, ObjectLabel
from mmssl.data.label_formats.shapes import encode, rle_box
from mmssl.data.label_values import BINARY_CLASSES
from mmssl.errors import BadImageError, LabelError, UserError
from mmssl.hints import nearest

IGNORE_INDEX = 255
DEFAULT_THRESHOLD = 0.3
# score from which predictions below the threshold are worth a look
UNCERTAIN = 0.1
# of the positions of boxes, so that every format holds them exactly
DECIMALS = 4


class Recipe(NamedTuple):
    """A model and how to predict with it; can be sent to other processes.

    Attributes:
        config: Name, path or ``mmengine.Config`` of the model.
        checkpoint: File with its weights; None for random ones.
        options: ``KEY=VALUE`` overrides of the config.
        trust: Load a checkpoint that contains pickled code.
        device: Device of the model.
        tiling: Tiles of large images; None predicts images whole.
        with_confidence: Write the probabilities of the classes of pixels, too.
    """

    config: Any
    checkpoint: str | None
    options: tuple[str, ...]
    trust: bool
    device: str
    tiling: Tiling | None = None
    with_confidence: bool = False

    def build(self, device: str) -> 'Predictor':
        """Return the predictor of a process, with its model on a device."""
        return Predictor(self._replace(device=device))


class Predictor:
    """Predict the labels of an image and write them to its file.

    Args:
        recipe: The model.

    Attributes:
        task: 'classify', 'detect' (boxes, with masks if the model has them) or 'semantic'.
        classes: Names of the classes.
    """

    def __init__(self, recipe: Recipe):
        from mmssl.apis.models import read_config
        from mmssl.config.load import load_config

        cfg, entry = read_config(recipe.config)
        if recipe.options:
            cfg = load_config(str(entry.path), list(recipe.options))
        self.recipe = recipe
        self.infer = _inferencer(cfg, recipe)
        self.task = _TASKS[type(self.infer).__name__]
        if self.task == 'classify' and not self.infer.is_classifier:
            raise UserError(f'{entry.name} has no classifier; `mmssl finetune` adds one and trains it')
        if self.task == 'classify' and recipe.tiling:
            raise UserError('--tile is for boxes and label maps; a class is one of the whole image')
        self.classes = list(self.infer.classes)

    def __call__(self, job: Job) -> tuple[int, str | None]:
        """Return the number of predicted labels, and why the image could not be read (else None)."""
        try:
            image = self.labels_of(job)
        except (BadImageError, LabelError, OSError) as error:
            write_failure(str(error), job)
            return 0, str(error)
        write_image_labels(image, job)
        return len(image.objects) or 1, None

    def labels_of(self, job: Job) -> ImageLabels:
        """Return the labels of an image; the label map of a segmentor is written beside the job's file."""
        is_file = os.path.isfile(job.image)
        width, height = image_size(job.image) if is_file else (0, 0)
        tiling = self.recipe.tiling
        in_tiles = bool(tiling and (not is_file or tiling.applies(width, height)))
        pixels = None
        if in_tiles or not is_file:
            pixels = np.ascontiguousarray(read_rgb(job.image)[..., ::-1])
            height, width = pixels.shape[:2]
            in_tiles = bool(tiling and tiling.applies(width, height))
        image = ImageLabels(job.name, job.image if is_file else '', width, height)
        source = Path(job.image) if pixels is None else pixels
        if self.task == 'semantic':
            image.mask_file = os.path.abspath(job.map_file)
            self._write_maps(job, source, tiling if in_tiles else None)
        elif in_tiles:
            assert tiling is not None and pixels is not None  # set together with in_tiles
            image.objects = _objects(detect_in_tiles(pixels, tiling, self._result), width, height)
        elif self.task == 'detect':
            image.objects = _objects(self._result(source), width, height)
        else:
            result = self._result(source)
            image.label, image.score = result['pred_label'], result['pred_score']
        return image

    def _result(self, source: Path | np.ndarray) -> dict[str, Any]:
        (result,) = self.infer.stream([source], progress=False)
        return result

    def _write_maps(self, job: Job, source: Path | np.ndarray, tiling: Tiling | None) -> None:
        """Write the label map of an image, and the probabilities of its classes if they are needed."""
        confidence = None
        if tiling is None and not self.recipe.with_confidence:
            classes = self._result(source)['pred_sem_seg']
        else:
            scores_of = PixelScores(self.infer)
            bands: Any = [scores_of(source)] if tiling is None else []
            if tiling is not None:
                assert isinstance(source, np.ndarray)
                bands = segment_in_tiles(source, tiling, scores_of)
            pairs = [scores_of.classes_and_confidence(band) for band in bands]
            classes, confidence = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        if confidence is not None and self.recipe.with_confidence:
            save_png(confidence, job.confidence_file)
        save_png(classes, job.map_file)


_TASKS = {
    'FeatureInferencer': 'classify',
    'DetectionInferencer': 'detect',
    'SegmentationInferencer': 'semantic',
}


def _inferencer(cfg: Any, recipe: Recipe) -> Any:
    from mmssl import apis

    names = {'mmdet': 'DetectionInferencer', 'mmseg': 'SegmentationInferencer'}
    inferencer = getattr(apis, names.get(cfg.get('default_scope'), 'FeatureInferencer'))
    return inferencer(cfg, recipe.checkpoint, recipe.device, recipe.trust)


def _objects(result: Mapping[str, Any], width: int, height: int) -> list[ObjectLabel]:
    """Return the boxes of a detector that have an area inside the image, best first."""
    objects = []
    limits = np.array([width, height, width, height], np.float32)
    boxes = np.minimum(np.maximum(result['bboxes'], 0), limits)
    masks = result.get('masks') or [None] * len(boxes)
    for box, label, score, mask in zip(boxes, result['labels'], result['scores'], masks, strict=True):
        left, top, right, bottom = (round(float(value), DECIMALS) for value in box)
        if right > left and bottom > top:
            objects.append(ObjectLabel(int(label), (left, top, right, bottom), rle=mask, score=float(score)))
    return objects


class Thresholds:
    """Lowest scores of the predictions to write.

    Args:
        default: For all classes without one of their own; 0.3 if None.
        per_class: By the name of the class.

    Attributes:
        is_given: Whether any was given.
        keep_uncertain: Keep objects with lower scores, from 0.1, as crowds, which are never trained on.
    """

    keep_uncertain = False

    def __init__(self, default: float | None = None, per_class: Mapping[str, float] | None = None):
        self.default = DEFAULT_THRESHOLD if default is None else default
        self.per_class = dict(per_class or {})
        self.is_given = default is not None or bool(self.per_class)
        for value in (self.default, *self.per_class.values()):
            if not (0 <= value <= 1 or value == math.inf):
                raise ValueError(f'a threshold of {value} is no score; give a number from 0 to 1')

    def check(self, task: str, classes: list[str]) -> None:
        """Raise ValueError if a name is not one of the classes, or nothing can be kept as uncertain."""
        if task != 'detect' and self.keep_uncertain:
            raise ValueError(f'--keep-uncertain is for boxes and masks; this model is for {task}')
        for name in self.per_class:
            if name not in classes:
                hint = nearest(name, classes) or f'; the model predicts {", ".join(classes[:8])}'
                raise ValueError(f'--threshold {name}=...: the model has no class {name!r}{hint}')

    def keeping(self, keep_uncertain: bool) -> 'Thresholds':
        """Return the same thresholds with another ``keep_uncertain``."""
        result = copy.copy(self)
        result.keep_uncertain = keep_uncertain
        return result

    def measured(self, per_class: Mapping[str, float]) -> 'Thresholds':
        """Return other thresholds of the classes."""
        return Thresholds(None, per_class).keeping(self.keep_uncertain)

    def of(self, name: str) -> float:
        """Return the threshold of a class."""
        return self.per_class.get(name, self.default)

    def apply(self, image: ImageLabels, classes: list[str]) -> ImageLabels:
        """Return the labels of an image whose scores reach the thresholds."""

        def reaches(label: int, score: float | None) -> bool:
            return score is None or score >= self.of(classes[label])

        objects = []
        for each in image.objects:
            if reaches(each.label, each.score):
                objects.append(each)
            elif self.keep_uncertain and each.score is not None and each.score >= UNCERTAIN:
                objects.append(replace(each, crowd=True))
        if image.label is not None and not reaches(image.label, image.score):
            return replace(image, objects=objects, label=None, score=None)
        return replace(image, objects=objects)

    def apply_to_pixels(self, job: Job, classes: list[str]) -> str:
        """Write a label map without the pixels whose class has a lower probability, and return its path."""
        labels, confidence = (np.array(Image.open(path)) for path in (job.map_file, job.confidence_file))
        lowest = np.array([255 * min(self.of(name), 2) for name in classes])
        labels[confidence < lowest[labels]] = IGNORE_INDEX
        path = job.file.with_suffix('.certain.png')
        save_png(labels, path)
        return str(path.absolute())


def parse_thresholds(texts: list[str]) -> Thresholds:
    """Return the thresholds of ``T`` and ``CLASS=T``.

    Raises:
        ValueError: A text has neither form.
    """
    default = None
    per_class: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.rpartition('=')
        try:
            value = float(number)
        except ValueError:
            raise ValueError(f'--threshold {text} is neither a number nor CLASS=number, as RBC=0.6') from None
        if equals:
            per_class[name] = value
        else:
            default = value
    return Thresholds(default, per_class)


def objects_of_maps(labels: LabelSet) -> LabelSet:
    """Return predicted label maps as objects: in each image one mask per class, without the background."""
    from mmssl.data.label_formats.convert import label_map_of

    first = int(labels.classes[:1] == [BINARY_CLASSES[0]])
    images = []
    for image in labels.images:
        classes = label_map_of(labels, image)
        objects = []
        for label in np.unique(classes):
            if first <= label < len(labels.classes):
                rle = encode(classes == label)
                objects.append(ObjectLabel(int(label) - first, rle_box(rle), rle=rle))
        images.append(replace(image, objects=objects, mask_file=None))
    return replace(labels, format='coco', classes=labels.classes[first:], images=images, label_map={})
