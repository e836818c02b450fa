"""Images of any values and channels as pictures: three channels of 8 bits, RGB."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import numpy as np

from mmssl.data import images
from mmssl.data.eight_bits import CHANNELS_HINT, PAGES_HINT, RANGE_HINT, ImageSettingError
from mmssl.data.images import MAX_PIXELS, orient
from mmssl.data.reader import ImageReader, decode_pixels, in_range
from mmssl.errors import BadImageError

_RANGE_OPTION = (
    'give its range, as --value-range LOW,HIGH, or --value-range image for percentiles of the image itself'
)
_PAGE_OPTION = 'choose one, as --page 0'
_BANDS_OPTION = 'choose those to show, as --bands 2,1,0'
_OPTIONS = ((RANGE_HINT, _RANGE_OPTION), (PAGES_HINT, _PAGE_OPTION), (CHANNELS_HINT, _BANDS_OPTION))


class PictureSettings(NamedTuple):
    """How an image that is not 8-bit RGB becomes a picture.

    Attributes:
        bands: Channels that are shown as red, green and blue, from 0; or a single one, shown in grey. All
            channels of an image of one or three, if None.
        value_range: What becomes black and white, as of :class:`mmssl.data.reader.ImageReader`; with
            ``bands``, percentiles of the image are the default.
        page: Page of a stack, or 'channels'.
        reading: Further settings of the reader.
    """

    bands: tuple[int, ...] | None = None
    value_range: Any = None
    page: int | str | None = None
    reading: Mapping[str, Any] = {}

    def __bool__(self) -> bool:
        return any(value not in (None, {}) for value in self._without_arrays())

    def _without_arrays(self) -> tuple:
        return self.bands, None if self.value_range is None else 'range', self.page, dict(self.reading)


_DEFAULT = PictureSettings()
_CURRENT: ContextVar[PictureSettings] = ContextVar('pictures', default=_DEFAULT)


@contextlib.contextmanager
def showing(settings: PictureSettings) -> Iterator[None]:
    """Read pictures with these settings inside the context, in this thread."""
    token = _CURRENT.set(settings)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def settings_of_config(reading: Mapping[str, Any], bands: Sequence[int] | None = None) -> PictureSettings:
    """Return the settings of the pictures of a config.

    Args:
        reading: Settings of its loader transform, of :func:`mmssl.data.reader_settings.reader_settings`.
        bands: Channels to show. The first three, or the only one, of images whose number of channels the
            config says, if None.
    """
    rest = {key: value for key, value in reading.items() if key in ('channels', 'channel_axis')}
    channels = reading.get('channels')
    count = len(channels) if isinstance(channels, Sequence) else channels
    if bands is None and count is not None:
        bands = (0, 1, 2) if count >= 3 else (0,)
    value_range = reading.get('value_range')
    if isinstance(value_range, str) and value_range == 'raw':
        value_range = 'image'
    return PictureSettings(None if bands is None else tuple(bands), value_range, reading.get('pages'), rest)


def read_rgb(
    path: str | os.PathLike, settings: PictureSettings | None = None, page: int | None = None
) -> np.ndarray:
    """Read an image as a picture, upright.

    Args:
        path: Path of a file, or a path that leads through an archive.
        settings: How to show it; those of :func:`showing` by default.
        page: Page of a stack, for data sets that list them one by one.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        FileNotFoundError: There is no such file.
        BadImageError: The file is not a readable image, or is none of 8-bit RGB without the settings that it
            needs, which the message names.
    """
    settings = _CURRENT.get() if settings is None else settings
    path = os.fspath(path)
    try:
        if page is None and not settings.bands and settings.page is None and not settings.reading:
            try:  # 8-bit RGB, which has a range
                return images.read_rgb(path)
            except ImageSettingError:
                if not settings:
                    raise
        return _read_values(path, settings, page)
    except ImageSettingError as error:
        raise _with_options(error, path) from None


def read_channels(
    path: str | os.PathLike, num_channels: int, settings: PictureSettings | None = None
) -> np.ndarray:
    """Read all channels of an image, upright.

    Args:
        path: Path of a file, or a path that leads through an archive.
        num_channels: C; another number is an error.
        settings: How to read it, without ``bands``; those of :func:`showing` by default.

    Returns:
        (H, W, C) uint8, in the order of the file.

    Raises:
        FileNotFoundError, BadImageError: As for :func:`read_rgb`.
    """
    settings = _CURRENT.get() if settings is None else settings
    path = os.fspath(path)
    reading = {'channels': num_channels, **settings.reading}
    try:
        image = ImageReader(value_range=settings.value_range, pages=settings.page, **reading).open(path)
        pixels = orient(in_range(decode_pixels(image), image), image.orientation)
    except ImageSettingError as error:
        raise _with_options(error, path) from None
    pixels = pixels[..., ::-1] if num_channels == 3 else pixels
    if pixels.shape[2] != num_channels:
        raise BadImageError(f'has {pixels.shape[2]} channels, and the model reads {num_channels}', path)
    return np.ascontiguousarray(np.rint(pixels).clip(0, 255).astype(np.uint8))


def shown_channels(num_channels: int, settings: PictureSettings | None = None) -> list[int]:
    """Return the three of the channels of an array that are shown as red, green and blue.

    Args:
        num_channels: Number of channels of the array.
        settings: As for :func:`read_rgb`. Without ``bands`` they are the first three, or the first one.

    Raises:
        ValueError: There are not as many channels as ``bands`` needs.
    """
    settings = _CURRENT.get() if settings is None else settings
    bands = settings.bands or ((0, 1, 2) if num_channels >= 3 else (0,))
    if max(bands) >= num_channels:
        numbers = ','.join(map(str, bands))
        raise ValueError(f'--bands {numbers}: the images have {num_channels} channels, counted from 0')
    return [*bands] if len(bands) == 3 else [bands[0]] * 3


def show_pixels(pixels: np.ndarray, settings: PictureSettings | None = None) -> np.ndarray:
    """Return the picture of what a loader transform has read.

    Args:
        pixels: (H, W, C) from 0 to 255; three channels are BGR.
        settings: As for :func:`shown_channels`.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    count = pixels.shape[2]
    if count == 3:
        pixels = pixels[..., ::-1]
    shown = pixels[..., shown_channels(count, settings)]
    if shown.dtype != np.uint8:
        shown = np.rint(shown).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(shown)


def picture_size(
    path: str | os.PathLike, settings: PictureSettings, max_pixels: int = MAX_PIXELS
) -> tuple[int, int]:
    """Return width and height of a picture, without decoding an image of 8 bits.

    Raises:
        FileNotFoundError, BadImageError: As for :func:`read_rgb`.
    """
    path = os.fspath(path)
    try:
        image = _reader(settings, max_pixels).open(path) if settings else images.open_image(path, max_pixels)
    except ImageSettingError as error:
        raise _with_options(error, path) from None
    return image.width, image.height


def _reader(settings: PictureSettings, max_pixels: int = MAX_PIXELS) -> ImageReader:
    value_range = settings.value_range
    if value_range is None and settings.bands:
        value_range = 'image'
    return ImageReader(max_pixels, value_range, pages=settings.page, **settings.reading)


def _read_values(path: str, settings: PictureSettings, page: int | None) -> np.ndarray:
    reader = _reader(settings)
    if not reader.reads_values:  # nothing but a page of a data set
        reader = ImageReader(channels=3)
    image = reader.open(path, page)
    pixels = in_range(decode_pixels(image), image)
    if not settings.bands and pixels.shape[2] not in (1, 3):
        raise BadImageError(f'has {pixels.shape[2]} channels; {_BANDS_OPTION}', path)
    try:
        return show_pixels(orient(pixels, image.orientation), settings)
    except ValueError as error:
        raise BadImageError(str(error), path) from None


def _with_options(error: ImageSettingError, path: str) -> ImageSettingError:
    """Name the options of commands in place of the settings of transforms."""
    reason = error.reason
    for hint, option in _OPTIONS:
        reason = reason.replace(hint, option)
    if 'in the loader transform' in reason:  # a format that Pillow does not know
        reason = f'{reason.partition(";")[0]}; {_RANGE_OPTION}'
    return ImageSettingError(reason, path)
