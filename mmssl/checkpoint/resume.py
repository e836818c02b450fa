"""The checkpoint from which a run is resumed."""

import re
from pathlib import Path

from mmssl.checkpoint.files import load_file


def find_resume_checkpoint(work_dir, quiet: bool = False) -> Path | str | None:
    """Find the checkpoint that ``last_checkpoint`` names, or else the newest readable one.

    A named path is searched inside ``work_dir`` first, so that a directory that was moved or copied finds its
    own files.

    Args:
        work_dir: Work directory of a run.
        quiet: Do not log why another checkpoint than the named one is used.

    Returns:
        The file (a directory for sharded checkpoints, a string for another storage backend), or None if
        there is nothing to resume.
    """
    work_dir = Path(work_dir)
    note = work_dir / 'last_checkpoint'
    named = note.read_text(encoding='utf-8').strip() if note.is_file() else ''
    if '://' in named:
        return named  # in another storage backend, which alone can check it
    if named:
        checkpoint, problem = _named_checkpoint(work_dir, named)
        if checkpoint is not None:
            return checkpoint
    else:
        problem = 'last_checkpoint is missing'
    candidates = sorted(
        (path for path in work_dir.glob('*.pth') if path.is_file()),
        key=lambda path: path.stat().st_mtime_ns,
        reverse=True,
    )
    newest = next((path for path in candidates if not _problem(path, ('meta', 'optimizer'))), None)
    if newest is not None:
        outcome = f'going on from {newest.name}, the newest checkpoint in {work_dir} that can be resumed'
    else:
        outcome = f'no other checkpoint in {work_dir} can be resumed: starting from the beginning'
    if not quiet and (named or candidates):
        from mmengine.logging import print_log

        print_log(f'{problem}; {outcome}', logger='current', level=30)
    return newest


def _named_checkpoint(work_dir: Path, named: str) -> tuple[Path | None, str]:
    """Return the checkpoint named by ``last_checkpoint`` if it can be resumed, else None and the reason."""
    problem = f'{named}, named by last_checkpoint, is not there'
    file_name = re.split(r'[\\/]', named)[-1]  # Windows and POSIX paths alike
    for candidate in (work_dir / named, work_dir / file_name):
        if candidate.is_dir() and any(candidate.iterdir()):
            return candidate, ''
        if candidate.exists():
            problem = _problem(candidate)
            if not problem:
                return candidate, ''
    return None, problem


def _problem(path: Path, required: tuple[str, ...] = ('meta',)) -> str:
    """Return why a file cannot be resumed, '' if it can. The tensors of a zip archive are not read."""
    try:
        checkpoint = load_file(path, mmap=True)
    except (ValueError, OSError, RuntimeError) as error:
        return str(error)
    if not isinstance(checkpoint, dict) or any(key not in checkpoint for key in required):
        return f'{path} holds weights only'
    return '' if 'iter' in checkpoint['meta'] else f'{path} holds weights only'


def seed_from_checkpoint(path) -> int | None:
    """Return the seed of the run that wrote a checkpoint; None if it was not saved.

    For an exact resume the samplers must be built with it.
    """
    path = Path(path)
    if path.is_dir():
        path = next(iter(sorted(path.glob('*.pth'))), path)
    checkpoint = load_file(path, mmap=True)
    return checkpoint.get('meta', {}).get('seed') if isinstance(checkpoint, dict) else None
