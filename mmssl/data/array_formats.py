"""Files of values as they are: uint8, uint16, int16 or float32, any number of channels and pages.

TIFF is read by tifffile and imagecodecs, DICOM by pydicom, NPY and NPZ by NumPy without pickles, PNG of 16
bits by OpenCV, and all else by Pillow.
"""

import io
import struct
import warnings
import zipfile

import cv2
import numpy as np
from PIL import Image

from mmssl.data.array_file import ArrayFile
from mmssl.data.dicom_file import DicomFile
from mmssl.data.eight_bits import ImageSettingError, format_of_values, netpbm_maximum
from mmssl.data.heif import bits_of, decode_deep, is_heic, register_heic
from mmssl.data.images import MAX_PIXELS
from mmssl.data.tiff_file import TiffFile
from mmssl.errors import BadImageError

MAX_CHANNELS = 64
_FEW_CHANNELS = 4
_ORIENTATION = 0x0112
_MAX_BYTES = 1 << 33
_EXACT_IN_FLOAT32 = 1 << 24
_BYTE = 255
_PILLOW_MODES = {
    '1': 'L',
    'P': 'RGB',
    'PA': 'RGBA',
    'YCbCr': 'RGB',
    'LAB': 'RGB',
    'HSV': 'RGB',
    'RGBX': 'RGB',
}


class NumpyFile(ArrayFile):
    """An array of NumPy: (H, W), (H, W, C), (C, H, W), or a stack of the latter two.

    Args:
        values: The array.
        channel_axis: -1 if channels are last and 0 if they are first; None takes the one of the two that has
            at most 4 entries, or at most 64.
    """

    def __init__(self, values: np.ndarray, channel_axis: int | None = None):
        if values.ndim == 2:
            values = values[..., None]
            channel_axis = -1
        if values.ndim not in (3, 4):
            raise ValueError(
                f'an array of shape {values.shape} is no image; (H, W), (H, W, C) or (C, H, W) are'
            )
        stack = values if values.ndim == 4 else values[None]
        if channel_axis is None:
            channel_axis = _channel_axis(stack.shape[1:])
        self._stack = stack if channel_axis == -1 else stack.transpose(0, 2, 3, 1)
        self.pages = len(stack)

    def size(self, page: int) -> tuple[int, int]:
        """Return height and width of a page."""
        return self._stack.shape[1], self._stack.shape[2]

    def read(self, page: int) -> np.ndarray:
        """Return the values of a page, (H, W, C)."""
        return self._stack[page]


def _channel_axis(shape: tuple[int, ...]) -> int:
    few = [axis for axis in (0, -1) if shape[axis] <= _FEW_CHANNELS]
    axes = few or [axis for axis in (0, -1) if shape[axis] <= MAX_CHANNELS]
    if len(axes) != 1:
        raise ImageSettingError(
            f'an array of shape {shape} may have its channels first or last; set channel_axis=-1 (last) or 0 '
            'in the loader transform'
        )
    return axes[0]


class PillowFile(ArrayFile):
    """An image that Pillow opens: the first frame, with alpha.

    Args:
        data: Bytes of the file.
    """

    pages = 1

    def __init__(self, data: bytes):
        if is_heic(data):
            register_heic()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            self._image = Image.open(io.BytesIO(data))
        self._data = data
        orientation = self._image.getexif().get(_ORIENTATION, 1)
        self.orientation = orientation if orientation in range(1, 9) else 1

    def size(self, page: int) -> tuple[int, int]:
        """Return height and width without decoding anything."""
        return self._image.height, self._image.width

    def read(self, page: int) -> np.ndarray:
        """Return the values, (H, W, C); colors of palettes are looked up."""
        image = self._image
        if image.format == 'PNG' and self._data[24] == 16:
            Image.open(io.BytesIO(self._data)).verify()  # the checksums, which OpenCV does not compare
            return _sixteen_bit_png(self._data)
        if image.format in ('HEIF', 'AVIF') and bits_of(self._data) > 8:
            return _with_channels(decode_deep(self._data))
        if image.format == 'PPM' and netpbm_maximum(self._data) > _BYTE:
            return _netpbm(self._data)
        if image.format == 'JPEG2000':
            return _jpeg2000(self._data)
        if image.mode == 'CMYK':
            image = image.convert('RGB')
        mode = _PILLOW_MODES.get(image.mode)
        return _with_channels(np.asarray(image.convert(mode) if mode else image))


class Jpeg2000File(ArrayFile):
    """A JPEG 2000 of bands that Pillow does not know.

    Args:
        data: Bytes of the file.
    """

    pages = 1

    def __init__(self, data: bytes):
        self._data = data

    def size(self, page: int) -> tuple[int, int]:
        """Return height and width without decoding anything: marker SIZ of ISO/IEC 15444-1, A.5.1."""
        start = self._data.index(b'\xff\x4f\xff\x51')
        right, bottom, left, top = struct.unpack('>4I', self._data[start + 8 : start + 24])
        return bottom - top, right - left

    def read(self, page: int) -> np.ndarray:
        """Return the values, (H, W, C)."""
        return _jpeg2000(self._data)


def _jpeg2000(data: bytes) -> np.ndarray:
    import imagecodecs

    return _with_channels(imagecodecs.jpeg2k_decode(data))


def _netpbm(data: bytes) -> np.ndarray:
    """Return the values of a PGM or PPM of 16 bits, which Pillow scales, and reduces to 8 bits in color."""
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError('undecodable')
    return _with_channels(values if values.ndim == 2 else values[..., ::-1])


def _sixteen_bit_png(data: bytes) -> np.ndarray:
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    values = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if values is None:
        raise ValueError('undecodable')
    color_type = data[25]
    if color_type == 4:  # grey with alpha, which OpenCV expands to BGRA
        return values[..., ::3]
    return _with_channels(values if color_type == 0 else values[..., (2, 1, 0, 3)[: values.shape[2]]])


def _with_channels(values: np.ndarray) -> np.ndarray:
    return values if values.ndim == 3 else values[..., None]


def open_array(data: bytes, path: str, channel_axis: int | None = None) -> ArrayFile:
    """Open a file without decoding its pixels, except arrays of NumPy.

    Args:
        data: Bytes of the file.
        path: Its path, for messages.
        channel_axis: See :class:`NumpyFile`.

    Raises:
        BadImageError: The file is damaged, or of no known format.
        ImportError: The package that reads this format is missing.
    """
    name = format_of_values(data)
    try:
        if name == 'TIFF':
            return TiffFile(data)
        if name == 'DICOM':
            return DicomFile(data)
        if name in ('NPY', 'NPZ'):
            return NumpyFile(_load_numpy(data), channel_axis)
        if name == 'JPEG2000':
            return _of_jpeg2000(data)
        return PillowFile(data)
    except Exception as error:  # the parsers raise all kinds of errors on damaged headers
        raise image_error(error, path) from None


def _of_jpeg2000(data: bytes) -> ArrayFile:
    try:
        return PillowFile(data)
    except (Image.UnidentifiedImageError, OSError):
        return Jpeg2000File(data)


def read_page(file: ArrayFile, page: int, path: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Return a page as (H, W, C) uint8, uint16, int16 or float32, its values unchanged.

    Args:
        file: The file, from :func:`open_array`.
        page: Index of the page.
        path: The file's path, for messages.
        max_pixels: Largest image to accept, width times height.

    Raises:
        BadImageError: It cannot be decoded, is larger than ``max_pixels``, or has values that none of the
            four types hold exactly.
    """
    try:
        height, width = file.size(page)
        if height * width > max_pixels:
            raise BadImageError(f'{width}x{height} pixels are above the limit max_pixels={max_pixels}')
        values = plain_type(file.read(page))
    except Exception as error:  # the decoders raise all kinds of errors on damaged pixels
        raise image_error(error, path) from None
    if not 1 <= values.shape[2] <= MAX_CHANNELS or not values.size:
        raise BadImageError(
            f'an image of {values.shape} pixels and channels; 1 to {MAX_CHANNELS} are read', path
        )
    return values


def plain_type(values: np.ndarray) -> np.ndarray:
    """Return values as uint8, uint16, int16 or float32.

    Raises:
        ValueError: Whole numbers are too large for float32, or the values are no real numbers.
    """
    if values.dtype == bool or values.dtype == np.int8:
        return values.astype(np.uint8 if values.dtype == bool else np.int16)
    if values.dtype.newbyteorder('=') in (np.uint8, np.uint16, np.int16, np.float32):
        return values.astype(values.dtype.newbyteorder('='), copy=False)
    if values.dtype.kind in 'iu':
        low, high = int(values.min(initial=0)), int(values.max(initial=0))
        if low >= 0 and high < 1 << 16:
            return values.astype(np.uint16)
        if low >= -(1 << 15) and high < 1 << 15:
            return values.astype(np.int16)
        if max(-low, high) > _EXACT_IN_FLOAT32:
            raise ValueError(f'{values.dtype} values up to {max(-low, high)} do not fit float32; divide them')
        return values.astype(np.float32)
    if values.dtype.kind != 'f':
        raise ValueError(f'values of type {values.dtype} are no image')
    return values.astype(np.float32)


def _load_numpy(data: bytes) -> np.ndarray:
    if data[:4] != b'PK\x03\x04':
        return np.load(io.BytesIO(data), allow_pickle=False)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        if len(names) != 1:
            raise ValueError(
                f'an NPZ of {len(names)} arrays ({", ".join(names[:5])}); save one image in each file'
            )
        if archive.infolist()[0].file_size > _MAX_BYTES:
            raise ValueError('an NPZ that unpacks to more than 8 GB')
        with archive.open(names[0]) as file:
            return np.lib.format.read_array(file, allow_pickle=False)


def image_error(error: Exception, path: str) -> Exception:
    """Return the error that names the file."""
    if isinstance(error, ImportError):
        cure = '' if 'pip install' in str(error) else "; pip install 'mmssl[images]'"
        return ImportError(f'{path}: {error}{cure}')
    if isinstance(error, BadImageError):
        return type(error)(error.reason, path)
    if isinstance(error, Image.UnidentifiedImageError):
        return BadImageError('no known image format', path)
    return BadImageError(f'undecodable: {" ".join(str(error).split())}', path)
