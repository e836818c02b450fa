"""The check of one dataset for ``mmssl check-data``."""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mmssl.commands.arguments import progress_hidden
from mmssl.commands.dataset_report import format_report, report_rows
from mmssl.commands.picture_arguments import parse_bands

if TYPE_CHECKING:
    from mmssl.data.checks.findings import Findings
    from mmssl.data.checks.inspector import DatasetInspector
    from mmssl.data.checks.records import ImageRecord

# images per process below which processes do not pay off
MIN_IMAGES_PER_WORKER = 50


@dataclass
class DatasetReport:
    """Result of the check of a dataset.

    Attributes:
        title: Type and place of the dataset.
        text: The report as printed.
        errors: Problems that would break training.
        warnings: Problems that would not.
        facts: Counts and sizes, for JSON.
        unreadable: (path, reason) of the files that cannot be read.
        tiles: Tiles of the contact sheet.
        inspector: The inspector; None if the dataset cannot be created.
    """

    title: str
    text: str
    errors: list[str]
    warnings: list[str]
    facts: dict = field(default_factory=dict)
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    tiles: list = field(default_factory=list)
    inspector: Any = None


def _unread(dataset: Any) -> list[str]:
    """Return the warning about files with endings that an image folder does not read."""
    from mmssl.data.find_images import unread_files

    root = getattr(dataset, 'image_root', '')
    message = unread_files(root, dataset.extensions) if root else None
    return [message] if message else []


def check_dataset(settings: Mapping, model: Mapping, args: argparse.Namespace) -> DatasetReport:
    """Check a dataset.

    Args:
        settings: Settings of the dataset, without wrappers.
        model: Settings of the model, which state the number of classes.
        args: Arguments of the command.
    """
    from mmssl.commands.dataset_samples import sample_tiles
    from mmssl.data.checks.coco import coco_problems
    from mmssl.data.checks.findings import Findings
    from mmssl.data.checks.inspector import DatasetInspector
    from mmssl.data.pictures import settings_of_config

    ann_file = os.path.join(settings.get('data_root') or '', settings.get('ann_file') or '')
    title = _title(settings, ann_file)
    is_coco = ann_file.endswith('.json')
    try:
        inspector = DatasetInspector(settings, model)
    except Exception as error:  # a toolbox's dataset can fail in any way
        masks = str(settings.get('type')).endswith('CocoMasks')
        errors, warnings = coco_problems(ann_file, masks=masks) if is_coco else ([], [])
        if not any(text in str(error) for text in errors):
            errors.append(_creation_error(error, settings, ann_file, bool(args.data)))
        return DatasetReport(title, format_report(title, [], errors, warnings), errors, warnings)
    findings = Findings(inspector, inspect_images(inspector, args))
    errors = list(findings.errors)
    warnings = list(findings.warnings) + _unread(inspector.dataset)
    if is_coco:
        used_images = len(inspector) if inspector.label_type == 'masks' else None
        coco_errors, coco_warnings = coco_problems(
            ann_file,
            used_images,
            inspector.classes if inspector.label_type == 'objects' else (),
            masks=inspector.label_type == 'masks',
        )
        errors += coco_errors
        warnings += coco_warnings
    errors += _color_changes(settings)
    pictures = settings_of_config(inspector.reading, parse_bands(args.bands))
    tiles, pipeline_errors = sample_tiles(findings, args.number, pictures)
    errors += pipeline_errors
    return DatasetReport(
        title=title,
        text=format_report(title, report_rows(findings), errors, warnings),
        errors=errors,
        warnings=warnings,
        facts=_facts(findings),
        unreadable=[(record.path, record.reason) for record in findings.unreadable],
        tiles=tiles,
        inspector=inspector,
    )


def _color_changes(settings: Mapping) -> list[str]:
    from mmssl.data.photometric import refuse_color_changes

    try:
        refuse_color_changes(dict(dataset=settings))
    except ValueError as error:
        return [str(error)]
    return []


def _title(settings: Mapping, ann_file: str) -> str:
    path = ann_file
    if not settings.get('ann_file'):
        prefix = settings.get('data_prefix')
        if isinstance(prefix, dict):
            prefix = prefix.get('img_path') or prefix.get('img')
        path = os.path.join(ann_file, prefix or '')
    return f'{settings.get("type")}: {path}'.rstrip(': ')


def _creation_error(error: Exception, settings: Mapping, ann_file: str, has_data: bool) -> str:
    from mmssl.config.error_text import explained_error

    says_it_all = isinstance(error, (OSError, AssertionError)) and str(error)
    reason = str(error) if says_it_all else str(explained_error(error))
    missing = _missing_path(settings, ann_file)
    hint = ''
    if (missing or isinstance(error, FileNotFoundError)) and not has_data:
        hint = '; --data DIR points the config at your own folder'
    return f'the data set cannot be made: {missing or reason}{hint}'


def _missing_path(settings: Mapping, ann_file: str) -> str:
    """Return which path of a dataset does not exist; the toolboxes' messages differ, and some are empty."""
    from mmssl.hints import nearest_path

    root = str(settings.get('data_root') or '.')
    if '://' in root or '://' in ann_file:
        return ''
    if settings.get('ann_file') and not os.path.exists(ann_file):
        return f'{ann_file} does not exist{nearest_path(ann_file)}'
    return '' if os.path.exists(root) else f'{root} does not exist{nearest_path(root)}'


def _facts(findings: 'Findings') -> dict:
    inspector = findings.inspector
    sizes = findings.sizes.tolist()
    objects = None
    if inspector.label_type in ('objects', 'masks'):
        objects = sum(record.objects or 0 for record in findings.records)
    return dict(
        kind=inspector.label_type,
        images=len(inspector),
        looked_at=len(findings.records),
        without_labels=findings.unlabeled,
        objects=objects,
        sizes=dict(least=sizes[0], median=sizes[len(sizes) // 2], largest=sizes[-1]) if sizes else None,
        channels=_channels(findings),
        classes={str(name): findings.counts[index] for index, name in enumerate(inspector.classes)},
    )


def _channels(findings: 'Findings') -> list[dict] | None:
    bands = findings.bands
    if bands is None:
        return None
    return [
        dict(
            range=bands.edges[channel].tolist(),
            histogram=bands.histogram[channel].tolist(),
            values=[None if value != value else value for value in bands.extremes[:, channel].tolist()],
            beyond=int(bands.beyond[channel]),
            no_data=int(bands.missing[channel]),
            pixels=bands.total,
        )
        for channel in range(len(bands.edges))
    ]


def inspect_images(inspector: 'DatasetInspector', args: argparse.Namespace) -> 'list[ImageRecord]':
    """Inspect the images, in several processes and with a progress line."""
    from tqdm import tqdm

    total = len(inspector)
    indices: Sequence[int] = range(total)
    if args.max_images and args.max_images < total:
        indices = [number * total // args.max_images for number in range(args.max_images)]
    bar = tqdm(
        total=len(indices),
        desc='reading',
        unit='image',
        file=sys.stderr,
        disable=progress_hidden(args),
        dynamic_ncols=True,
        leave=False,
    )
    workers = min(args.workers, len(indices) // MIN_IMAGES_PER_WORKER)
    records = []
    with bar:
        if workers < 2 or 'fork' not in multiprocessing.get_all_start_methods():
            for index in indices:
                records.append(inspector(index))
                bar.update()
            return records
        global _inspector
        _inspector = inspector
        with multiprocessing.get_context('fork').Pool(workers, _limit_threads) as pool:
            for record in pool.imap(_inspect, indices, chunksize=8):
                records.append(record)
                bar.update()
    return records


_inspector: 'DatasetInspector | None' = None


def _limit_threads() -> None:
    import cv2

    cv2.setNumThreads(0)


def _inspect(index: int) -> 'ImageRecord':
    assert _inspector is not None
    return _inspector(index)
