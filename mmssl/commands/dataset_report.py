"""The text that ``mmssl check-data`` prints about a dataset."""

import sys
import textwrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmssl.data.checks.findings import Findings

MAX_CLASSES = 40
MAX_LINES = 12
MAX_NAME = 24
BAR_LENGTH = 24
WIDTH = 100


def format_report(title: str, rows: list[tuple[str, str]], errors: list[str], warnings: list[str]) -> str:
    """Format title, rows of (name, value), problems and notes."""
    lines = [title]
    if rows:
        lines += ['', *(f'{name:<11}{value}' for name, value in rows)]
    for label, texts in (('problem', errors), ('note', warnings)):
        if texts:
            lines.append('')
        for text in texts[:MAX_LINES]:
            lines += textwrap.wrap(
                f'{label}: {text}',
                WIDTH,
                subsequent_indent='    ',
                break_long_words=False,
                break_on_hyphens=False,
            )
        if len(texts) > MAX_LINES:
            lines.append(f'... and {len(texts) - MAX_LINES} more {label}s; --out DIR writes them all')
    return '\n'.join(lines)


def report_rows(findings: 'Findings') -> list[tuple[str, str]]:
    """Return the rows of (name, value) about images, files, labels and classes."""
    total = len(findings.inspector)
    checked = len(findings.records)
    rows = [('images', f'{checked:,}' + (f' of {total:,} checked' if checked < total else ''))]
    if len(findings.sizes):
        rows.append(('size', _size_text(findings)))
    rows += _band_rows(findings)
    unreadable = findings.unreadable
    rows.append(('bad files', str(len(unreadable))))
    rows += [('', f'{record.path}: {record.reason}') for record in unreadable[:MAX_LINES]]
    if len(unreadable) > MAX_LINES:
        rows.append(('', f'... and {len(unreadable) - MAX_LINES} more; --out DIR writes the list'))
    if findings.inspector.label_type == 'none':
        return [*rows, ('labels', 'none')]
    rows += _label_rows(findings)
    if findings.inspector.label_type != 'masks':
        rows += _class_rows(findings)
    return rows


def _band_rows(findings: 'Findings') -> list[tuple[str, str]]:
    """Return a row for each channel with its range and histogram."""
    from mmssl.data.checks.bands import histogram_bars

    bands = findings.bands
    if bands is None:
        return []
    levels = ' ▁▂▃▄▅▆▇█' if _can_print('▁█') else ' .:-=+*#'
    rows = []
    for channel, (low, high) in enumerate(bands.edges):
        bars = histogram_bars(bands.histogram[channel], levels)
        least, most = bands.extremes[:, channel]
        text = f'{channel}  {low:g} |{bars}| {high:g}, values {least:g} to {most:g}'
        rows.append(('channels' if channel == 0 else '', text))
    return rows


def _size_text(findings: 'Findings') -> str:
    sizes = findings.sizes
    smallest, median, largest = (f'{w}x{h}' for w, h in (sizes[0], sizes[len(sizes) // 2], sizes[-1]))
    if (sizes == sizes[0]).all():
        return f'{smallest}, all of them'
    return f'{smallest} the smallest, {median} median, {largest} the largest'


def _label_rows(findings: 'Findings') -> list[tuple[str, str]]:
    from mmssl.data.checks.records import COUNTED

    label_type = findings.inspector.label_type
    counts = sorted(record.objects for record in findings.records if record.objects is not None)
    if not counts:
        return []
    if label_type == 'pixels':
        ignored = f'{findings.unlabeled} images with ignored pixels only'
        pixels = findings.ignored + sum(findings.counts.values())
        percentage = f'{100 * findings.ignored / pixels:.3g} %' if pixels else 'none'
        text = f'{counts[0]} to {counts[-1]} classes per image; {percentage} of the pixels ignored'
        return [('labels', f'{text}; {ignored}')]
    text = (
        f'{sum(counts):,}; {counts[0]} to {counts[-1]} per image, median {counts[len(counts) // 2]}; '
        f'{findings.unlabeled} images without'
    )
    return [(COUNTED[label_type], text)]


def _class_rows(findings: 'Findings') -> list[tuple[str, str]]:
    """Return one row per class with count, percentage and bar; the most and least frequent of many."""
    from mmssl.data.checks.records import COUNTED

    inspector = findings.inspector
    counts = findings.counts
    classes = class_names(findings)
    heading = f'{len(classes)}, by {COUNTED[inspector.label_type]}'
    labels = list(range(len(classes)))
    order: list[int | None] = [*labels]
    if len(labels) > MAX_CLASSES:
        half = MAX_CLASSES // 2
        labels.sort(key=lambda label: -counts[label])
        order = [*labels[:half], None, *labels[-half:]]  # None stands for those in between
        heading += f'; the {half} most and the {half} least frequent'
    shown = [classes[label] for label in order if label is not None]
    name_width = min(max(map(len, shown), default=0), MAX_NAME)
    total = sum(counts.values()) or 1
    largest = max(counts.values(), default=1)
    digits = len(f'{largest:,}')
    full, thin = ('█', '▏') if _can_print('█▏') else ('#', '.')
    rows = [('classes', heading)]
    for label in order:
        if label is None:
            rows.append(('', '...'))
            continue
        count = counts[label]
        bar = full * round(BAR_LENGTH * count / largest) or (thin if count else '')
        name = classes[label][:name_width]
        text = f'{name:{name_width}}  {count:>{digits},}  {100 * count / total:5.1f} %  {bar}'
        rows.append(('', text.rstrip()))
    return rows


def class_names(findings: 'Findings') -> tuple[str, ...]:
    """Return the names of the classes, or the labels that occur as numbers if there are no names."""
    names = findings.inspector.classes or range(max(findings.counts, default=-1) + 1)
    return tuple(map(str, names))


def _can_print(text: str) -> bool:
    """Return True if the terminal has these characters."""
    if sys.__stdout__ is None:
        return False
    try:
        text.encode(sys.__stdout__.encoding or 'ascii')
    except (UnicodeEncodeError, LookupError, AttributeError):
        return False
    return True
