"""The output folder of ``mmssl annotate``: one run at a time, and always the same settings."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from mmssl.commands.annotate_workers import Recipe

SETTINGS_FILE = '.annotate-settings'
LOCK_FILE = '.annotate-lock'


def parse_part(text: str) -> tuple[int, int]:
    """Parse 'K/N' with 1 <= K <= N.

    Raises:
        ValueError: The text does not have this form.
    """
    part, _, count = text.partition('/')
    if not (part.isdigit() and count.isdigit() and 1 <= int(part) <= int(count)):
        raise ValueError(f'--part {text} is not K/N with K from 1 to N, as 1/4')
    return int(part), int(count)


@contextlib.contextmanager
def locked(out: Path, part: tuple[int, int]) -> Iterator[None]:
    """Lock a folder, or a part of its images, against other runs; the lock ends with the process.

    Args:
        out: The folder, which is created.
        part: (K, N); 1/1 excludes all other runs, a smaller part only runs of the same part.

    Raises:
        OSError: Another run holds the lock.
    """
    out.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # not on this system
        yield
        return
    index, count = part
    if count == 1:
        locks = [(LOCK_FILE, fcntl.LOCK_EX)]
    else:
        locks = [(LOCK_FILE, fcntl.LOCK_SH), (f'{LOCK_FILE}-{index}-{count}', fcntl.LOCK_EX)]
    with contextlib.ExitStack() as files:
        for name, mode in locks:
            file = files.enter_context(open(out / name, 'w'))
            try:
                fcntl.flock(file, mode | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OSError(
                    f'another mmssl annotate writes into {out}; wait for it, or give each a part of its '
                    'own: --part 1/2 '
                    'and --part 2/2'
                ) from None
        yield


def _settings_of(recipe: Recipe) -> dict:
    size = os.path.getsize(recipe.checkpoint) if os.path.isfile(recipe.checkpoint) else 0
    return dict(
        model=recipe.model,
        checkpoint=os.path.basename(recipe.checkpoint),
        checkpoint_bytes=size,
        cfg_options=list(recipe.options),
        **recipe.settings,
    )


def check_settings(out: Path, recipe: Recipe) -> None:
    """Check that a folder was started with the same settings.

    Raises:
        ValueError: It was started with others.
    """
    path = out / SETTINGS_FILE
    if not path.is_file():
        return
    before = json.loads(path.read_text(encoding='utf-8'))
    now = _settings_of(recipe)
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            old, new = (
                f'{name}={settings[name]}' if name in settings else f'the default {name}'
                for settings in (before, now)
            )
            raise ValueError(
                f'{out} was started with {old}, not {new}; give the same settings, or another --out'
            )


def save_settings(out: Path, recipe: Recipe) -> None:
    """Write the settings that a folder is started with."""
    from mmssl.checkpoint import write_json

    write_json(out / SETTINGS_FILE, _settings_of(recipe))
