"""Masks of a folder of images: automatic, from prompts, or confident ones with the rest left to people."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mmssl.apis.annotate_workers import Annotator, Recipe
from mmssl.apis.mask_confidence import confident_threshold, split_by_confidence
from mmssl.apis.mask_files import read_masks, uncertain_file
from mmssl.apis.output_folder import check_settings, file_identity, locked, save_settings, waiting
from mmssl.apis.processes import run_in_processes
from mmssl.apis.sam import check_checkpoint, load_sam
from mmssl.checkpoint import write_json, write_text
from mmssl.data import annotations
from mmssl.data.annotations import Job
from mmssl.data.label_formats import LabelSet, read_labels
from mmssl.data.label_formats.coco import coco_content
from mmssl.data.label_formats.records import ImageLabels
from mmssl.errors import LabelError

COMMAND = 'annotate'
# folders inside the output folder
CALIBRATION_FOLDER = '.calibration'
FAILURES_FOLDER = '.failures'
MIN_IOU = 0.75
PRECISION = 0.95


@dataclass
class AnnotateOptions:
    """What is annotated, by how many processes, and what is written beside the file of each image.

    Attributes:
        names: Names of the images below the folder; None for all of them.
        coco: COCO file to write when all images are done; None for none.
        calibrate: Labels with masks on which the confidence of masks is measured; ``coco`` then has the
            confident ones, and ``NAME-uncertain.json`` the others.
        precision: Share of right masks among the confident ones.
        min_iou: IoU with a labelled mask from which a mask is right.
        workers: Number of processes, each with its own model.
        part: (K, N) for the K-th of N parts of the images.
        progress: Show a progress line.
    """

    names: Sequence[str] | None = None
    coco: str | os.PathLike | None = None
    calibrate: str | os.PathLike | None = None
    precision: float = PRECISION
    min_iou: float = MIN_IOU
    workers: int = 1
    part: tuple[int, int] = (1, 1)
    progress: bool = False

    def __post_init__(self):
        if self.calibrate is not None and self.coco is None:
            raise ValueError('--calibrate separates the masks of a COCO file; name it: --coco FILE.json')
        if not 0 < self.precision <= 1:
            raise ValueError(f'--precision {self.precision} must be above 0, and at most 1')
        if not 0 < self.min_iou <= 1:
            raise ValueError(f'--min-iou {self.min_iou} must be above 0, and at most 1')
        if self.coco is not None and Path(self.coco).suffix.lower() != '.json':
            raise ValueError(f'--coco {self.coco}: give a name that ends in .json')


class Annotated(NamedTuple):
    """What :func:`annotate` has done.

    Attributes:
        images: Number of images that this run has annotated.
        masks: Number of their masks.
        skipped: Number of images of this part that were done before.
        unreadable: Why images could not be read, a line each.
        pending: Number of images that are left to other processes; 0 if the COCO file is written.
        labels: The masks of the COCO file; None if none was asked for, or images are pending.
        uncertain: The masks below the threshold; None without ``calibrate``.
        threshold: Confidence from which masks are taken as they are; None without ``calibrate``.
    """

    images: int
    masks: int
    skipped: int
    unreadable: list[str]
    pending: int
    labels: LabelSet | None
    uncertain: LabelSet | None
    threshold: float | None


def annotate(
    images: str | os.PathLike, out: str | os.PathLike, recipe: Recipe, options: AnnotateOptions | None = None
) -> Annotated:
    """Write the masks of the images of a folder, a file in the format of SA-1B for each.

    The same call continues an interrupted one, even by SIGKILL, with the images that have no file. Several
    processes, each with its ``part``, share the images; the last to finish writes the COCO file.

    Args:
        images: Folder of images, searched with its subfolders.
        out: Folder for the files, with the same subfolders; may be ``images``.
        recipe: The model, its prompts and its classes.
        options: What else is to be done; the defaults if None.

    Raises:
        FileNotFoundError: The folder or the checkpoint does not exist.
        ValueError: There are no images, the checkpoint does not fit, or ``out`` was started with other
            settings.
        OSError: Another run writes into ``out``.
    """
    options = options or AnnotateOptions()
    out = Path(out)
    check_checkpoint(recipe.checkpoint)
    if options.calibrate is not None and recipe.prompts is not None:
        raise ValueError(
            '--calibrate measures automatic masks, and there are --prompts; leave out one of them'
        )
    everything = _jobs(images, out, options.names)
    truth = None if options.calibrate is None else read_labels(options.calibrate, 'instance')
    measured = [] if truth is None else _calibration_jobs(truth, out)
    index, count = options.part
    own = [job for job in everything if annotations.image_id(job.name) % count == index - 1]
    own += measured[index - 1 :: count]
    annotations.coco_masks()
    check_settings(out, COMMAND, settings_of(recipe))
    # load the model before anything is written; with several workers, each process loads its own later
    annotator = Annotator(recipe) if options.workers == 1 else None
    if annotator is None:
        load_sam(recipe.model, recipe.checkpoint, recipe.options, recipe.trust)
    with locked(out, COMMAND, options.part):
        pending = [job for job in own if not annotations.is_done(job.file)]
        save_settings(out, COMMAND, settings_of(recipe))
        results: Iterable = map(annotator, pending) if annotator is not None else ()
        if annotator is None:
            results = run_in_processes(recipe, pending, min(options.workers, len(pending)))
        done = _collect(results, len(pending), out, options.progress)
        done = done._replace(skipped=len(own) - len(pending))
        if options.coco is None:
            return done
        with waiting(out, COMMAND):
            missing = [job for job in [*everything, *measured] if not annotations.is_done(job.file)]
            failures = _failures(out)
            left = [job for job in missing if job.name not in failures]
            if left:
                return done._replace(pending=len(left))
            return _write_coco(done, everything, measured, truth, images, recipe, options)


def settings_of(recipe: Recipe) -> dict:
    """Return the settings that all runs into a folder share."""
    settings = dict(
        model=recipe.model,
        **file_identity(recipe.checkpoint),
        cfg_options=list(recipe.options),
        **recipe.settings,
    )
    if recipe.pictures:
        bands, value_range, page, _ = recipe.pictures
        settings.update(
            bands=list(bands) if bands else None,
            value_range=list(value_range) if isinstance(value_range, tuple) else value_range,
            page=page,
        )
    if recipe.prompts is not None:
        settings['prompts'] = _digest(repr(sorted(recipe.prompts.items())).encode())
    if recipe.classes is not None:
        classes = recipe.classes
        settings['classes'] = [*classes.names, classes.method, classes.source]
    return settings


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _jobs(images: str | os.PathLike, out: Path, names: Sequence[str] | None) -> list[Job]:
    if names is None:
        return annotations.plan(Path(images), out)
    root = Path(images)
    return [Job(root / name, name, (out / name).with_suffix('.json')) for name in names]


def _calibration_jobs(truth: LabelSet, out: Path) -> list[Job]:
    folder = out / CALIBRATION_FOLDER
    return [
        Job(Path(image.path), image.path, folder / f'{annotations.image_id(image.path)}.json')
        for image in truth.images
        if image.path
    ]


def _collect(results: Iterable, total: int, out: Path, shown: bool) -> Annotated:
    """Consume the results with a progress line."""
    from tqdm import tqdm

    images = masks = 0
    unreadable = []
    with tqdm(total=total, desc='annotating', unit='image', disable=not shown) as bar:
        for job, count, reason in results:
            bar.update()
            if reason:
                unreadable.append(reason)
                _failure_file(out, job.name).parent.mkdir(exist_ok=True)
                write_text(_failure_file(out, job.name), job.name)
            else:
                images += 1
                masks += count
    return Annotated(images, masks, 0, unreadable, 0, None, None, None)


def _failure_file(out: Path, name: str) -> Path:
    return out / FAILURES_FOLDER / f'{annotations.image_id(name)}.txt'


def _failures(out: Path) -> set[str]:
    """Return the names of the images that could not be read, by any process."""
    return {file.read_text(encoding='utf-8') for file in (out / FAILURES_FOLDER).glob('*.txt')}


def _write_coco(
    done: Annotated,
    jobs: Sequence[Job],
    measured: Sequence[Job],
    truth: LabelSet | None,
    root: str | os.PathLike,
    recipe: Recipe,
    options: AnnotateOptions,
) -> Annotated:
    """Write the COCO file of all images, and that of the uncertain masks."""
    assert options.coco is not None
    file = Path(options.coco)
    classes = recipe.classes.names if recipe.classes else ()
    labels = read_masks(jobs, root, classes)
    threshold = uncertain = None
    if truth is not None:
        threshold = _threshold(measured, truth, classes, options)
        labels, uncertain = split_by_confidence(labels, threshold)
        write_json(uncertain_file(file), coco_content(uncertain), indent=None)
    write_json(file, coco_content(labels), indent=None)
    return done._replace(labels=labels, uncertain=uncertain, threshold=threshold)


def _threshold(
    measured: Sequence[Job], truth: LabelSet, classes: Sequence[str], options: AnnotateOptions
) -> float:
    predicted = {image.path: image for image in read_masks(measured, '/', classes).images}
    labelled = [image for image in truth.images if os.path.abspath(image.path) in predicted]
    masks = [predicted[os.path.abspath(image.path)] for image in labelled]
    labelled = [_with_classes(image, truth, classes) for image in labelled] if classes else labelled
    return confident_threshold(masks, labelled, options.precision, options.min_iou, bool(classes))


def _with_classes(image: ImageLabels, truth: LabelSet, classes: Sequence[str]) -> ImageLabels:
    """Return the labels of an image as indices of other classes."""
    unknown = [name for name in truth.classes if name not in classes]
    if unknown:
        raise LabelError(f'has the class {unknown[0]!r}, of which --classes has no example', truth.root)
    indices = [classes.index(name) for name in truth.classes]
    return replace(image, objects=[replace(each, label=indices[each.label]) for each in image.objects])
