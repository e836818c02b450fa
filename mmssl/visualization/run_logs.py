"""The log folder of one start of a run, as mmengine writes it."""

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

TIMESTAMP = re.compile(r'\d{8}_\d{6}')
LOG_TIME = re.compile(r'(\d{4}/\d\d/\d\d \d\d:\d\d:\d\d) - ')
SCALARS = 'vis_data/scalars.json'


class RunStart(NamedTuple):
    """One start of a run.

    Attributes:
        folder: Its log folder.
        first: First logged iteration.
        last: Last logged iteration.
        begin: Time of the first line of its log.
        end: Time of the last line of its log.
    """

    folder: Path
    first: int | None
    last: int | None
    begin: datetime
    end: datetime

    @property
    def seconds(self) -> float:
        """Time from the first to the last line of the log."""
        return (self.end - self.begin).total_seconds()


def read_rows(folder: Path) -> list[dict]:
    """Read the logged scalars of a start; a line that was cut off when the run was killed is left out."""
    path = folder / SCALARS
    if not path.is_file():
        return []
    rows = [parse_json(line) for line in path.read_text(encoding='utf-8', errors='replace').splitlines()]
    return [row for row in rows if isinstance(row, dict)]


def read_start(folder: Path, rows: list[dict]) -> RunStart:
    """Summarize a start.

    Args:
        folder: Its log folder, which has logged scalars.
        rows: The scalars, from :func:`read_rows`.
    """
    iterations = [row['iter'] for row in rows if isinstance(row.get('iter'), int)]
    times = [time for log in sorted(folder.glob('*.log'))[:1] for time in _log_times(log)]
    if times:
        begin, end = times[0], times[-1]
    else:
        begin = datetime.strptime(folder.name[:15], '%Y%m%d_%H%M%S')
        end = max(begin, datetime.fromtimestamp((folder / SCALARS).stat().st_mtime))
    return RunStart(folder, min(iterations, default=None), max(iterations, default=None), begin, end)


def _log_times(log: Path) -> Iterator[datetime]:
    """Yield the first and the last time in a log."""
    texts = LOG_TIME.findall(log.read_text(encoding='utf-8', errors='replace'))
    for text in texts[:1] + texts[-1:]:
        yield datetime.strptime(text, '%Y/%m/%d %H:%M:%S')


def parse_json(text: str) -> Any:
    """Return the value of a JSON text, or None if it is not valid."""
    try:
        return json.loads(text)
    except ValueError:
        return None


def is_timestamp(name: str) -> bool:
    """Return True for names of log folders, such as 20260131_235959."""
    return TIMESTAMP.match(name) is not None
