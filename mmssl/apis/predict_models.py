"""Predictions of any classifier, detector or segmentor as labels of an image."""

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from mmssl.apis.predict_files import Job, write_image_labels
from mmssl.data.label_formats.convert import save_png
from mmssl.data.label_formats.files import image_size
from mmssl.data.label_formats.records import ImageLabels, LabelSet, ObjectLabel
from mmssl.data.label_formats.shapes import encode, rle_box
from mmssl.data.label_values import BINARY_CLASSES
from mmssl.errors import BadImageError, LabelError, UserError
from mmssl.hints import nearest

IGNORE_INDEX = 255
DEFAULT_THRESHOLD = 0.3


class Recipe(NamedTuple):
    """A model and how to load it; can be sent to other processes.

    Attributes:
        config: Name, path or ``mmengine.Config`` of the model.
        checkpoint: File with its weights; None for random ones.
        options: ``KEY=VALUE`` overrides of the config.
        trust: Load a checkpoint that contains pickled code.
        device: Device of the model.
    """

    config: Any
    checkpoint: str | None
    options: tuple[str, ...]
    trust: bool
    device: str

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
        self.classes = list(self.infer.classes)

    def __call__(self, job: Job) -> tuple[int, str | None]:
        """Return the number of predicted labels, and why the image could not be read (else None)."""
        try:
            image = self.labels_of(job)
        except (BadImageError, LabelError, OSError) as error:
            return 0, str(error)
        write_image_labels(image, job)
        return len(image.objects) or 1, None

    def labels_of(self, job: Job) -> ImageLabels:
        """Return the labels of an image; the label map of a segmentor is written beside the job's file."""
        width, height = image_size(str(job.image))
        (result,) = self.infer.stream([job.image], progress=False)
        image = ImageLabels(job.name, os.path.abspath(job.image), width, height)
        if self.task == 'classify':
            image.label, image.score = result['pred_label'], result['pred_score']
        elif self.task == 'semantic':
            image.mask_file = os.path.abspath(job.file.with_suffix('.png'))
            save_png(result['pred_sem_seg'], image.mask_file)
        else:
            image.objects = _objects(result, width, height)
        return image


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
        left, top, right, bottom = map(float, box)
        if right > left and bottom > top:
            objects.append(ObjectLabel(int(label), (left, top, right, bottom), rle=mask, score=float(score)))
    return objects


class Thresholds:
    """Lowest scores of the predictions to write.

    Args:
        default: For all classes without one of their own; 0.3 if None.
        per_class: By the name of the class.
    """

    def __init__(self, default: float | None = None, per_class: Mapping[str, float] | None = None):
        self.default = DEFAULT_THRESHOLD if default is None else default
        self.per_class = dict(per_class or {})
        self.is_given = default is not None or bool(self.per_class)
        for value in (self.default, *self.per_class.values()):
            if not (0 <= value <= 1 or value == math.inf):
                raise ValueError(f'a threshold of {value} is no score; give a number from 0 to 1')

    def check(self, task: str, classes: list[str]) -> None:
        """Raise ValueError if the task has no scores, or a name is not one of the classes."""
        if task == 'semantic' and self.is_given:
            raise ValueError('--threshold: the classes of pixels have no scores; leave it out')
        for name in self.per_class:
            if name not in classes:
                hint = nearest(name, classes) or f'; the model predicts {", ".join(classes[:8])}'
                raise ValueError(f'--threshold {name}=...: the model has no class {name!r}{hint}')

    def of(self, name: str) -> float:
        """Return the threshold of a class."""
        return self.per_class.get(name, self.default)

    def apply(self, image: ImageLabels, classes: list[str]) -> ImageLabels:
        """Return the labels of an image whose scores reach the thresholds."""

        def reaches(label: int, score: float | None) -> bool:
            return score is None or score >= self.of(classes[label])

        objects = [each for each in image.objects if reaches(each.label, each.score)]
        if image.label is not None and not reaches(image.label, image.score):
            return replace(image, objects=objects, label=None, score=None)
        return replace(image, objects=objects)


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
