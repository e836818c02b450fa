"""What a work directory tells about its runs: curves, metrics, config, environment, time. Reads text alone; nothing in it is executed."""

import ast
import json
import math
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

STAMP = re.compile(r'\d{8}_\d{6}')
LOG_TIME = re.compile(r'(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ')
# of a row that say where it stands or how long it took
PLACES = ('iter', 'epoch', 'step')
TIMES = ('time', 'data_time')


class Part(NamedTuple):
    """One start of a run: its folder, the iterations that it logged, and its first and last line of log."""

    folder: Path
    first: int | None
    last: int | None
    begin: datetime | None
    end: datetime | None

    @property
    def seconds(self) -> float:
        """How long it ran."""
        return (self.end - self.begin).total_seconds() if self.begin and self.end else 0.0


class Run:
    """A work directory.

    Args:
        folder: as ``mmssl train --work-dir``.

    Attributes:
        parts: its starts, oldest first; several where it was resumed.
        curves: key -> (iteration, value) in order; of a resumed run the newer part counts where two overlap.
        tests: (folder, metrics) of ``mmssl test``.
        config: text of the newest config, '' where there is none.

    Raises:
        FileNotFoundError: no such folder.
        NotADirectoryError: a file.
        ValueError: nothing of a run in it.
    """

    def __init__(self, folder: str | Path):
        from mmssl.hints import nearest_path

        self.folder = Path(folder)
        if not self.folder.exists():
            raise FileNotFoundError(f'{folder} does not exist{nearest_path(folder)}')
        if not self.folder.is_dir():
            raise NotADirectoryError(f'{folder} is a file; name the work directory of a run')
        starts = sorted(
            (path for path in self.folder.iterdir() if path.is_dir() and STAMP.match(path.name)),
            key=lambda path: path.name,
        )
        if not starts:
            raise ValueError(
                f'{folder} is not the work directory of a run: it has no folder of logs, such as 20260131_235959'
                + _nested(self.folder)
            )
        self.parts: list[Part] = []
        self.tests: list[tuple[Path, dict]] = []
        self.curves: dict[str, list[tuple[int, float]]] = {}
        self.epochs = 0
        self.metric_keys: list[str] = []
        for start in starts:
            self._add(start)
        self.config_file = next(
            (
                path
                for start in reversed(starts)
                for path in [start / 'vis_data/config.py', *sorted(start.glob('*.py'))]
                if path.is_file()
            ),
            None,
        )
        self.config_file = self.config_file or next(iter(sorted(self.folder.glob('*.py'))), None)
        self.config = (
            self.config_file.read_text(encoding='utf-8', errors='replace') if self.config_file else ''
        )
        self.log = next((path for start in reversed(starts) for path in sorted(start.glob('*.log'))), None)

    @property
    def name(self) -> str:
        """Of the folder."""
        return self.folder.resolve().name

    @property
    def config_name(self) -> str:
        """Of the config's file, without '.py'; the folder's where there is none."""
        named = sorted(path.stem for path in self.folder.glob('*.py'))
        return named[0] if named else self.name

    @property
    def seconds(self) -> float:
        """Of all parts together."""
        return sum(part.seconds for part in self.parts)

    @property
    def last(self) -> int:
        """The last iteration that has a loss or a measure: not every loss is logged."""
        return max((points[-1][0] for points in self.curves.values()), default=0)

    def _add(self, start: Path) -> None:
        rows = list(_rows(start / 'vis_data/scalars.json'))
        numbers = [row['iter'] for row in rows if isinstance(row.get('iter'), int)]
        log = next(iter(sorted(start.glob('*.log'))), None)
        begin, end = _times(log) if log else (None, None)
        if rows:
            if begin is None or end is None:  # a log without times
                begin = datetime.strptime(start.name[:15], '%Y%m%d_%H%M%S')
                end = max(begin, datetime.fromtimestamp((start / 'vis_data/scalars.json').stat().st_mtime))
            self.parts.append(Part(start, min(numbers, default=None), max(numbers, default=None), begin, end))
        if numbers:  # what an earlier part logged beyond the place where this one went on was not kept
            for points in self.curves.values():
                points[:] = [point for point in points if point[0] < min(numbers)]
        here = 0
        for row in rows:
            trained = 'iter' in row
            here = row['iter'] if trained else here
            # a host logs metrics by epoch or by iteration; the rows stand in the order of time
            place = (
                here if trained or not isinstance(row.get('step'), int) or row['step'] < here else row['step']
            )
            self.epochs = max(self.epochs, row.get('epoch', 0) if isinstance(row.get('epoch', 0), int) else 0)
            for key, value in row.items():
                if (
                    key in PLACES
                    or isinstance(value, bool)
                    or not isinstance(value, (int, float))
                    or (not trained and key in TIMES)
                ):
                    continue
                if not trained and key not in self.metric_keys:
                    self.metric_keys.append(key)
                self.curves.setdefault(key, []).append((place, float(value)))
        self.curves = {key: points for key, points in self.curves.items() if points}
        self.metric_keys = [key for key in self.metric_keys if key in self.curves]
        for path in sorted(start.glob('*.json')):
            content = _json(path.read_text(encoding='utf-8', errors='replace'))
            if isinstance(content, dict):
                self.tests.append((start, {key: value for key, value in content.items() if key not in TIMES}))

    def settings(self) -> dict:
        """The newest config as values; {} where it is no plain Python of literals."""
        try:
            return read_settings(self.config)
        except ValueError:
            return {}

    def planned(self) -> int | None:
        """How many iterations the config asks for; None where only the data would tell."""
        loop = self.settings().get('train_cfg')
        value = loop.get('max_iters') if isinstance(loop, dict) else None
        return value if isinstance(value, int) else None

    def environment(self) -> list[tuple[str, str]]:
        """(name, value) pairs that the newest log begins with."""
        text = self.log.read_text(encoding='utf-8', errors='replace')[:20000] if self.log else ''
        found = re.search(r'System environment:\n(.*?)\n-{20,}', text, re.DOTALL)
        pairs = re.findall(r'^ {4}([^\s:][^:\n]*): (.*)$', found.group(1), re.MULTILINE) if found else []
        return [
            (name, value)
            for name, value in pairs
            if not name.startswith(('PyTorch compiling', 'MUSA', 'numpy_random'))
        ]

    def pictures(self) -> list[Path]:
        """Image files in the folder, newest last."""
        kinds = ('.png', '.jpg', '.jpeg', '.webp')
        found = [
            path
            for path in self.folder.rglob('*')
            if path.suffix.lower() in kinds
            and path.is_file()
            and path.stat().st_size
            and 'wandb' not in path.relative_to(self.folder).parts
        ]  # which keeps copies
        return sorted(found, key=lambda path: (path.stat().st_mtime, str(path)))

    def checkpoints(self) -> list[Path]:
        """Checkpoint files, oldest first."""
        found = [
            path
            for path in self.folder.iterdir()
            if path.suffix in ('.pth', '.pt', '.safetensors') and path.is_file()
        ]
        return sorted(found, key=lambda path: (path.stat().st_mtime, path.name))


def _nested(folder: Path) -> str:
    """Where a run may have been meant: a folder below that holds one, or the one above."""
    if STAMP.match(folder.resolve().name) or folder.name == 'vis_data':
        return f'; did you mean {folder.resolve().parent}?'
    below = [
        path
        for path in sorted(folder.iterdir())
        if path.is_dir() and any(STAMP.match(entry.name) for entry in path.iterdir())
    ]
    return f'; did you mean {below[0]}?' if below else ''


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _rows(path: Path) -> Iterator[dict]:
    """Lines of a log of scalars; one that a run was killed in the middle of is left out."""
    if path.is_file():
        for line in path.read_text(encoding='utf-8', errors='replace').splitlines():
            row = _json(line)
            if isinstance(row, dict):
                yield row


def _times(log: Path) -> tuple[datetime | None, datetime | None]:
    found = LOG_TIME.findall(log.read_text(encoding='utf-8', errors='replace'))
    times = (
        [datetime.strptime(text, '%Y/%m/%d %H:%M:%S') for text in (found[0], found[-1])]
        if found
        else [None, None]
    )
    return times[0], times[1]


def read_settings(text: str) -> dict:
    """The values of a config that was written out: assignments of literals and ``dict(...)``; nothing is executed.

    Raises:
        ValueError: it is anything else.
    """
    try:
        tree: Any = ast.parse(text)  # what is not an assignment has no targets
        return {node.targets[0].id: _value(node.value) for node in tree.body}
    except (SyntaxError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f'no config of plain values: {error}') from error


def _value(node: ast.expr | None) -> Any:
    if node is None:
        raise ValueError('a dict with ** in it')
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) <= 1:
        called = node.func.id
        if called == 'dict':
            return {
                **(_value(node.args[0]) if node.args else {}),
                **{item.arg: _value(item.value) for item in node.keywords},
            }
        if called in ('set', 'float'):
            return (set if called == 'set' else float)(*map(_value, node.args))
    if isinstance(node, ast.Dict):
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True)}
    if isinstance(node, (ast.List, ast.Tuple, ast.Set)):
        kind = {ast.List: list, ast.Tuple: tuple, ast.Set: set}[type(node)]
        return kind(_value(item) for item in node.elts)
    return ast.literal_eval(node)


def smoothed(values: list[float], window: int) -> list[float]:
    """Running means over ``window`` values about each, fewer at the ends; a value that is not finite stays out of them."""
    half, result = window // 2, []
    for place in range(len(values)):
        near = [value for value in values[max(0, place - half) : place + half + 1] if math.isfinite(value)]
        result.append(sum(near) / len(near) if near else math.nan)
    return result


def is_better_lower(key: str) -> bool:
    """Whether less of a metric is more."""
    name = key.rpartition('/')[2].lower()
    return any(word in name for word in ('loss', 'error', 'perplexity')) or name.startswith(
        ('noc@', 'nof@')
    )  # clicks; images that failed
