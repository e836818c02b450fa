"""Output folders of runs that continue where they stopped: one run at a time, always of the same settings."""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def locked(out: Path, command: str, part: tuple[int, int] | None = None) -> Iterator[None]:
    """Lock a folder, or a part of its images, against other runs; the lock ends with the process.

    Args:
        out: The folder, which is created.
        command: Name of the command, for the lock file and messages.
        part: (K, N): a part below 1/1 excludes only runs of the same part and of all images; None for
            commands without parts.

    Raises:
        OSError: Another run holds the lock.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on this system
        yield
        return
    index, count = part or (1, 1)
    name = f'.{command}-lock'
    if count == 1:
        locks = [(name, fcntl.LOCK_EX)]
    else:
        locks = [(name, fcntl.LOCK_SH), (f'{name}-{index}-{count}', fcntl.LOCK_EX)]
    cure = 'wait for it, or name another --out'
    if part:
        cure = 'wait for it, or give each a part of its own: --part 1/2 and --part 2/2'
    with contextlib.ExitStack() as files:
        for name, mode in locks:
            file = files.enter_context(open(out / name, 'w'))
            try:
                fcntl.flock(file, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(f'another mmssl {command} writes into {out}; {cure}') from None
        yield


@contextlib.contextmanager
def waiting(out: Path, command: str) -> Iterator[None]:
    """Wait for the processes of a command that are in the same block with the folder."""
    with open(out / f'.{command}-merge', 'w') as file:
        with contextlib.suppress(ImportError):  # not on this system
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def check_settings(out: Path, command: str, settings: Mapping[str, Any]) -> None:
    """Check that a folder was started with the same settings.

    Raises:
        ValueError: It was started with others.
    """
    path = _settings_file(out, command)
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding='utf-8'))
    for name in {**before, **settings}:
        if before.get(name) != settings.get(name):
            old, new = (
                f'{name}={values[name]}' if name in values else f'the default {name}'
                for values in (before, settings)
            )
            raise ValueError(
                f'{out} was started with {old}, not {new}; give the same settings, or another --out'
            )


def save_settings(out: Path, command: str, settings: Mapping[str, Any]) -> None:
    """Write the settings that a folder is started with."""
    from mmssl.checkpoint import write_json

    write_json(_settings_file(out, command), dict(settings))


def file_identity(path: str) -> dict[str, Any]:
    """Return name and size of a checkpoint, by which :func:`check_settings` recognises it."""
    size = os.path.getsize(path) if os.path.isfile(path) else 0
    return dict(checkpoint=os.path.basename(path), checkpoint_bytes=size)


def _settings_file(out: Path, command: str) -> Path:
    return out / f'.{command}-settings'
