"""Frames of videos as images for training; an interrupted run continues."""

import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmssl.apis.output_folder import check_settings, locked, save_settings
from mmssl.data.video import (
    VIDEO_SUFFIXES,
    SimilarityFilter,
    VideoError,
    duration_of,
    frames_of,
    parse_interval,
)

COMMAND = 'frames'
FORMATS = ('jpg', 'png')
_QUALITY = 95
# in the folder of a video of which all frames are written
_COMPLETE = '.complete.json'


class ExtractedFrames(NamedTuple):
    """What :func:`frames` has done.

    Attributes:
        videos: Number of videos.
        written: Number of images written by this call.
        existing: Number of images that were there before.
        similar: Number of frames that were skipped as similar, among the videos of this call.
        damaged: A line for each video that cannot be decoded, or not as a whole.
    """

    videos: int
    written: int
    existing: int
    similar: int
    damaged: list[str]


def frames(
    videos: str | os.PathLike | Iterable[str | os.PathLike],
    out: str | os.PathLike,
    every: str = '1s',
    skip_similar: float = 0.0,
    to: str = 'jpg',
    progress: bool = False,
) -> ExtractedFrames:
    """Write frames of videos as images: OUT/VIDEO/VIDEO_MILLISECONDS.jpg.

    Images are written whole or not at all. The same call continues an interrupted one: finished videos are
    not read again, and of the one that was interrupted only images that are missing are written.

    Args:
        videos: Videos, or folders that are searched for them.
        out: The folder to write.
        every: Time between frames, such as '1s', '500ms' or '2m'.
        skip_similar: Percent of the picture that must have changed since the last frame that was written; 0
            skips nothing.
        to: 'jpg' (quality 95) or 'png'.
        progress: Whether to show a progress bar.

    Raises:
        FileNotFoundError: There is no such video.
        ImportError: The package av is missing.
        ValueError: An argument is out of range, two videos have one name, or ``out`` was started otherwise.

    Examples:
        >>> from mmssl.apis import frames
        >>> frames('drive.mp4', 'images', every='2s', skip_similar=1)
    """
    interval = parse_interval(every)
    if to not in FORMATS:
        raise ValueError(f'to={to!r} is not one of {", ".join(FORMATS)}')
    if not 0 <= skip_similar <= 100:
        raise ValueError(f'skip_similar={skip_similar:g} must be a percentage, from 0 to 100')
    by_name = _by_name(find_videos(videos))
    out = Path(out)
    if out.is_file():
        raise NotADirectoryError(f'{out} is a file; name a folder')
    settings = dict(every=str(interval), skip_similar=skip_similar, to=to)
    check_settings(out, COMMAND, settings)
    for name in by_name:
        _check_source(out / name, by_name[name])
    results = []
    with locked(out, COMMAND):
        save_settings(out, COMMAND, settings)
        for name, path in by_name.items():
            results.append(_Video(path, out / name, to).write_frames(interval, skip_similar, progress))
    written, existing, similar = (sum(counts) for counts in zip(*(each[:3] for each in results), strict=True))
    return ExtractedFrames(len(by_name), written, existing, similar, [line for *_, line in results if line])


def find_videos(videos: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Path]:
    """List videos; folders are searched with their subfolders.

    Raises:
        FileNotFoundError: There is no such file, or a folder without videos.
    """
    items = [videos] if isinstance(videos, (str, os.PathLike)) else list(videos)
    paths: list[Path] = []
    for item in map(Path, items):
        if item.is_dir():
            below = sorted(path for path in item.rglob('*') if path.suffix.lower() in VIDEO_SUFFIXES)
            if not below:
                raise FileNotFoundError(f'{item} holds no video ({", ".join(VIDEO_SUFFIXES)})')
            paths += below
        elif not item.is_file():
            from mmssl.hints import nearest_path

            raise FileNotFoundError(f'{item} does not exist{nearest_path(str(item))}')
        else:
            paths.append(item)
    if not paths:
        raise ValueError('an empty list: there is no video in it')
    return paths


def _by_name(paths: Sequence[Path]) -> dict[str, Path]:
    by_name: dict[str, Path] = {}
    for path in paths:
        other = by_name.setdefault(path.stem, path)
        if other is not path and other.resolve() != path.resolve():
            raise ValueError(f'{other} and {path} have the same name; rename one, or give each its own --out')
    return by_name


def _identity(path: Path) -> dict[str, int]:
    status = path.stat()
    return dict(size=status.st_size, modified=status.st_mtime_ns)


def _read_complete(folder: Path) -> dict | None:
    import json

    try:
        return json.loads((folder / _COMPLETE).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return None


def _check_source(folder: Path, path: Path) -> None:
    complete = _read_complete(folder)
    if complete and complete['source'] != _identity(path):
        raise ValueError(f'{path} has changed since {folder} was written; remove that folder')


class _Video:
    """A video and the folder of its images."""

    def __init__(self, path: Path, folder: Path, to: str):
        self.path = path
        self.folder = folder
        self.to = to

    def write_frames(self, interval, skip_similar: float, progress: bool) -> tuple[int, int, int, str]:
        """Return the number of images written, existing before, and similar, and a line about damage."""
        from mmssl.checkpoint import write_json

        complete = _read_complete(self.folder)
        if complete:
            return 0, complete['images'], 0, complete['damage']
        for partial in self.folder.glob('.*.part'):  # of a run that was killed
            partial.unlink()
        try:
            written, existing, similar, reasons = self._write(interval, skip_similar, progress)
        except VideoError as error:
            return 0, 0, 0, str(error)
        damage = ''
        if reasons:
            damage = f'{self.path}: {len(reasons)} packets cannot be decoded, the first: {reasons[0]}'
        content = dict(source=_identity(self.path), images=written + existing, damage=damage)
        write_json(self.folder / _COMPLETE, content)
        return written, existing, similar, damage

    def _write(self, interval, skip_similar: float, progress: bool) -> tuple[int, int, int, list[str]]:
        from tqdm import tqdm

        reasons: list[str] = []
        similarity = SimilarityFilter(skip_similar)
        written = existing = similar = 0
        bar = tqdm(
            total=round(duration_of(self.path)) or None, desc=self.path.name, unit='s', disable=not progress
        )
        with bar:
            decoded = frames_of(
                self.path, interval, reasons.append, lambda seconds: bar.update(int(seconds) - bar.n)
            )
            for frame in decoded:
                image = self.folder / f'{self.path.stem}_{frame.milliseconds:09}.{self.to}'
                if skip_similar and similarity.is_similar(frame.pixels):
                    similar += 1
                elif image.exists():
                    existing += 1
                else:
                    _write_image(frame.pixels, image)
                    written += 1
        return written, existing, similar, reasons


def _write_image(pixels: np.ndarray, path: Path) -> None:
    from PIL import Image

    buffer = io.BytesIO()
    options = dict(format='JPEG', quality=_QUALITY) if path.suffix == '.jpg' else dict(format='PNG')
    Image.fromarray(pixels).save(buffer, **options)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f'.{path.name}.{os.getpid()}.part')
    try:
        partial.write_bytes(buffer.getvalue())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
