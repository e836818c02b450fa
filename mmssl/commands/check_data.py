"""``mmssl check-data``: look at all images and labels of a config before a training does."""

import argparse
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmssl.data.checks.inspector import DatasetInspector

HELP = 'look at the data of a config before a training does: counts, sizes, bad files, labels'
SPLITS = ('train', 'val', 'test')
MOST_CLASSES, MOST_LINES, BAR = 40, 12, 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument('config', help='path of a config, or its name below configs/')
    parser.add_argument(
        '--split', choices=SPLITS, default='train', help='whose data loader to look at (default: train)'
    )
    parser.add_argument(
        '--data', metavar='DIR', help='use this folder (or archive) in place of the data of the config'
    )
    parser.add_argument('--out', metavar='DIR', help='gets contact_sheet.png, check.json and bad_files.txt')
    parser.add_argument(
        '--number', type=int, default=16, metavar='N', help='samples on the contact sheet (default: 16)'
    )
    parser.add_argument(
        '--max-images', type=int, metavar='N', help='look at N images only, evenly over the list'
    )
    parser.add_argument(
        '--workers', type=int, default=2, metavar='N', help='processes that read images (default: 2)'
    )
    parser.add_argument(
        '--progress', action='store_true', help='show a progress line even where there is no terminal'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE', help='override settings of the config'
    )


def run(args: argparse.Namespace) -> int:
    """Look, print, write.

    Returns:
        1 where something would break a training, else 0.

    Raises:
        FileNotFoundError, ValueError, TypeError: the config has no such data, or an argument makes no sense.
    """
    import contextlib
    import io

    from mmengine.registry import init_default_scope

    from mmssl.data.checks.settings import innermost_datasets
    from mmssl.engine import launch

    for name, least in (('number', 1), ('workers', 0), ('max_images', 1)):
        if (getattr(args, name) or least) < least:
            raise ValueError(f'--{name.replace("_", "-")} {getattr(args, name)} must be at least {least}')
    cfg = launch.load_config(args.config, args.cfg_options)
    launch.check_settings(cfg)
    if args.data:
        launch.use_data(cfg, args.data)
    loader = cfg.get(f'{args.split}_dataloader')
    if not loader or not loader.get('dataset'):
        raise ValueError(
            f'{args.config} has no {args.split}_dataloader; it has '
            + (', '.join(name for name in launch.LOADERS if cfg.get(name)) or 'no data at all')
        )
    launch.make_demo_data_if_asked(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    import mmssl.registry  # noqa: F401  parts of ours, also where a config names none

    found = list(innermost_datasets(loader.dataset.to_dict()))
    with contextlib.redirect_stdout(
        io.StringIO()
    ):  # the hosts talk while they are imported and while they read
        parts = [look(settings, cfg.model.to_dict(), args) for settings in found]
    print('\n\n'.join(part['text'] for part in parts))
    if args.out:
        _write(args, parts)
    errors = sum(len(part['errors']) for part in parts)
    print(
        f'\n{args.config}, {args.split}: '
        + (
            f'{errors} problem{"s" * (errors > 1)} to mend before a training'
            if errors
            else 'nothing here stops a training'
        )
    )
    return int(errors > 0)


def look(settings: Mapping, model: Mapping, args: argparse.Namespace) -> dict:
    """One data set: its text, errors, warnings, facts, bad files and tiles of the contact sheet."""
    import os

    from mmssl.data.checks.coco import coco_problems
    from mmssl.data.checks.findings import Findings
    from mmssl.data.checks.inspector import DatasetInspector
    from mmssl.engine.launch import describe

    ann_file = os.path.join(settings.get('data_root') or '', settings.get('ann_file') or '')
    prefix = settings.get('data_prefix')
    if isinstance(prefix, dict):
        prefix = prefix.get('img_path') or prefix.get('img') or ''
    place = ann_file if settings.get('ann_file') else os.path.join(ann_file, prefix or '')
    title = f'{settings.get("type")}: {place}'.rstrip(': ')
    is_json = ann_file.endswith('.json')
    try:
        inspector = DatasetInspector(settings, model)
    except Exception as error:  # a host's reader fails in any way
        errors, warnings = coco_problems(ann_file) if is_json else ([], [])
        text = (
            str(error)
            if isinstance(error, (OSError, AssertionError)) and str(error)
            else str(describe(error))
        )
        missing = _missing(settings, ann_file)
        absent = bool(missing) or isinstance(error, FileNotFoundError)
        hint = '; --data DIR points the config at your own folder' if absent and not args.data else ''
        errors.append(f'the data set cannot be made: {missing or text}{hint}')
        return dict(
            text=_text(title, [], errors, warnings),
            errors=errors,
            warnings=warnings,
            facts={},
            bad=[],
            tiles=[],
            title=title,
        )
    findings = Findings(inspector, examine(inspector, args))
    errors, warnings = (
        coco_problems(ann_file, len(inspector) if inspector.label_type == 'masks' else None)
        if is_json
        else ([], [])
    )
    errors, warnings = findings.errors + errors, findings.warnings + warnings
    tiles, failed = _samples(inspector, findings, args.number)
    errors += failed
    return dict(
        text=_text(title, _lines(findings), errors, warnings),
        errors=errors,
        warnings=warnings,
        facts=_facts(findings),
        bad=[(record.path, record.reason) for record in findings.unreadable],
        tiles=tiles,
        title=title,
        inspector=inspector,
    )


def _missing(settings: Mapping, ann_file: str) -> str:
    """Which of the paths of a data set is not there; hosts say so in many ways, some of them without a word."""
    import os

    from mmssl.hints import nearest_path

    root = str(settings.get('data_root') or '.')
    if '://' in root or '://' in ann_file:
        return ''
    if settings.get('ann_file') and not os.path.exists(ann_file):
        return f'{ann_file} does not exist{nearest_path(ann_file)}'
    return '' if os.path.exists(root) else f'{root} does not exist{nearest_path(root)}'


def examine(inspector, args: argparse.Namespace) -> list:
    """Records of the images, in processes, with a progress line."""
    import multiprocessing
    import sys

    from tqdm import tqdm

    total = len(inspector)
    numbers: Sequence[int] = range(total)
    if args.max_images and args.max_images < total:
        numbers = [place * total // args.max_images for place in range(args.max_images)]
    bar = tqdm(
        total=len(numbers),
        desc='reading',
        unit='image',
        file=sys.stderr,
        disable=not (args.progress or sys.stderr.isatty()),
        dynamic_ncols=True,
        leave=False,
    )
    records = []
    workers = min(args.workers, len(numbers) // 50)
    with bar:
        if workers < 2 or 'fork' not in multiprocessing.get_all_start_methods():
            for number in numbers:
                records.append(inspector(number))
                bar.update()
            return records
        global _inspector
        _inspector = inspector
        with multiprocessing.get_context('fork').Pool(workers, _one_thread) as pool:
            for record in pool.imap(_examine, numbers, chunksize=8):
                records.append(record)
                bar.update()
    return records


_inspector: 'DatasetInspector | None' = None


def _one_thread() -> None:
    import cv2

    cv2.setNumThreads(0)


def _examine(number: int):
    assert _inspector is not None
    return _inspector(number)


def _lines(findings) -> list[tuple[str, str]]:
    """(name, value) rows of the report."""
    from mmssl.data.checks.records import COUNTED

    inspector, records = findings.inspector, findings.records
    total = len(inspector)
    rows = [('images', f'{len(records):,}' + (f' of {total:,} looked at' if len(records) < total else ''))]
    if len(findings.sizes):
        least, middle, most = (findings.sizes[place] for place in (0, len(findings.sizes) // 2, -1))
        same = (findings.sizes == findings.sizes[0]).all()
        rows.append(
            (
                'size',
                f'{least[0]}x{least[1]}, all of them'
                if same
                else f'{least[0]}x{least[1]} the least, {middle[0]}x{middle[1]} median, {most[0]}x{most[1]} the largest',
            )
        )
    rows.append(('bad files', str(len(findings.unreadable))))
    rows += [('', f'{record.path}: {record.reason}') for record in findings.unreadable[:MOST_LINES]]
    if len(findings.unreadable) > MOST_LINES:
        rows.append(('', f'... and {len(findings.unreadable) - MOST_LINES} more; --out DIR writes the list'))
    kind = inspector.label_type
    if kind == 'none':
        return [*rows, ('labels', 'none')]
    numbers = sorted(record.objects for record in records if record.objects is not None)
    if numbers and kind != 'pixels':
        rows.append(
            (
                COUNTED[kind],
                f'{sum(numbers):,}; {numbers[0]} to {numbers[-1]} an image, median {numbers[len(numbers) // 2]}; '
                f'{findings.unlabeled} images without',
            )
        )
    elif numbers:
        rows.append(
            (
                'labels',
                f'{numbers[0]} to {numbers[-1]} classes an image; {findings.unlabeled} images of ignored pixels alone',
            )
        )
    if kind != 'masks':
        rows += _class_lines(findings)
    return rows


def _class_lines(findings) -> list[tuple[str, str]]:
    from mmssl.data.checks.records import COUNTED

    inspector = findings.inspector
    classes = inspector.classes or tuple(map(str, range(max(findings.counts, default=-1) + 1)))
    whole = sum(findings.counts.values()) or 1
    most = max(findings.counts.values(), default=1)
    rows = [('classes', f'{len(classes)}, by {COUNTED[inspector.label_type]}')]
    # None stands for those in between
    order: list[int | None] = list(range(len(classes)))
    if len(order) > MOST_CLASSES:
        order.sort(key=lambda number: -findings.counts[number])
        rows[0] = (
            'classes',
            f'{len(classes)}, by {COUNTED[inspector.label_type]}; the {MOST_CLASSES // 2} of the most and of the fewest',
        )
        order = order[: MOST_CLASSES // 2] + [None] + order[-MOST_CLASSES // 2 :]
    wide = max(len(str(classes[number])) for number in order if number is not None) if classes else 0
    wide = min(wide, 24)
    digits = len(f'{most:,}')
    full, thin = '█▏' if _writes('█▏') else '#.'
    for number in order:
        if number is None:
            rows.append(('', '...'))
            continue
        count = findings.counts[number]
        bar = full * round(BAR * count / most) or (thin if count else '')
        rows.append(
            (
                '',
                f'{str(classes[number])[:wide]:{wide}}  {count:>{digits},}  {100 * count / whole:5.1f} %  {bar}'.rstrip(),
            )
        )
    return rows


def _writes(text: str) -> bool:
    """Whether the terminal has these characters."""
    import sys

    if sys.__stdout__ is None:
        return False
    try:
        text.encode(sys.__stdout__.encoding or 'ascii')
    except (UnicodeEncodeError, LookupError, AttributeError):
        return False
    return True


def _text(title: str, rows: list[tuple[str, str]], errors: list[str], warnings: list[str]) -> str:
    """The report of one data set."""
    import textwrap

    lines = [title] + [''] * bool(rows) + [f'{name:<11}{value}' for name, value in rows]
    for word, texts in (('problem', errors), ('note', warnings)):
        lines += [''] * bool(texts)
        for text in texts[:MOST_LINES]:
            lines += textwrap.wrap(
                f'{word}: {text}',
                100,
                subsequent_indent='    ',
                break_long_words=False,
                break_on_hyphens=False,
            )
        if len(texts) > MOST_LINES:
            lines.append(f'... and {len(texts) - MOST_LINES} more {word}s; --out DIR writes them all')
    return '\n'.join(lines)


def _facts(findings) -> dict:
    inspector = findings.inspector
    sizes = findings.sizes.tolist()
    return dict(
        kind=inspector.label_type,
        images=len(inspector),
        looked_at=len(findings.records),
        without_labels=findings.unlabeled,
        objects=sum(record.objects or 0 for record in findings.records)
        if inspector.label_type in ('objects', 'masks')
        else None,
        sizes=dict(least=sizes[0], median=sizes[len(sizes) // 2], largest=sizes[-1]) if sizes else None,
        classes={str(name): findings.counts[number] for number, name in enumerate(inspector.classes)},
    )


def _samples(inspector, findings, count: int) -> tuple[list, list[str]]:
    """Tiles of samples spread over the data set, and what the pipeline of the config stumbles over."""
    from mmssl.data.images import BadImageError, decode, open_image, orient
    from mmssl.engine.launch import describe
    from mmssl.visualization.contact import colours_of, draw_sample

    good = {record.path: record for record in findings.records if record.size and not record.errors}
    numbers = [number for number in range(len(inspector)) if inspector.info(number).get('img_path') in good]
    numbers = [
        numbers[place * len(numbers) // min(count, len(numbers))] for place in range(min(count, len(numbers)))
    ]
    classes = inspector.classes or tuple(map(str, range(max(findings.counts, default=-1) + 1)))
    # a palette is made for maps; boxes side by side need colours that differ
    colours = colours_of(classes, inspector.palette if inspector.label_type == 'pixels' else None)
    tiles = []
    failed: dict[str, str] = {}
    for number in numbers:
        info = inspector.info(number)
        try:
            image = open_image(info['img_path'])
            pixels = orient(decode(image), image.orientation)[..., ::-1].copy()
        except (BadImageError, OSError):
            continue
        line, labels = _labels(inspector, info, classes)
        tiles.append(
            (draw_sample(pixels, labels, classes, colours), info['img_path'].rsplit('/', 1)[-1], line)
        )
        try:
            inspector.dataset.pipeline(inspector.info(number))
        except Exception as error:  # transforms are programs
            failed.setdefault(f'the pipeline fails: {describe(error)}', info['img_path'])
    return tiles, [f'{text}: {path}' for text, path in failed.items()]


def _labels(inspector, info: dict, classes) -> tuple[str, dict]:
    """The line below a sample, and what is drawn over it."""
    import numpy as np

    kind = inspector.label_type
    size = f'{info["width"]}x{info["height"]}' if 'width' in info else ''
    if kind == 'images':
        return ', '.join(str(classes[int(label)]) for label in np.atleast_1d(info['gt_label'])), {}
    if kind == 'objects':
        kept = [entry for entry in info['instances'] if not entry.get('ignore_flag')]
        labels = dict(
            boxes=[entry['bbox'] for entry in kept], names=[int(entry['bbox_label']) for entry in kept]
        )
        return f'{len(kept)} objects, {size}' if size else f'{len(kept)} objects', labels
    if kind == 'masks':
        masks = info['read_masks'](info)
        return f'{len(masks)} masks', dict(masks=masks)
    if kind == 'pixels':
        labels = inspector.label_map(info)
        return f'{len(np.setdiff1d(np.unique(labels), [inspector.ignore_index]))} classes', dict(map=labels)
    return size, {}


def _write(args: argparse.Namespace, parts: list[dict]) -> None:
    import json
    from pathlib import Path

    from mmssl.checkpoint import write_text
    from mmssl.commands.segment import write_picture
    from mmssl.visualization.contact import colours_of, contact_sheet

    out = Path(args.out)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f'--out {out} is a file; name a folder')
    out.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(parts):
        if part['tiles']:
            inspector = part['inspector']
            colours = colours_of(inspector.classes, inspector.palette)
            swatches = (
                list(zip(inspector.classes, colours, strict=True)) if inspector.label_type == 'pixels' else []
            )
            facts = part['facts']
            subtitle = (
                f'{len(part["tiles"])} of {facts["images"]:,} images, {args.split} data of {args.config}'
            )
            path = out / f'contact_sheet{f"_{number + 1}" if len(parts) > 1 else ""}.png'
            write_picture(contact_sheet(part['tiles'], part['title'], subtitle, swatches=swatches[:60]), path)
            print(f'\n{path}: {len(part["tiles"])} samples')
    write_text(
        out / 'check.json',
        json.dumps(
            [{key: part[key] for key in ('title', 'facts', 'errors', 'warnings')} for part in parts], indent=2
        )
        + '\n',
    )
    write_text(
        out / 'bad_files.txt',
        ''.join(f'{path}\t{reason}\n' for part in parts for path, reason in part['bad']),
    )
