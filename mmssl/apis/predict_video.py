"""Frames of videos as images."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmssl.data.url_paths import is_url
from mmssl.errors import BadImageError, UserError

VIDEO_SUFFIXES = ('.mp4', '.mov', '.avi', '.mkv', '.webm', '.m4v', '.mpg', '.mpeg', '.wmv', '.ts')
QUALITY = 95


def is_video(path: str) -> bool:
    """Whether the ending of a file is that of a video."""
    return not is_url(path) and path.lower().endswith(VIDEO_SUFFIXES)


def extract_frames(path: str, root: str, out: Path, folder: str, every: int) -> list[str]:
    """Write frames of a video as JPEG files, in order of time, and return their paths.

    Frame 123 of ``clip.mp4`` becomes ``clip-000123.jpg``; the first is 0. An interrupted extraction goes on;
    of several processes one extracts, and the others wait for it.

    Args:
        path: The video.
        root: Folder that the names of the videos are below.
        out: Output folder.
        folder: Folder of the frames in it.
        every: Write a frame of so many.

    Raises:
        BadImageError: The file is no video, or has no frame.
        UserError: ``every`` is below 1.
        ImportError: PyAV is missing.
    """
    if every < 1:
        raise UserError(f'--every {every} must be at least 1')
    name = Path(path).relative_to(root).with_suffix('').as_posix()
    record = out / '.predict' / f'{name}.frames.json'
    status = os.stat(path)
    video = dict(video=os.path.basename(path), bytes=status.st_size, modified=status.st_mtime_ns, every=every)
    stem = os.path.abspath(out / folder / name)
    with _locked_record(record):
        content = _read(record)
        if {**content, 'frames': None} != {**video, 'frames': None}:
            content = video
            _remove_frames(stem)
        if not content.get('frames'):
            _write(record, content)
            content = {**content, 'frames': _extract(path, stem, every)}
            _write(record, content)
    return [f'{stem}-{number:06d}.jpg' for number in range(0, content['frames'], every)]


@contextlib.contextmanager
def _locked_record(record: Path) -> Iterator[None]:
    record.parent.mkdir(parents=True, exist_ok=True)
    with open(record.with_suffix('.lock'), 'w') as file:
        with contextlib.suppress(ImportError):  # not on this system
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _extract(path: str, stem: str, every: int) -> int:
    """Write the frames that are not there yet; return the number of all frames of the video."""
    try:
        import av
    except ImportError:
        raise ImportError(f"{path}: videos need PyAV: pip install 'mmssl[video]'") from None
    os.makedirs(os.path.dirname(stem), exist_ok=True)
    count = 0
    try:
        with av.open(path) as container:
            for count, frame in enumerate(container.decode(video=0), 1):
                file = Path(f'{stem}-{count - 1:06d}.jpg')
                if (count - 1) % every == 0 and not file.exists():
                    temporary = file.with_name(f'.{file.name}.{os.getpid()}.tmp')
                    frame.to_image().save(temporary, format='JPEG', quality=QUALITY)
                    os.replace(temporary, file)
    except (av.FFmpegError, IndexError) as error:
        if not count:
            raise BadImageError(f'not a readable video ({error})', path) from None
    if not count:
        raise BadImageError('a video without frames', path)
    return count


def _remove_frames(stem: str) -> None:
    for file in Path(stem).parent.glob(f'{Path(stem).name}-[0-9]*.jpg'):
        file.unlink()


def _read(record: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(record.read_bytes()))
    except (FileNotFoundError, ValueError):
        return {}


def _write(record: Path, content: dict[str, Any]) -> None:
    from mmssl.checkpoint import write_json

    write_json(record, content)
