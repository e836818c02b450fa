"""Results of the parts: a JSON file that is complete after every row, so that a cut run still counts."""

import contextlib
import json
import math
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


class OutOfTimeError(Exception):
    """The time of a part is used up."""


class Check:
    """One part of the check.

    Args:
        part: Letter of the part.
        device: Device to check.
        quick: Use the smallest sizes and few cases.
        seconds: Time of the part.
        out: The JSON file; the part's rows are added to it.
    """

    def __init__(self, part: str, device: torch.device, quick: bool, seconds: float, out: Path):
        self.part = part
        self.device = device
        self.quick = quick
        self.out = out
        self.rows: list[dict[str, Any]] = []
        self.start = time.monotonic()
        self.deadline = self.start + seconds

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == 'cuda'

    @property
    def seconds_left(self) -> float:
        """Seconds until the part's time is used up."""
        return self.deadline - time.monotonic()

    def add(self, name: str, ok: bool | None = None, **values: Any) -> None:
        """Add a row, print it, and write the file.

        Args:
            name: What was checked or measured.
            ok: Whether it is right; None for a measurement, or for what was not measured.
            **values: Results; those that are None or '' are left out.
        """
        known = {key: strict(value) for key, value in values.items() if value not in (None, '')}
        self.rows.append({'name': name, 'ok': ok, **known})
        print(f'{self.part}  {describe(self.rows[-1])}', flush=True)
        self.write('unfinished')

    def run(self, name: str, call: Callable, *arguments) -> None:
        """Call a function that adds rows; add a row that says so if it fails or the time is used up."""
        if self.seconds_left <= 0:
            self.add(name, note='not measured: out of time')
            return
        try:
            call(self, *arguments)
        except ImportError as error:
            self.add(name, note=f'not measured: {error.name or error} is not installed')
        except torch.OutOfMemoryError:
            self.add(name, note='not measured: out of memory')
        except OutOfTimeError:
            self.add(name, note='not measured: out of time')
        except Exception as error:
            traceback.print_exc(limit=-8)
            text = str(error).strip().partition('\n')[0]
            self.add(name, ok=False, note=f'{type(error).__name__}: {text}'[:400])

    def require_time(self, seconds: float) -> None:
        """Raise OutOfTimeError if less than this is left."""
        if self.seconds_left < seconds:
            raise OutOfTimeError

    def write(self, status: str) -> None:
        """Write the rows into the file, which is replaced as a whole."""
        seconds = round(time.monotonic() - self.start, 1)
        update(self.out, self.part, {'status': status, 'seconds': seconds, 'rows': self.rows})


def describe(row: dict[str, Any]) -> str:
    """Return a row as one line."""
    mark = {True: 'ok    ', False: 'BROKEN', None: '      '}[row['ok']]
    values = ', '.join(
        f'{name} {rounded(value)}' for name, value in row.items() if name not in ('name', 'ok')
    )
    return f'{mark}  {row["name"]}: {values}'


def rounded(value: Any) -> Any:
    """Return numbers with three significant digits as text, other values as they are."""
    if isinstance(value, float):
        return f'{value:.3g}'
    if isinstance(value, dict):
        return ', '.join(f'{name} {rounded(entry)}' for name, entry in value.items())
    return value


def strict(value: Any) -> Any:
    """Return NaN and infinity, which JSON lacks, as text; other values as they are."""
    if isinstance(value, dict):
        return {key: strict(entry) for key, entry in value.items()}
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read(path: Path) -> dict[str, Any]:
    """Read the results; {} if there are none."""
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else {}


def update(path: Path, part: str, values: dict[str, Any]) -> None:
    """Set the results of a part in the file."""
    content = read(path)
    content.setdefault('parts', {}).setdefault(part, {}).update(values)
    write(path, content)


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace the file as a whole."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    try:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + '\n', encoding='utf-8')
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
