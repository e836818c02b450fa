"""``mmssl check-data``: check all images and labels of a config before training."""

import argparse
import contextlib
import io
from pathlib import Path
from typing import Any

from mmssl.commands.arguments import (
    add_cfg_options,
    add_data,
    add_progress,
    add_workers,
    check_minimums,
    check_output_folder,
)
from mmssl.commands.check_labels import check_labels, is_label_path
from mmssl.commands.check_leaks import add_duplicates, config_leaks
from mmssl.commands.picture_arguments import add_bands, parse_bands

HELP = 'check the data of a config before training: counts, sizes, bad files, labels'
SPLITS = ('train', 'val', 'test')
TASKS = ('classify', 'detect', 'instance', 'semantic')
MAX_SWATCHES = 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        'config', help='path of a config, or its name below configs/; or a folder of labels of any format'
    )
    parser.add_argument('--format', metavar='NAME', help='format of the labels of a folder that has several')
    parser.add_argument(
        '--task',
        choices=TASKS,
        metavar='TASK',
        help=f'read a folder of labels as mmssl finetune does for a task: {", ".join(TASKS)}',
    )
    parser.add_argument('--split', choices=SPLITS, default='train', help='split to check (default: train)')
    add_data(parser)
    parser.add_argument(
        '--out', metavar='DIR', help='folder for contact_sheet.png, check.json and bad_files.txt'
    )
    parser.add_argument(
        '--number', type=int, default=16, metavar='N', help='samples on the contact sheet (default: 16)'
    )
    parser.add_argument(
        '--max-images', type=int, metavar='N', help='check only N images, evenly spaced over the dataset'
    )
    add_duplicates(parser)
    add_bands(parser)
    add_workers(parser)
    add_progress(parser)
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> int:
    """Check the data, print a report and write the files.

    Returns:
        1 if something would break training, else 0.

    Raises:
        FileNotFoundError, ValueError, TypeError: The config has no such data, or an argument is out of range.
    """
    from mmengine.registry import init_default_scope

    import mmssl.registry  # noqa: F401  registers mmssl's datasets, also if the config names none
    from mmssl.commands.dataset_check import check_dataset
    from mmssl.data.checks.settings import innermost_datasets

    check_minimums(args, number=1, workers=0, max_images=1)
    parse_bands(args.bands)
    if is_label_path(args.config):
        return check_labels(args)
    cfg = _load(args)
    dataset = _dataset_settings(cfg, args.config, args.split)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with contextlib.redirect_stdout(io.StringIO()):  # the toolboxes print while they are imported and read
        reports = [
            check_dataset(settings, cfg.model.to_dict(), args) for settings in innermost_datasets(dataset)
        ]
    print('\n\n'.join(report.text for report in reports))
    if args.out:
        _write(args, reports)
    errors = sum(len(report.errors) for report in reports)
    if args.duplicates is not None:
        print()
        parts = [_dataset_settings(cfg, args.config, split) for split in ('train', 'val')]
        errors += bool(config_leaks(parts[0], parts[1], cfg.model.to_dict(), args))
    plural = 's' if errors > 1 else ''
    verdict = f'{errors} problem{plural} to fix before training' if errors else 'no problem for training'
    print(f'\n{args.config}, {args.split}: {verdict}')
    return int(errors > 0)


def _load(args: argparse.Namespace) -> Any:
    from mmssl.config.check import check_settings
    from mmssl.config.load import load_config
    from mmssl.engine.launch import apply_toolbox_patches, use_data

    cfg = load_config(args.config, args.cfg_options)
    check_settings(cfg)
    apply_toolbox_patches(cfg)
    if args.data:
        use_data(cfg, args.data)
    return cfg


def _dataset_settings(cfg: Any, config: str, split: str) -> dict:
    from mmssl.config.check import LOADERS
    from mmssl.engine.launch import make_missing_demo_data

    loader = cfg.get(f'{split}_dataloader')
    if not loader or not loader.get('dataset'):
        loaders = ', '.join(name for name in LOADERS if cfg.get(name)) or 'no data at all'
        raise ValueError(f'{config} has no {split}_dataloader; it has {loaders}')
    make_missing_demo_data(cfg)
    return loader.dataset.to_dict()


def _write(args: argparse.Namespace, reports: list) -> None:
    """Write the contact sheets, the report as JSON and the list of unreadable files."""
    from mmssl.checkpoint import write_json, write_text
    from mmssl.data.bad_files import list_line
    from mmssl.visualization.files import write_image

    out = Path(args.out)
    check_output_folder(out)
    out.mkdir(parents=True, exist_ok=True)
    for number, report in enumerate(reports, 1):
        if report.tiles:
            path = out / (f'contact_sheet_{number}.png' if len(reports) > 1 else 'contact_sheet.png')
            write_image(_contact_sheet(report, args), path)
            print(f'\n{path}: {len(report.tiles)} samples')
    content = [
        dict(title=report.title, facts=report.facts, errors=report.errors, warnings=report.warnings)
        for report in reports
    ]
    write_json(out / 'check.json', content)
    lines = [list_line(path, reason) for report in reports for path, reason in report.unreadable]
    write_text(out / 'bad_files.txt', ''.join(lines))


def _contact_sheet(report: Any, args: argparse.Namespace) -> Any:
    from mmssl.visualization.contact_sheet import class_colors, contact_sheet

    inspector = report.inspector
    legend: list = []
    if inspector.label_type == 'pixels':
        colors = class_colors(inspector.classes, inspector.palette)
        legend = list(zip(inspector.classes, colors, strict=True))[:MAX_SWATCHES]
    subtitle = f'{len(report.tiles)} of {report.facts["images"]:,} images, {args.split} data of {args.config}'
    return contact_sheet(report.tiles, report.title, subtitle, legend=legend)
