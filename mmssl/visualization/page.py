"""A run as one HTML page that needs nothing but itself: no script, no link, pictures and curves inside."""

import base64
import io
from collections.abc import Sequence
from datetime import timedelta
from html import escape
from pathlib import Path

from PIL import Image

from mmssl.visualization.charts import line_chart, short
from mmssl.visualization.runs import Run, is_better_lower

MOST_PICTURES, PICTURE_SIDE, MOST_LOSSES = 24, 900, 8
STYLE = (
    """
:root { --paper: #fff; --card: #f6f7f9; --ink: #1c2128; --faint: #68707c; --line: #dfe3e8; --add: #1a7f37; --gone: #c93c37;
  --other: #9a6700; --c0: #3b6fd4; --c1: #e07b00; --c2: #d64550; --c3: #1f9e89; --c4: #7c4dbd; --c5: #c2408f; --c6: #6b8e23;
  --c7: #0d8ca8; }
@media (prefers-color-scheme: dark) { :root { --paper: #12151a; --card: #1b2027; --ink: #e6e9ee; --faint: #949daa; --line: #323a45;
  --add: #57c274; --gone: #ff7b72; --other: #d9a520; --c0: #76a5ff; --c1: #ffab4a; --c2: #ff7d87; --c3: #4fd0b8; --c4: #b796f0;
  --c5: #f085c4; --c6: #a9c95c; --c7: #58c6de; } }
* { box-sizing: border-box; }
html { color-scheme: light dark; }
body { margin: 0 auto; padding: 28px 24px 60px; max-width: 1180px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { margin: 0; font-size: 25px; line-height: 1.25; overflow-wrap: anywhere; }
h2 { margin: 40px 0 12px; font-size: 18px; }
h3 { margin: 0 0 6px; font-size: 14px; font-weight: 600; overflow-wrap: anywhere; }
p { margin: 4px 0; }
.faint { color: var(--faint); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(135px, 1fr)); gap: 10px; margin-top: 20px; }
.tile, .card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; min-width: 0; }
.tile b { display: block; font-size: 20px; line-height: 1.35; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.tile span { font-size: 13px; color: var(--faint); overflow-wrap: anywhere; }
.bad { border-color: var(--gone); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--faint); font-size: 13px; font-variant-numeric: tabular-nums; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg path { fill: none; stroke-width: 2; stroke-linejoin: round; stroke: currentColor; }
svg path.raw { stroke-width: 1; opacity: .28; }
svg circle { fill: currentColor; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 13px; }
.legend i { display: inline-block; width: 12px; height: 3px; margin-right: 6px; vertical-align: middle; background: currentColor; }
.legend em { font-style: normal; color: var(--ink); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 14px 5px 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 600; color: var(--faint); font-size: 13px; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: anywhere; min-width: 7.5em; }
td.text { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 260px), 1fr)); gap: 14px; }
figure { margin: 0; } figure.wide { grid-column: 1 / -1; }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; border: 1px solid var(--line); }
figcaption { font-size: 12px; color: var(--faint); overflow-wrap: anywhere; margin-top: 3px; }
details { margin-top: 12px; } summary { cursor: pointer; font-weight: 600; }
pre { margin: 8px 0 0; padding: 12px 14px; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow-x: auto;
  font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
.add { color: var(--add); } .gone { color: var(--gone); } .other { color: var(--other); }
"""
    + ''.join(f'.c{number} {{ color: var(--c{number}); }}\n' for number in range(8))
    + """
@media (max-width: 520px) { body { padding: 18px 14px 40px; } h1 { font-size: 20px; } .tile b { font-size: 17px; }
  svg text { font-size: 17px; } th, td { padding-right: 10px; } }
"""
)


def report_page(
    run: Run, difference: Sequence[tuple[str, str]] = (), base: str = '', version: str = ''
) -> str:
    """The page.

    Args:
        run: a work directory.
        difference: (sign, line) pairs of what the config changes, as :func:`mmssl.config.text.change_lines`
            gives them.
        base: the name of the config that it is compared with.
        version: of mmssl, for the last line.

    Returns:
        HTML; everything that comes from files is escaped.
    """
    body = [
        _head(run),
        _trouble(run),
        _charts(run),
        _metrics(run),
        _tests(run),
        _pictures(run),
        _files(run),
        _environment(run),
        _config(run, difference, base),
        f'<p class="faint" style="margin-top:40px">Written by mmssl report {escape(version)} from {escape(str(run.folder))}.</p>',
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src \'unsafe-inline\'">\n'
        f'<title>{escape(run.config_name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n'
        + '\n'.join(part for part in body if part)
        + '\n</body>\n</html>\n'
    )


def duration(seconds: float) -> str:
    """Such as '41 min', '2 h 03 min', '3 d 4 h'."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    if minutes < 60:
        return f'{minutes} min'
    if minutes < 48 * 60:
        return f'{minutes // 60} h {minutes % 60:02d} min'
    return f'{minutes // 1440} d {minutes % 1440 // 60} h'


def best_of(key: str, points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(iteration, value) of the best point."""
    choose = min if is_better_lower(key) else max
    finite = [point for point in points if point[1] == point[1]] or list(points)
    return choose(finite, key=lambda point: point[1])


def chief_metrics(run: Run) -> list[str]:
    """Metrics that stand for the run: those of no single class."""
    return [key for key in run.metric_keys if not _of_a_class(key, run)]


def _of_a_class(key: str, run: Run) -> bool:
    """IoU.road, Acc.road, ...: one of many keys with the same beginning before a dot, or a class of mmdet's (road_precision)."""
    stem = key.split('.')[0]
    return '.' in key and sum(other.startswith(f'{stem}.') for other in run.metric_keys) > 1


def _head(run: Run) -> str:
    tiles = []
    if run.parts:
        planned, done = run.planned(), run.last
        text = f'{done:,}' + (f' of {planned:,}' if planned and planned != done else '')
        tiles.append((text, 'iterations' + (f', {run.epochs} epochs' if run.epochs > 1 else '')))
        if run.seconds:
            tiles.append(
                (
                    duration(run.seconds),
                    'wall time' + (f', {len(run.parts)} starts' if len(run.parts) > 1 else ''),
                )
            )
        if 'loss' in run.curves:
            tiles.append((short(run.curves['loss'][-1][1]), 'last loss'))
    for key in chief_metrics(run)[:4]:
        place, value = best_of(key, run.curves[key])
        tiles.append((short(value), f'{key}, best, at {place:,}'))
    if not run.metric_keys and run.tests:
        tiles += [
            (short(value), key)
            for key, value in list(run.tests[-1][1].items())[:4]
            if isinstance(value, (int, float))
        ]
    begin = run.parts[0].begin if run.parts else None
    lines = f'<h1>{escape(run.config_name)}</h1>\n<p class="faint">{escape(str(run.folder))}'
    lines += f', started {begin:%d %B %Y, %H:%M}</p>' if begin else '</p>'
    return (
        lines
        + '\n<div class="tiles">'
        + ''.join(
            f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
            for value, name in tiles
        )
        + '</div>'
    )


def _trouble(run: Run) -> str:
    """Errors and bad files that the run left behind."""
    parts = []
    for path in sorted(run.folder.rglob('error_rank*.txt')):
        text = path.read_text(encoding='utf-8', errors='replace').strip()
        parts.append(
            f'<h3>failed: {escape(text.splitlines()[-1] if text else path.name)}</h3><p class="faint">{escape(str(path))}</p>'
        )
    bad = run.folder / 'bad_files.txt'
    lines = bad.read_text(encoding='utf-8', errors='replace').splitlines() if bad.is_file() else []
    if lines:
        parts.append(
            f'<h3>{len(lines)} files could not be decoded</h3><p class="faint">{escape(str(bad))}, first: {escape(lines[0])}</p>'
        )
    return (
        '<h2>Trouble</h2>\n' + ''.join(f'<div class="card bad">{part}</div>' for part in parts)
        if parts
        else ''
    )


def _groups(run: Run) -> list[tuple[str, list[str]]]:
    """(title, keys) of the charts: the loss, its parts, the rate, metrics that share a prefix, what else is logged."""
    trained = [key for key in run.curves if key not in run.metric_keys]
    losses = [key for key in trained if 'loss' in key and key != 'loss']
    groups = [('loss', ['loss'])] if 'loss' in trained else []
    groups += [
        ('parts of the loss', losses[begin : begin + MOST_LOSSES])
        for begin in range(0, len(losses), MOST_LOSSES)
        if len(losses) > 1 or 'loss' not in trained
    ]
    metrics: dict[str, list[str]] = {}
    for key in chief_metrics(run):
        family = key.rsplit('/', 1)[0] if '/' in key else key.split('@')[0]
        metrics.setdefault(f'{family} {"percent" if _in_percent(run, key) else ""}', []).append(key)
    groups += [(title.split(' ')[0], keys[:MOST_LOSSES]) for title, keys in metrics.items()]
    rates = [key for key in trained if key == 'lr' or (key == 'base_lr' and 'lr' not in trained)]
    groups += [('learning rate', rates)] if rates else []
    rest = [key for key in trained if key not in (*losses, 'loss', 'lr', 'base_lr', 'time', 'data_time')]
    groups += [(key, [key]) for key in rest]
    times: list[str] = [key for key in ('time', 'data_time') if key in trained]
    return groups + ([('seconds a step', times)] if times else [])


def _in_percent(run: Run, key: str) -> bool:
    return max(abs(value) for _, value in run.curves[key]) > 1.5


def _charts(run: Run) -> str:
    cards = []
    for title, keys in _groups(run):
        chart = line_chart({key: run.curves[key] for key in keys}, smooth=title != 'learning rate')
        if not chart or (len({x for key in keys for x, _ in run.curves[key]}) < 2):
            continue
        legend = ''.join(
            f'<span class="c{number}"><i></i><em>{escape(key)}</em></span>' for number, key in enumerate(keys)
        )
        cards.append(
            f'<div class="card"><h3>{escape(title)}</h3>{chart}'
            + (f'<div class="legend">{legend}</div>' if keys != [title] and keys != ['lr'] else '')
            + '</div>'
        )
    return '<h2>Curves</h2>\n<div class="charts">' + '\n'.join(cards) + '</div>' if cards else ''


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], text: Sequence[int] = ()) -> str:
    """An escaped table; ``text`` columns are aligned left."""
    head = ''.join(
        f'<th{" style=text-align:left" if number in text else ""}>{escape(cell)}</th>'
        for number, cell in enumerate(header)
    )
    lines = [
        ''.join(
            f'<td{" class=text" if number in text else ""}>{escape(cell)}</td>'
            for number, cell in enumerate(row)
        )
        for row in rows
    ]
    return (
        f'<div class="scroll"><table><tr>{head}</tr>'
        + ''.join(f'<tr>{line}</tr>' for line in lines)
        + '</table></div>'
    )


def _metrics(run: Run) -> str:
    def rows(keys):
        return [
            (
                key,
                short(run.curves[key][-1][1]),
                short(best_of(key, run.curves[key])[1]),
                f'{best_of(key, run.curves[key])[0]:,}',
            )
            for key in keys
        ]

    if not run.metric_keys:
        return ''
    chief = chief_metrics(run)
    single = [key for key in run.metric_keys if key not in chief]
    header = ('metric', 'last', 'best', 'at iteration')
    return (
        '<h2>Metrics</h2>\n'
        + (_table(header, rows(chief)) if chief else '')
        + (
            f'<details><summary>{len(single)} of single classes</summary>{_table(header, rows(single))}</details>'
            if single
            else ''
        )
    )


def _tests(run: Run) -> str:
    parts = []
    for start, values in run.tests:
        rows = [
            (key, short(value) if isinstance(value, (int, float)) else str(value))
            for key, value in values.items()
        ]
        parts.append(f'<h3>{escape(start.name)}</h3>{_table(("metric", "value"), rows)}')
    return '<h2>Tests</h2>\n' + ''.join(parts) if parts else ''


def _embedded(path: Path) -> tuple[str, float] | None:
    """A picture as a data address, made smaller where it is large, and its width over its height; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            image.load()
            picture = image.convert('RGB')
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    ratio = picture.width / picture.height
    picture.thumbnail((PICTURE_SIDE * max(1, min(ratio, 2)), PICTURE_SIDE), Image.Resampling.LANCZOS)
    kinds = {}
    for kind, options in (('png', dict(optimize=True)), ('jpeg', dict(quality=86))):
        buffer = io.BytesIO()
        picture.save(buffer, kind, **options)
        kinds[kind] = buffer.getvalue()
    kind = 'png' if len(kinds['png']) < 1.2 * len(kinds['jpeg']) else 'jpeg'
    return f'data:image/{kind};base64,{base64.b64encode(kinds[kind]).decode()}', ratio


def _pictures(run: Run) -> str:
    paths = run.pictures()
    figures = []
    for path in paths[::-1][:MOST_PICTURES]:
        found = _embedded(path)
        if found:
            name = escape(path.relative_to(run.folder).as_posix())
            wide = ' class="wide"' if found[1] > 2.2 else ''
            figures.append(
                f'<figure{wide}><img alt="{name}" src="{found[0]}"><figcaption>{name}</figcaption></figure>'
            )
    more = (
        f'<p class="faint">The newest {MOST_PICTURES} of {len(paths)}.</p>'
        if len(paths) > MOST_PICTURES
        else ''
    )
    return (
        '<h2>Pictures</h2>\n' + more + '<div class="pictures">' + '\n'.join(figures) + '</div>'
        if figures
        else ''
    )


def _files(run: Run) -> str:
    from datetime import datetime

    parts = ''
    checkpoints = run.checkpoints()
    if checkpoints:
        rows = [
            (
                path.name,
                f'{path.stat().st_size / 2**20:,.1f} MiB',
                f'{datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M}',
            )
            for path in checkpoints[::-1]
        ]
        parts += '<h2>Checkpoints</h2>\n' + _table(('file', 'size', 'written'), rows)
    if len(run.parts) > 1:
        rows = [
            (
                part.folder.name,
                f'{part.first or 0:,} to {part.last or 0:,}',
                str(timedelta(seconds=int(part.seconds))),
            )
            for part in run.parts
        ]
        parts += '<h2>Starts</h2>\n' + _table(('folder', 'logged iterations', 'time'), rows)
    return parts


def _environment(run: Run) -> str:
    found = run.environment()
    return '<h2>Environment</h2>\n' + _table(('', 'of the newest start'), found, text=(1,)) if found else ''


def _config(run: Run, difference: Sequence[tuple[str, str]], base: str) -> str:
    if not run.config:
        return ''
    kinds = {'+': 'add', '-': 'gone', '~': 'other'}
    lines = '\n'.join(
        f'<span class="{kinds[sign]}">{escape(line)}</span>' if sign in kinds else escape(line)
        for sign, line in difference
    )
    shown = f'<p>What differs from {escape(base)}:</p><pre>{lines or "nothing"}</pre>' if base else ''
    return (
        f'<h2>Config</h2>\n{shown}<details{"" if base else " open"}><summary>{escape(run.config_name)}, whole</summary>'
        f'<pre>{escape(run.config)}</pre></details>'
    )
