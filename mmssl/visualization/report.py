"""A run as one HTML page without scripts or links, with its images and curves inside."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from html import escape

from mmssl.visualization.charts import line_chart
from mmssl.visualization.report_html import embedded_image, page, section, table
from mmssl.visualization.runs import Run
from mmssl.visualization.series import best_point, duration, short_number

MAX_IMAGES = 24
MAX_CURVES = 8  # per chart
FULL_ROW_FROM = 2.2  # width over height of images that fill a row
# sign of a changed line -> its CSS class
CHANGES = {'+': 'add', '-': 'gone', '~': 'other'}


def report_page(
    run: Run, difference: Sequence[tuple[str, str]] = (), base: str = '', version: str = ''
) -> str:
    """Return the report of a run as HTML; all text from files is escaped.

    Args:
        run: The work directory.
        difference: (sign, line) pairs of what the config changes, from
            :func:`mmssl.config.text.change_lines`.
        base: Name of the config that it is compared with.
        version: Version of mmssl, for the last line.
    """
    source = f'Written by mmssl report {version} from {run.folder}.'
    parts = [
        _heading(run),
        section('Trouble', _problems(run)),
        section('Curves', _charts(run)),
        section('Metrics', _metrics(run)),
        section('Tests', _tests(run)),
        section('Pictures', _images(run)),
        section('Checkpoints', _checkpoints(run)),
        section('Starts', _starts(run)),
        section('Environment', _environment(run)),
        section('Config', _config(run, difference, base)),
        f'<p class="faint" style="margin-top:40px">{escape(source)}</p>',
    ]
    return page(run.config_name, parts)


def _heading(run: Run) -> str:
    """Title, folder, time of the start, and tiles with the most important numbers."""
    started = f', started {run.starts[0].begin:%d %B %Y, %H:%M}' if run.starts else ''
    tiles = [*_progress_tiles(run), *_metric_tiles(run)]
    boxes = [
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>' for value, name in tiles
    ]
    return (
        f'<h1>{escape(run.config_name)}</h1>\n<p class="faint">{escape(str(run.folder))}{started}</p>\n'
        f'<div class="tiles">{"".join(boxes)}</div>'
    )


def _progress_tiles(run: Run) -> list[tuple[str, str]]:
    """Iterations, time and last loss as (value, name)."""
    if not run.starts:
        return []
    done, planned = run.last_iteration, run.planned_iterations()
    count = f'{done:,}' + (f' of {planned:,}' if planned and planned != done else '')
    tiles = [(count, 'iterations' + (f', {run.epochs} epochs' if run.epochs > 1 else ''))]
    if run.seconds:
        starts = f', {len(run.starts)} starts' if len(run.starts) > 1 else ''
        tiles.append((duration(run.seconds), f'wall time{starts}'))
    if 'loss' in run.curves:
        tiles.append((short_number(run.curves['loss'][-1][1]), 'last loss'))
    return tiles


def _metric_tiles(run: Run) -> list[tuple[str, str]]:
    """Best values of the main metrics, or the metrics of the last test, as (value, name)."""
    tiles = []
    for key in run.main_metrics()[:4]:
        iteration, value = best_point(key, run.curves[key])
        tiles.append((short_number(value), f'{key}, best, at {iteration:,}'))
    if not run.metric_keys and run.tests:
        _, metrics = run.tests[-1]
        for key, value in list(metrics.items())[:4]:
            if isinstance(value, (int, float)):
                tiles.append((short_number(value), key))
    return tiles


def _problems(run: Run) -> str:
    """Errors and bad files that the run recorded."""
    cards = []
    for path in sorted(run.folder.rglob('error_rank*.txt')):
        text = path.read_text(encoding='utf-8', errors='replace').strip()
        last_line = text.splitlines()[-1] if text else path.name
        cards.append(f'<h3>failed: {escape(last_line)}</h3><p class="faint">{escape(str(path))}</p>')
    path = run.folder / 'bad_files.txt'
    lines = path.read_text(encoding='utf-8', errors='replace').split('\n')[:-1] if path.is_file() else []
    if lines:
        cards.append(
            f'<h3>{len(lines)} files could not be decoded</h3>'
            f'<p class="faint">{escape(str(path))}, first: {escape(lines[0])}</p>'
        )
    return ''.join(f'<div class="card bad">{card}</div>' for card in cards)


def _charts(run: Run) -> str:
    cards = []
    for title, keys in _chart_groups(run):
        chart = line_chart({key: run.curves[key] for key in keys}, smooth=title != 'learning rate')
        iterations = {iteration for key in keys for iteration, _ in run.curves[key]}
        if not chart or len(iterations) < 2:
            continue
        legend = ''.join(
            f'<span class="c{index}"><i></i><em>{escape(key)}</em></span>' for index, key in enumerate(keys)
        )
        if keys in ([title], ['lr']):
            legend = ''
        legend = f'<div class="legend">{legend}</div>' if legend else ''
        cards.append(f'<div class="card"><h3>{escape(title)}</h3>{chart}{legend}</div>')
    return f'<div class="charts">{chr(10).join(cards)}</div>' if cards else ''


def _chart_groups(run: Run) -> list[tuple[str, list[str]]]:
    """Return (title, keys) per chart: loss, its parts, metrics, learning rate, other values, time."""
    logged = [key for key in run.curves if key not in run.metric_keys]
    losses = [key for key in logged if 'loss' in key and key != 'loss']
    groups = [('loss', ['loss'])] if 'loss' in logged else []
    if len(losses) > 1 or 'loss' not in logged:
        for start in range(0, len(losses), MAX_CURVES):
            groups.append(('parts of the loss', losses[start : start + MAX_CURVES]))
    groups += _metric_groups(run)
    rates = [key for key in logged if key == 'lr' or (key == 'base_lr' and 'lr' not in logged)]
    groups += [('learning rate', rates)] if rates else []
    assigned = {*losses, 'loss', 'lr', 'base_lr', 'time', 'data_time'}
    groups += [(key, [key]) for key in logged if key not in assigned]
    times: list[str] = [key for key in ('time', 'data_time') if key in logged]
    return groups + ([('seconds a step', times)] if times else [])


def _metric_groups(run: Run) -> list[tuple[str, list[str]]]:
    """Group the main metrics by prefix and by scale, fractions or percent."""
    groups: dict[tuple[str, bool], list[str]] = {}
    for key in run.main_metrics():
        family = key.rsplit('/', 1)[0] if '/' in key else key.split('@')[0]
        in_percent = max(abs(value) for _, value in run.curves[key]) > 1.5
        groups.setdefault((family, in_percent), []).append(key)
    return [(family, keys[:MAX_CURVES]) for (family, _), keys in groups.items()]


def _metrics(run: Run) -> str:
    main = run.main_metrics()
    of_classes = [key for key in run.metric_keys if key not in main]
    html = _metric_table(run, main) if main else ''
    if of_classes:
        summary = f'{len(of_classes)} of single classes'
        html += f'<details><summary>{summary}</summary>{_metric_table(run, of_classes)}</details>'
    return html


def _metric_table(run: Run, keys: Sequence[str]) -> str:
    rows = []
    for key in keys:
        iteration, best = best_point(key, run.curves[key])
        rows.append((key, short_number(run.curves[key][-1][1]), short_number(best), f'{iteration:,}'))
    return table(('metric', 'last', 'best', 'at iteration'), rows)


def _tests(run: Run) -> str:
    html = ''
    for folder, metrics in run.tests:
        rows = [
            (key, short_number(value) if isinstance(value, (int, float)) else str(value))
            for key, value in metrics.items()
        ]
        html += f'<h3>{escape(folder.name)}</h3>{table(("metric", "value"), rows)}'
    return html


def _images(run: Run) -> str:
    paths = run.images()
    figures = []
    for path in paths[::-1][:MAX_IMAGES]:
        image = embedded_image(path)
        if image:
            name = escape(path.relative_to(run.folder).as_posix())
            css_class = ' class="wide"' if image.aspect_ratio > FULL_ROW_FROM else ''
            figures.append(
                f'<figure{css_class}><img alt="{name}" src="{image.address}">'
                f'<figcaption>{name}</figcaption></figure>'
            )
    if not figures:
        return ''
    omitted = len(paths) > MAX_IMAGES
    note = f'<p class="faint">The newest {MAX_IMAGES} of {len(paths)}.</p>' if omitted else ''
    return f'{note}<div class="pictures">{chr(10).join(figures)}</div>'


def _checkpoints(run: Run) -> str:
    rows = []
    for path in run.checkpoints()[::-1]:
        status = path.stat()
        written = datetime.fromtimestamp(status.st_mtime)
        rows.append((path.name, f'{status.st_size / 2**20:,.1f} MiB', f'{written:%Y-%m-%d %H:%M}'))
    return table(('file', 'size', 'written'), rows) if rows else ''


def _starts(run: Run) -> str:
    if len(run.starts) < 2:
        return ''
    rows = [
        (
            start.folder.name,
            f'{start.first or 0:,} to {start.last or 0:,}',
            str(timedelta(seconds=int(start.seconds))),
        )
        for start in run.starts
    ]
    return table(('folder', 'logged iterations', 'time'), rows)


def _environment(run: Run) -> str:
    pairs = run.environment()
    return table(('', 'of the newest start'), pairs, text_columns=(1,)) if pairs else ''


def _config(run: Run, difference: Sequence[tuple[str, str]], base: str) -> str:
    if not run.config:
        return ''
    changes = ''
    if base:
        lines = '\n'.join(
            f'<span class="{CHANGES[sign]}">{escape(line)}</span>' if sign in CHANGES else escape(line)
            for sign, line in difference
        )
        changes = f'<p>What differs from {escape(base)}:</p><pre>{lines or "nothing"}</pre>'
    return (
        f'{changes}<details{"" if base else " open"}><summary>{escape(run.config_name)}, whole</summary>'
        f'<pre>{escape(run.config)}</pre></details>'
    )
