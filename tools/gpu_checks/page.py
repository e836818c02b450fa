"""The page of docs/benchmarks that shows the results of the check."""

from typing import Any

from gpu_checks.check import rounded

# title, row, row that it is compared with, value
COMPARISONS = (
    (
        'MAE-B, bfloat16 and compiled, against onedl-mmpretrain with AMP',
        'MAE-B, compiled',
        'MAE-B, onedl-mmpretrain AMP',
        'ms',
    ),
    ('DINO-S, bfloat16, against lightly', 'DINO-S', 'DINO-S, lightly', 'ms'),
    ('SAM-B encoder, bfloat16 against float32', 'SAM-B encoder, bfloat16', 'SAM-B encoder, float32', 'ms'),
    (
        'SAM-B encoder, bfloat16, against segment_anything in float32',
        'SAM-B encoder, bfloat16',
        'SAM-B encoder, segment_anything, float32',
        'ms',
    ),
    (
        'automatic masks, bfloat16, against segment_anything',
        'automatic masks, mmssl, bfloat16',
        'automatic masks, segment_anything',
        'ms',
    ),
    (
        'PS-RoI pooling with vote, 81 classes, 300 RoIs, against torchvision',
        'PS-RoI pooling with vote, 81 classes, 300 RoIs, mmssl',
        'PS-RoI pooling with vote, 81 classes, 300 RoIs, torchvision',
        'forward_and_backward_ms',
    ),
    (
        'deformable pooling, 81 classes, 300 RoIs, against its plain form',
        'deformable pooling, 81 classes, 300 RoIs, mmssl',
        'deformable pooling, 81 classes, 300 RoIs, plain',
        'forward_and_backward_ms',
    ),
    (
        'global attention of SAM-B, FlexAttention against widened queries and keys',
        'global attention of SAM-B, 64 x 64, 12 heads, FlexAttention',
        'global attention of SAM-B, 64 x 64, 12 heads, widened',
        'forward_and_backward_ms',
    ),
)
RESULTS = {True: 'yes', False: '**no**', None: ''}


def page_of(content: dict[str, Any]) -> str:
    """Return the page as Markdown."""
    versions = ', '.join(f'{name} {number}' for name, number in content['versions'].items())
    driver = f', driver {content["driver"]}' if content.get('driver') else ''
    lines = ['# On a GPU', '', f'`{content["command"]}`', '']
    lines += [f'{content["date"]}, {content["device"]}{driver}; {versions}.', '']
    if '--quick' in content['command'].split():
        lines += ['The sizes are the smallest (`--quick`), so that times and ratios say nothing.', '']
    parts = content.get('parts', {})
    lines += comparisons(parts.get('e', {}).get('rows', []))
    for _, values in sorted(parts.items()):
        status = values.get('status', 'done')
        lines += [f'## {values.get("title", "")}', '']
        lines += [] if status == 'done' else [f'This part is incomplete: {status}.', '']
        lines += table(values.get('rows', []))
    return '\n'.join(lines).rstrip('\n') + '\n'


def comparisons(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of times relative to peers and to other forms."""
    by_name = {row['name']: row for row in rows}
    lines = []
    for title, name, other, key in COMPARISONS:
        values = [by_name.get(row, {}).get(key) for row in (name, other)]
        ratio = f'{values[0] / values[1]:.2f}' if all(values) else 'not measured'
        lines.append(f'| {title} | {ratio} |')
    return ['| comparison | time, ratio |', '|---|---|', *lines, '']


def table(rows: list[dict[str, Any]]) -> list[str]:
    """Return rows as a Markdown table with a column for each value that any of them has."""
    if not rows:
        return ['Not measured.', '']
    columns = list(dict.fromkeys(key for row in rows for key in row if key not in ('name', 'ok', 'note')))
    checked = any(row['ok'] is not None for row in rows)
    noted = any(row.get('note') for row in rows)
    header = ['', *['right'] * checked, *(column.replace('_', ' ') for column in columns), *['note'] * noted]
    lines = [line(header), line(['---'] * len(header))]
    for row in rows:
        values = [text(row.get(column)) for column in columns]
        lines.append(
            line([row['name'], *[RESULTS[row['ok']]] * checked, *values, *[row.get('note', '')] * noted])
        )
    return [*lines, '']


def line(values: list[str]) -> str:
    """Return a row of a Markdown table."""
    return '| ' + ' | '.join(value.replace('|', '/') for value in values) + ' |'


def text(value: Any) -> str:
    """Return a value as text."""
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    return '' if value is None else str(rounded(value))
