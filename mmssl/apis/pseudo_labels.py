"""Predictions as labels of images that have none (self-training, https://arxiv.org/abs/2005.04757)."""

import os
from dataclasses import replace
from pathlib import Path

from mmssl.apis.predict_files import read_image_root
from mmssl.data.label_formats import LabelSet, Split, map_classes, read_labels
from mmssl.data.label_formats.records import ImageLabels, sort_and_name
from mmssl.errors import LabelError


def read_pseudo_labels(path: str | os.PathLike, task: str, labels: LabelSet) -> LabelSet:
    """Read predictions as labels to train on.

    What ``mmssl predict`` has left out is not there; what it has marked is never trained on: boxes below the
    threshold, which ``--keep-uncertain`` writes as crowds, and improbable pixels. Images that have labels
    already, also for validation, are left out, and so are those without a class.

    Args:
        path: Folder or file of the predictions. The images are those that were predicted, or lie below the
            folder.
        task: 'classify', 'detect', 'instance' or 'semantic'.
        labels: The labels, whose classes the predictions get.

    Returns:
        The predictions, with the classes of ``labels``.

    Raises:
        FileNotFoundError: There is no such file.
        LabelError: There is nothing to train on, or a class that ``labels`` do not have.
    """
    folder = Path(path) if os.path.isdir(path) else Path(path).absolute().parent
    root = read_image_root(folder)
    images = [root] if root and os.path.isdir(root) else []
    predictions = read_labels(path, task, images=images)
    if task == 'semantic':
        predictions = _with_map_classes(predictions, labels)
    else:
        predictions = _with_classes(predictions, labels)
    labelled = {os.path.realpath(image.path) for image in labels.images if image.path}
    new = [image for image in predictions.images if os.path.realpath(image.path) not in labelled]
    used = [image for image in new if task != 'classify' or image.label is not None]
    if not used:
        raise LabelError(
            f'adds no image: of {len(predictions)}, {len(predictions) - len(new)} have labels already', path
        )
    if task == 'semantic':  # no name of an image that has labels
        used = [replace(image, name=f'pseudo/{image.name}') for image in used]
    notes = [f'{len(used)} images with predictions as labels, from {path}']
    return replace(predictions, images=used, notes=notes)


def join_pseudo_labels(labels: LabelSet, split: Split, pseudo: LabelSet) -> tuple[LabelSet, Split]:
    """Add predictions to the training part; all images are named below the folder that holds all of them.

    Args:
        labels: All labels.
        split: Their parts.
        pseudo: The predictions, with the same classes.

    Returns:
        All labels, and their parts.
    """
    train, val, others = (
        [replace(image) for image in part.images] for part in (split.train, split.val, pseudo)
    )
    root = sort_and_name([*train, *val, *others])
    train = sorted([*train, *others], key=lambda image: image.name)
    notes = [*labels.notes, *pseudo.notes]
    everything = replace(labels, images=[*train, *val], image_root=root, notes=notes)
    parts = replace(everything, images=train), replace(everything, images=val)
    return everything, Split(parts[0], parts[1], _rule(split, pseudo))


def with_pseudo_images(split: Split, pseudo: LabelSet) -> Split:
    """Return the parts with the images of predictions in the training part."""
    train = replace(split.train, images=[*split.train.images, *pseudo.images])
    return Split(train, split.val, _rule(split, pseudo))


def _rule(split: Split, pseudo: LabelSet) -> str:
    return f'{split.rule}; {len(pseudo)} of the training images with predictions as labels'


def _with_classes(predictions: LabelSet, labels: LabelSet) -> LabelSet:
    """Return predictions whose labels are indices of the classes of the labels."""

    def index_of(label: int, image: ImageLabels) -> int:
        name = predictions.classes[label]
        if name not in labels.classes:
            raise _unknown(name, labels.classes, image.source or predictions.root)
        return labels.classes.index(name)

    images = []
    for image in predictions.images:
        objects = [replace(each, label=index_of(each.label, image)) for each in image.objects]
        label = None if image.label is None else index_of(image.label, image)
        images.append(replace(image, objects=objects, label=label))
    return replace(predictions, classes=labels.classes, images=images)


def _with_map_classes(predictions: LabelSet, labels: LabelSet) -> LabelSet:
    """Return label maps, or masks, that mean the classes of the label maps of the labels."""
    classes = map_classes(labels)
    if predictions.format != 'png':
        predictions = _with_classes(predictions, replace(labels, classes=classes[labels.format != 'png' :]))
        if map_classes(predictions) != classes:
            raise LabelError(
                'holds masks, the labels are label maps; predict with --to png', predictions.root
            )
        return predictions
    for name in predictions.classes:
        if name not in classes:
            raise _unknown(name, classes, predictions.root)
    label_map = {
        value: None if label is None else classes.index(predictions.classes[label])
        for value, label in predictions.label_map.items()
    }
    return replace(predictions, classes=classes, label_map=label_map)


def _unknown(name: str, classes: list[str], source: str) -> LabelError:
    known = ', '.join(classes[:8])
    return LabelError(f'predicts the class {name!r}, which the labels do not have ({known})', source)
