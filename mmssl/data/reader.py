"""How a loader transform reads an image: 8-bit RGB, or values of any type with the range that it is given."""

from typing import Any, NamedTuple

import numpy as np

from mmssl.data.array_formats import ArrayFile, image_error, open_array, read_page
from mmssl.data.eight_bits import PAGES_HINT, RANGE_HINT, ImageSettingError
from mmssl.data.images import MAX_PIXELS, EncodedImage, decode, open_image, read_file
from mmssl.data.value_range import (
    check_channels,
    fill_missing,
    range_of_image,
    scale_values,
    select_channels,
)
from mmssl.errors import BadImageError
from mmssl.ops.value_range import check_value_range


class ValuesHeader(NamedTuple):
    """What :class:`mmssl.data.images.EncodedImage` has of Pillow's header.

    Attributes:
        size: Stored width and height.
        format: Never the format that decodes at a smaller scale.
        mode: Type of the values.
    """

    size: tuple[int, int]
    format: str
    mode: str


class ValuesImage(NamedTuple):
    """An image of any values, decoded.

    Attributes:
        path: The file.
        data: Its bytes.
        header: Size and type of the stored values.
        width: Width after the orientation has been applied.
        height: Height after the orientation has been applied.
        orientation: EXIF orientation, 1 to 8.
        values: (H, W, C) as stored; three channels are in reversed order, BGR.
        value_range: (1 or C, 2), the values that become 0 and 255; None leaves the values alone.
        no_data: Value that stands for no data, or None.
    """

    path: str
    data: bytes
    header: ValuesHeader
    width: int
    height: int
    orientation: int
    values: np.ndarray
    value_range: np.ndarray | None
    no_data: float | None

    @property
    def is_transposed(self) -> bool:
        """True if rows are stored as columns (orientations 5 to 8)."""
        return self.orientation >= 5


READER_SETTINGS = ('value_range', 'channels', 'pages', 'channel_axis')
OpenedImage = EncodedImage | ValuesImage


class ImageReader:
    """Reads images for a loader transform.

    Without settings images are 8-bit BGR, and any file that has more bits, bands or pages raises an error
    that names the setting. With any of them, values are read as the file holds them.

    Args:
        max_pixels: Largest image to accept, width times height.
        value_range: Values that become 0 and 255: (low, high), such a pair for each channel, 'image' for
            percentiles of each image, 'window' for the window of a DICOM file, or 'raw' to leave the scaling
            to the data preprocessor. None is enough for 8 bits.
        channels: Number of channels that every image has, or indices of those to load.
        pages: Which page of a TIFF, frame of a DICOM file or entry of a stack to load, from 0; 'channels'
            joins all of them as channels.
        channel_axis: Axis of the channels of NumPy arrays, -1 or 0, where their shape leaves it open.
    """

    def __init__(
        self,
        max_pixels: int = MAX_PIXELS,
        value_range: Any = None,
        channels: Any = None,
        pages: int | str | None = None,
        channel_axis: int | None = None,
    ):
        self.max_pixels = max_pixels
        self.value_range = check_value_range(value_range)
        self.channels = check_channels(channels)
        if not (pages is None or pages == 'channels' or (isinstance(pages, int) and pages >= 0)):
            raise ValueError(f"pages={pages!r} must be the number of a page, from 0, or 'channels'")
        self.pages = pages
        if channel_axis not in (None, 0, -1):
            raise ValueError(f'channel_axis={channel_axis!r} must be 0 (channels first) or -1 (last)')
        self.channel_axis = channel_axis
        settings = (value_range, channels, pages, channel_axis)
        self.reads_values = any(setting is not None for setting in settings)

    def unlike_rgb(self) -> str | None:
        """Say in which way the images are not 8-bit RGB by the settings; None if they may be."""
        if self.value_range is not None:
            return 'images with a value_range'
        count = len(self.channels) if isinstance(self.channels, list) else self.channels
        if count not in (None, 3):
            return f'images of {count} channels'
        return "pages='channels'" if self.pages == 'channels' else None

    def open(self, path: str, page: int | None = None) -> OpenedImage:
        """Open an image.

        Args:
            path: Path of a file, or a path that leads through an archive.
            page: The page, for data sets that list the pages of a file one by one.

        Raises:
            FileNotFoundError: There is no such file.
            BadImageError: The file is not a readable image, or not without another setting.
        """
        if not self.reads_values and page is None:
            return open_image(path, self.max_pixels)
        data = read_file(path, self.max_pixels)
        file = open_array(data, path, self.channel_axis)
        values = self._values(file, path, page)
        stored_height, stored_width = values.shape[:2]
        value_range = self._range(values, file, self.pages if page is None else page, path)
        if value_range is not None:
            values = fill_missing(values, value_range, file.no_data)
        if values.shape[2] == 3:  # BGR to the toolboxes, whose data preprocessors reverse them again
            values = (  # torch resizes bytes where they are, and takes no negative strides
                np.ascontiguousarray(values[..., ::-1]) if values.dtype == np.uint8 else values[..., ::-1]
            )
            value_range = value_range[::-1] if value_range is not None else None
        height, width = (stored_height, stored_width)[:: -1 if file.orientation >= 5 else 1]
        header = ValuesHeader((stored_width, stored_height), 'values', str(values.dtype))
        return ValuesImage(
            path, data, header, width, height, file.orientation, values, value_range, file.no_data
        )

    def _values(self, file: ArrayFile, path: str, page: int | None) -> np.ndarray:
        pages = self.pages if page is None else page
        if pages is None:
            if file.pages > 1:
                raise ImageSettingError(f'a file of {file.pages} pages; {PAGES_HINT}', path)
            pages = 0
        if isinstance(pages, int):
            if pages >= file.pages:
                raise BadImageError(f'has {file.pages} pages, counted from 0, and pages={pages} is set', path)
            values = read_page(file, pages, path, self.max_pixels)
        else:
            each = [read_page(file, number, path, self.max_pixels) for number in range(file.pages)]
            if len({values.shape[:2] for values in each}) > 1:
                raise BadImageError("its pages differ in size, and pages='channels' is set", path)
            values = np.concatenate(each, axis=2)
        return select_channels(values, self.channels, path)

    def _range(
        self, values: np.ndarray, file: ArrayFile, pages: int | str | None, path: str
    ) -> np.ndarray | None:
        value_range = self.value_range
        if value_range is None and values.dtype != np.uint8:
            raise ImageSettingError(f'{values.dtype} values have no known range; {RANGE_HINT}', path)
        if value_range is None or isinstance(value_range, str):
            if value_range == 'window':
                return _window(file, pages, path)
            return range_of_image(values, file.no_data) if value_range == 'image' else None
        if len(value_range) not in (1, values.shape[2]):
            raise BadImageError(
                f'has {values.shape[2]} channels, and value_range has {len(value_range)} pairs', path
            )
        return value_range


def _window(file: ArrayFile, pages: int | str | None, path: str) -> np.ndarray:
    """Return the window of a page, or of each of the pages that are channels, as (1 or C, 2)."""
    numbers = range(file.pages) if pages == 'channels' else [pages or 0]
    try:
        windows = [file.window(int(number)) for number in numbers]
    except Exception as error:  # values of other types than the standard says
        raise image_error(error, path) from None
    if None in windows:
        raise ImageSettingError(f"has no window, and value_range='window' is set; {RANGE_HINT}", path)
    return np.asarray(windows, np.float64)


def decode_pixels(image: OpenedImage, reduction: int = 1) -> np.ndarray:
    """Decode an image: :func:`mmssl.data.images.decode`, or the values that have been read."""
    return image.values if isinstance(image, ValuesImage) else decode(image, reduction)


def in_range(pixels: np.ndarray, image: OpenedImage) -> np.ndarray:
    """Scale pixels of an image, perhaps cropped and resized, to 0 to 255, if the image has a range.

    Returns:
        (H, W, C): uint8 for images of 8 bits without a range, else float32.
    """
    if not isinstance(image, ValuesImage):
        return pixels
    if image.value_range is not None:
        return scale_values(pixels, image.value_range)
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32, copy=False)


def count_pages(path: str) -> int:
    """Return the number of pages of a file; 1 for one that cannot be read, which its loader reports."""
    try:
        return open_array(read_file(path), path, channel_axis=-1).pages
    except (BadImageError, OSError):
        return 1
