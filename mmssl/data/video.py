"""Frames of videos at regular times, decoded by PyAV."""

import logging
import os
import re
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import cv2
import numpy as np

from mmssl.errors import UserError

VIDEO_SUFFIXES = (
    '.mp4',
    '.m4v',
    '.mov',
    '.avi',
    '.mkv',
    '.webm',
    '.mpg',
    '.mpeg',
    '.ts',
    '.mts',
    '.m2ts',
    '.wmv',
    '.flv',
    '.ogv',
)
_UNITS = {'ms': Fraction(1, 1000), 's': Fraction(1), 'm': Fraction(60), 'h': Fraction(3600), '': Fraction(1)}
# frames are compared as pictures of so many cells, a cell has changed by so many of 255 levels of a color
_SIDE = 64
_CHANGED_LEVELS = 8


class VideoError(UserError, ValueError):
    """A file is no video that can be decoded.

    Args:
        reason: What is wrong with it.
        path: The file.
    """

    def __init__(self, reason: str, path: str):
        super().__init__(f'{path}: {reason}')


class Frame(NamedTuple):
    """A frame of a video.

    Attributes:
        milliseconds: Its time after the first frame, rounded.
        pixels: (H, W, 3) uint8, RGB, upright.
    """

    milliseconds: int
    pixels: np.ndarray


def parse_interval(text: str) -> Fraction:
    """Return an interval in seconds: '1s', '500ms', '2m', '0.5'.

    Raises:
        ValueError: It is none, or is not above 0.
    """
    match = re.fullmatch(r'(\d+(?:\.\d+)?)\s*(ms|s|m|h|)', text.strip())
    interval = Fraction(match.group(1)) * _UNITS[match.group(2)] if match else Fraction(0)
    if interval <= 0:
        raise ValueError(f'{text!r} is no interval; give for example 1s, 500ms or 2m')
    return interval


def frames_of(
    path: str | os.PathLike,
    interval: Fraction,
    on_damage: Callable[[str], object] = lambda reason: None,
    on_time: Callable[[float], object] = lambda seconds: None,
) -> Iterator[Frame]:
    """Yield the first frame of a video, and after each interval the first frame from then on.

    Every frame is decoded, for only that finds the same frames in all formats; those between cost no
    conversion.

    Args:
        path: The video.
        interval: Seconds between frames; all frames if it is shorter than between them.
        on_damage: Called with the reason for each packet that cannot be decoded, and is left out.
        on_time: Called with the time in seconds of each decoded frame.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: The package av is missing.
        VideoError: It is no video, or none of its frames can be decoded.
    """
    path = os.fspath(path)
    av = _import_av(path)
    start: Fraction | None = None
    due = Fraction(0)
    try:
        container = av.open(path)
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} does not exist') from None
    except av.FFmpegError as error:
        raise VideoError(f'no video that FFmpeg reads: {error.strerror}', path) from None
    with container:
        if not container.streams.video:
            raise VideoError('has no video stream', path)
        stream = container.streams.video[0]
        stream.thread_type = 'AUTO'
        for frame in _decoded(av, container, stream, on_damage):
            if frame.pts is None:
                continue
            time = frame.pts * frame.time_base
            start = time if start is None else start
            time -= start
            on_time(float(time))
            if time < due:
                continue
            due = (time // interval + 1) * interval
            yield Frame(round(1000 * time), _upright(frame))
    if start is None:
        raise VideoError('none of its frames can be decoded', path)


def duration_of(path: str | os.PathLike) -> float:
    """Return the length of a video in seconds as its header states it; 0 if it does not."""
    av = _import_av(os.fspath(path))
    try:
        with av.open(os.fspath(path)) as container:
            return float(Fraction(container.duration or 0, av.time_base))
    except (OSError, av.FFmpegError):
        return 0.0


def _import_av(path: str) -> Any:
    try:
        import av
    except ImportError:
        raise ImportError(
            f"{path} is decoded by PyAV, which is missing: pip install 'mmssl[video]'"
        ) from None
    logging.getLogger('libav').setLevel(logging.CRITICAL)
    return av


def _decoded(av: Any, container: Any, stream: Any, on_damage: Callable[[str], object]) -> Iterator[Any]:
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
            frames = packet.decode()
        except StopIteration:
            return
        except av.EOFError:
            return
        except av.FFmpegError as error:
            on_damage(error.strerror)
            continue
        yield from frames


def _upright(frame: Any) -> np.ndarray:
    pixels = frame.to_ndarray(format='rgb24')
    turns = round(getattr(frame, 'rotation', 0) / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns))


class SimilarityFilter:
    """Tells frames that show almost what the last frame that was let through shows.

    Frames are averaged to 64x64 cells; a cell has changed if a color differs by more than 8 of 255 levels. So
    noise and compression change nothing, and an object of the size of a few cells does.

    Args:
        percent: Share of the cells that must change; 0 lets every frame through.
    """

    def __init__(self, percent: float):
        self.percent = percent
        self._last: np.ndarray | None = None

    def is_similar(self, pixels: np.ndarray) -> bool:
        """Return True for a frame to skip; remember any other.

        Args:
            pixels: (H, W, 3) uint8.
        """
        averages = cv2.resize(pixels, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.int16)
        if self._last is not None:
            changed = (np.abs(averages - self._last).max(axis=2) > _CHANGED_LEVELS).mean()
            if 100 * changed < self.percent:
                return True
        self._last = averages
        return False
