"""Predictions of a folder of images as labels in any format, by a run that continues where it stopped."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from mmssl.apis.output_folder import check_settings, file_identity, locked, save_settings, waiting
from mmssl.apis.predict_calibration import (
    MeasuredThreshold,
    calibrate,
    calibration_jobs,
    calibration_truth,
)
from mmssl.apis.predict_files import Job, plan, read_failure, read_image_labels, save_image_root
from mmssl.apis.predict_models import (
    IGNORE_INDEX,
    Predictor,
    Recipe,
    Thresholds,
    objects_of_maps,
)
from mmssl.apis.predict_options import RunOptions
from mmssl.data.label_formats import WRITABLE, LabelSet, check_class_names, write_labels
from mmssl.errors import UserError
from mmssl.hints import nearest

COMMAND = 'predict'
# formats that hold classes of whole images
CLASS_FORMATS = ('label-studio', 'cvat')


class Predictions(NamedTuple):
    """What :func:`predict` has written.

    Attributes:
        labels: The labels, as they are in the files.
        predicted: Number of images that this run has predicted.
        skipped: Number of images that were predicted by earlier runs or other processes.
        unreadable: Why images could not be read, a line each.
        losses: What the format cannot hold, a sentence each.
        thresholds: The thresholds, those of ``calibrate`` if it was given.
        pending: Number of images that other processes have not finished; the last one writes the labels.
        calibration: What ``calibrate`` has measured, by class; None without it.
    """

    labels: LabelSet
    predicted: int
    skipped: int
    unreadable: list[str]
    losses: list[str]
    thresholds: Thresholds
    pending: int = 0
    calibration: dict[str, MeasuredThreshold] | None = None


def predict(
    config: Any,
    checkpoint: str | os.PathLike | None,
    images: str | os.PathLike | Iterable[str | os.PathLike],
    out: str | os.PathLike,
    format: str = 'coco',
    threshold: float | Thresholds | None = None,
    **options: Any,
) -> Predictions:
    """Predict images with a classifier, detector or segmentor, and write labels.

    The predictions of each image go to a file in ``out/.predict`` as soon as they are made; at the end all
    of them are written in the format. A run that was interrupted, even by SIGKILL, continues with the images
    that have no file; another format or threshold needs no new predictions. Several processes, each with its
    ``rank``, take shares of the images, and the last to finish writes the labels. They need no connection,
    but a common file system.

    Args:
        config: A name of :func:`mmssl.apis.list_models`, a path, or a ``mmengine.Config``.
        checkpoint: Weights of the model; random if None.
        images: A folder, an image, a list file (.txt) with a path per line, an archive, shards, a table, a
            pattern or a URL of images, a video, whose frames are written to ``out/images``, or several of
            these.
        out: Output folder.
        format: One of :data:`mmssl.data.label_formats.WRITABLE`; classifiers need 'label-studio' or 'cvat'.
        threshold: Lowest score of the boxes, or classes of images, that are written, 0.3 if None;
            :class:`mmssl.apis.predict_models.Thresholds` for classes of their own. Pixels whose class has a
            lower probability are ignored; of segmentors, None keeps all.
        **options: The attributes of :class:`mmssl.apis.predict_options.RunOptions`.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The checkpoint, the format or a threshold does not fit the model, or ``out`` was started
            with another model.
        OSError: Another run writes into ``out``.

    Examples:
        >>> from mmssl.apis import predict
        >>> done = predict('work_dirs/cells/config.py', 'iter_300.pth', 'new/', 'out/', 'yolo', workers=2)
        >>> done.labels.num_objects
    """
    run = RunOptions(**options)
    thresholds = threshold if isinstance(threshold, Thresholds) else Thresholds(threshold)
    out = Path(out)
    if format not in WRITABLE:
        hint = nearest(format, WRITABLE) or f'; one of {", ".join(WRITABLE)}'
        raise ValueError(f'format {format!r} cannot be written{hint}')
    if run.calibrate and thresholds.is_given:
        raise UserError('--threshold and --calibrate both set the thresholds; give one of them')
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f'--out {out} is a file; name a folder')
    recipe = run.recipe(config, checkpoint, thresholds.is_given)
    settings = _settings(recipe)
    check_settings(out, COMMAND, settings)
    predictor = Predictor(recipe)
    thresholds = thresholds.keeping(run.keep_uncertain)
    thresholds.check(predictor.task, predictor.classes)
    _check_format(predictor.task, format)
    check_class_names(predictor.classes, format)
    truth = calibration_truth(predictor, run.calibrate, run.precision) if run.calibrate else None
    root, jobs = plan(images, out, run.every)
    _check_out(out, root, format)
    measured = calibration_jobs(truth, out) if truth else []
    with locked(out, COMMAND, run.part):
        save_settings(out, COMMAND, settings)
        first, count = run.part
        own = [job for job in [*measured, *jobs][first - 1 :: count] if not _is_done(job, recipe)]
        unreadable = _predict_images(predictor, own, run)
        predicted = len([job for job in own if job in set(jobs)]) - len(unreadable)
        with waiting(out, COMMAND):
            missing = [job for job in [*measured, *jobs] if not _is_done(job, recipe)]
            failures = {job: read_failure(job) for job in missing}
            pending = sum(reason is None for reason in failures.values())
            skipped = len(jobs) - predicted - len(missing)
            if pending:
                empty = LabelSet(root, 'coco', predictor.classes, [])
                return Predictions(empty, predicted, skipped, unreadable, [], thresholds, pending)
            calibration = calibrate(truth, measured, run.precision) if truth else None
            if calibration:
                per_class = {name: each.threshold for name, each in calibration.items()}
                thresholds = thresholds.measured(per_class)
            labels = _collect(predictor, root, jobs, thresholds)
            if predictor.task == 'semantic' and format != 'png':
                labels = objects_of_maps(labels)
            _check_masks(labels, format)
            losses = write_labels(labels, out, format)
            save_image_root(out, root)
    reasons = [reason for reason in failures.values() if reason]
    return Predictions(labels, predicted, skipped, reasons, losses, thresholds, 0, calibration)


def _is_done(job: Job, recipe: Recipe) -> bool:
    return read_image_labels(job, recipe.with_confidence) is not None


def _settings(recipe: Recipe) -> dict[str, Any]:
    """Return what the files of all runs into a folder must share: the model, not thresholds or the format."""
    from mmssl.apis.models import read_config

    cfg, entry = read_config(recipe.config)
    content = json.dumps([cfg.to_dict(), recipe.options], sort_keys=True, default=str)
    identity = dict(checkpoint='random')
    if recipe.checkpoint is not None:
        identity = {**file_identity(recipe.checkpoint), 'checkpoint_digest': _file_digest(recipe.checkpoint)}
    tiles = {} if recipe.tiling is None else dict(tile=recipe.tiling.size, overlap=recipe.tiling.overlap)
    return dict(config=entry.name, config_digest=_digest(content.encode()), **identity, **tiles)


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _file_digest(path: str) -> str:
    """Return a digest of a file: retrained weights have the same name and size."""
    if not os.path.isfile(path):
        return ''
    digest = hashlib.blake2b(digest_size=8)
    with open(path, 'rb') as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _check_out(out: Path, root: str, format: str) -> None:
    if format == 'png' and out.resolve().is_relative_to(Path(root).resolve()):
        raise UserError(
            f'--out {out} is inside the folder of images, where masks would be taken for images; name '
            'another folder'
        )


def _check_format(task: str, format: str) -> None:
    if task == 'classify' and format not in CLASS_FORMATS:
        raise UserError(
            f'--to {format} holds no classes of whole images, which the model predicts; '
            f'use {" or ".join(CLASS_FORMATS)}'
        )


def _check_masks(labels: LabelSet, format: str) -> None:
    if format == 'png' and labels.num_masks < labels.num_objects:
        raise UserError(
            'the model predicts boxes without masks, of which no label maps can be made; use another format '
            'than png (the same command goes on from the predictions)'
        )


def _predict_images(predictor: Predictor, pending: list[Job], run: RunOptions) -> list[str]:
    """Predict images with a progress line; return why some could not be read."""
    from tqdm import tqdm

    from mmssl.apis.processes import run_in_processes

    results: Iterable = map(predictor, pending)
    if run.workers > 1 and len(pending) > 1:
        results = run_in_processes(predictor.recipe, pending, min(run.workers, len(pending)))
    unreadable = []
    with tqdm(total=len(pending), desc='predicting', unit='image', disable=not run.progress) as bar:
        for _, reason in results:
            bar.update()
            if reason:
                unreadable.append(reason)
    return unreadable


def _collect(predictor: Predictor, root: str, jobs: list[Job], thresholds: Thresholds) -> LabelSet:
    """Return the labels of all images that could be read."""
    images = []
    for job in jobs:
        image = read_image_labels(job)
        if image is None:
            continue
        image = thresholds.apply(image, predictor.classes)
        if image.mask_file and thresholds.is_given:
            image.mask_file = thresholds.apply_to_pixels(job, predictor.classes)
        images.append(image)
    if predictor.task != 'semantic':
        return LabelSet(root, 'coco', predictor.classes, images, image_root=root)
    label_map: dict = {index: index for index in range(len(predictor.classes))}
    label_map[IGNORE_INDEX] = None
    return LabelSet(root, 'png', predictor.classes, images, image_root=root, label_map=label_map)
