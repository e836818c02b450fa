"""Decoding image files of all common formats to BGR uint8, at no larger scale than needed.

Measured on 500x375 JPEGs (one core): OpenCV decodes to BGR in the time that Pillow takes before its copy to
NumPy, and torch's antialiased uint8 resize takes a fifth of Pillow's time, with results equal to within two
gray levels. So Pillow reads headers and everything but common JPEGs, OpenCV decodes JPEGs, torch resizes.
"""

import contextlib
import io
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mmssl.data.archives import read_bytes
from mmssl.data.eight_bits import refuse_lossy, unknown_format
from mmssl.data.heif import is_heic, register_heic
from mmssl.errors import BadImageError, RemoteError

# Pillow's own limit; larger images raise an error that names them before any pixel is decoded
MAX_PIXELS = 178_956_970
# four channels of 16 bits, uncompressed, and room for metadata
_BYTES_PER_PIXEL = 8
_METADATA_BYTES = 1 << 28
_pillow_lock = threading.Lock()
_ORIENTATION_TAG = 0x0112
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class EncodedImage(NamedTuple):
    """An image file whose header has been read.

    Attributes:
        path: The file.
        data: Its bytes.
        header: Pillow's image, not decoded yet.
        width: Width after the EXIF orientation has been applied.
        height: Height after the EXIF orientation has been applied.
        orientation: EXIF orientation, 1 to 8.
    """

    path: str
    data: bytes
    header: Image.Image
    width: int
    height: int
    orientation: int

    @property
    def is_transposed(self) -> bool:
        """True if rows are stored as columns (orientations 5 to 8)."""
        return self.orientation >= 5


class HasHeader(Protocol):
    """What the functions about sizes and boxes need of an image, see :class:`EncodedImage`."""

    @property
    def data(self) -> bytes: ...
    @property
    def header(self) -> Any: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def orientation(self) -> int: ...
    @property
    def is_transposed(self) -> bool: ...


def open_image(path: str, max_pixels: int = MAX_PIXELS) -> EncodedImage:
    """Read a file and its header without decoding any pixel.

    Args:
        path: Path of a file, or a path that leads through an archive.
        max_pixels: Largest image to accept, width times height.

    Raises:
        FileNotFoundError: There is no such file.
        BadImageError: The file is empty, a folder, a FIFO or device, of an unknown format, or larger than
            ``max_pixels``.
        ImportError: It is HEIC, and pillow-heif is missing.
    """
    data = read_file(path, max_pixels)
    try:
        header = _read_header(data)
        width, height = header.size
        if width * height > max_pixels:  # before the orientation, for which Pillow may read the whole file
            raise BadImageError(f'{width}x{height} pixels are above the limit max_pixels={max_pixels}', path)
        orientation = header.getexif().get(_ORIENTATION_TAG, 1)
    except BadImageError:
        raise
    except ImportError as error:
        raise ImportError(f'{path}: {error}') from None
    except Image.UnidentifiedImageError:
        raise unknown_format(data, path) from None
    except Exception as error:  # Pillow's parsers raise all kinds of errors on damaged headers
        raise BadImageError(f'unreadable header: {error}', path) from None
    if orientation not in range(1, 9):
        orientation = 1
    if orientation >= 5:
        width, height = height, width
    return EncodedImage(path, data, header, width, height, orientation)


def read_file(path: str, max_pixels: int = MAX_PIXELS) -> bytes:
    """Return the content of a file or of an entry of an archive.

    Args:
        path: Path of a file, or a path that leads through an archive.
        max_pixels: Largest image to accept, width times height.

    Raises:
        FileNotFoundError: There is no such file.
        BadImageError: It is empty, cannot be read, or is larger than such an image.
    """
    try:
        data = read_bytes(path, _METADATA_BYTES + _BYTES_PER_PIXEL * max_pixels)
    except (FileNotFoundError, PermissionError, RemoteError):
        raise
    except IsADirectoryError:
        raise BadImageError('is a folder', path) from None
    except OSError as error:
        reason = error.strerror or str(error).removeprefix(f'{path} ')
        raise BadImageError(reason, path) from None
    if not data:
        raise BadImageError('the file is empty', path)
    return data


def _read_header(data: bytes) -> Image.Image:
    """Return Pillow's image, not decoded."""
    if is_heic(data):
        register_heic()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try:
            return Image.open(io.BytesIO(data))
        except Image.DecompressionBombError:
            with _without_pillow_limit(MAX_PIXELS + 1):
                return Image.open(io.BytesIO(data))


@contextlib.contextmanager
def _without_pillow_limit(pixels: int) -> Iterator[None]:
    """Turn off Pillow's own limit, a global of its module, for an image that is above it.

    ``open_image`` has its own, ``max_pixels``.
    """
    if pixels <= MAX_PIXELS:
        yield
        return
    with _pillow_lock:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = before


def decode(image: EncodedImage, reduction: int = 1) -> np.ndarray:
    """Decode the pixels as they are stored, without applying the EXIF orientation.

    Alpha is dropped, as torchvision's loader (``convert('RGB')``) and mmcv's (``cv2.IMREAD_COLOR``) do; the
    first frame of an animation is decoded. What has more bits, bands or pages is read by
    :class:`mmssl.data.reader.ImageReader`.

    Args:
        image: The image, from :func:`open_image`.
        reduction: 1, 2, 4 or 8: a JPEG is decoded at 1 / ``reduction`` of its size (scaled DCT). Other
            formats are always decoded at full size.

    Returns:
        (H, W, 3) uint8, BGR; H = ceil(stored height / reduction) for a JPEG, likewise W.

    Raises:
        BadImageError: The file is truncated, cannot be decoded, or is not an 8-bit grey or RGB image.
    """
    if can_reduce(image):
        pixels = cv2.imdecode(
            np.frombuffer(image.data, np.uint8), _REDUCED[reduction] | cv2.IMREAD_IGNORE_ORIENTATION
        )
        if pixels is not None:
            return pixels
    return _decode_with_pillow(image)


def read_rgb(path: str | os.PathLike) -> np.ndarray:
    """Read an image file, upright (EXIF orientation applied).

    Args:
        path: Path of a file, or a path that leads through an archive.

    Returns:
        (H, W, 3) uint8, RGB.

    Raises:
        FileNotFoundError: There is no such file.
        BadImageError: The file is not a readable image.
    """
    image = open_image(os.fspath(path))
    return np.ascontiguousarray(orient(decode(image), image.orientation)[..., ::-1])


def can_reduce(image: HasHeader) -> bool:
    """Return True for complete JPEGs of one or three components, which OpenCV can decode at reduced size."""
    header = image.header
    if header.format not in ('JPEG', 'MPO') or header.mode not in ('L', 'RGB'):
        return False
    # some versions of OpenCV return a truncated file half grey; Pillow, which takes over, raises
    return b'\xff\xd9' in image.data[-4096:]


def check_png(image: EncodedImage) -> None:
    """Compare the checksums of a PNG, which Pillow does not do for its pixels; other formats pass.

    Raises:
        BadImageError: A checksum differs, so that pixels may be wrong.
    """
    if image.header.format != 'PNG':
        return
    try:
        _read_header(image.data).verify()
    except Exception as error:  # Pillow's parsers raise SyntaxError, OSError, struct.error, ...
        raise BadImageError(f'damaged: {error}', image.path) from None


def _decode_with_pillow(image: EncodedImage) -> np.ndarray:
    header = image.header
    check_png(image)
    try:
        refuse_lossy(header, image.data, image.path)
        with warnings.catch_warnings(), _without_pillow_limit(header.width * header.height):
            warnings.simplefilter('ignore')
            header.load()
            rgb = np.asarray(header.convert('RGB'))
    except BadImageError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        raise BadImageError(f'undecodable: {error}', image.path) from None
    return np.ascontiguousarray(rgb[..., ::-1])


def orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Apply an EXIF orientation to stored pixels.

    Args:
        pixels: (H, W, C).
        orientation: EXIF tag 0x0112, 1 to 8.

    Returns:
        (H, W, C), or (W, H, C) for orientations 5 to 8.
    """
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    # axes that are mirrored after the transposition (EXIF 2.32, table of tag 0x0112)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def stored_box(box: tuple[int, int, int, int], image: HasHeader) -> tuple[int, int, int, int]:
    """Convert a box (left, top, right, bottom) of the upright image to coordinates of the stored pixels."""
    left, top, right, bottom = box
    if image.orientation in (2, 3, 6, 7):
        left, right = image.width - right, image.width - left
    if image.orientation in (3, 4, 7, 8):
        top, bottom = image.height - bottom, image.height - top
    return (top, left, bottom, right) if image.is_transposed else (left, top, right, bottom)


def upright_box(box: tuple[int, int, int, int], image: HasHeader) -> tuple[int, int, int, int]:
    """Convert a box of the stored pixels to coordinates of the upright image (inverse of ``stored_box``)."""
    left, top, right, bottom = (box[1], box[0], box[3], box[2]) if image.is_transposed else box
    if image.orientation in (2, 3, 6, 7):
        left, right = image.width - right, image.width - left
    if image.orientation in (3, 4, 7, 8):
        top, bottom = image.height - bottom, image.height - top
    return left, top, right, bottom


def resize(
    pixels: np.ndarray, size: tuple[int, int], interpolation: str = 'bicubic', interleaved: bool = False
) -> np.ndarray:
    """Resize with antialiasing.

    Args:
        pixels: (H, W, C) uint8, or values of any other type, which become float32.
        size: (height, width) of the result.
        interpolation: 'bicubic' or 'bilinear' (torch, equal to Pillow's to within two gray levels), or
            'lanczos' (Pillow).
        interleaved: Keep the channels of a pixel adjacent in memory, as OpenCV needs them, instead of
            converting to the :func:`planar` layout.

    Returns:
        (height, width, C) uint8 or float32.
    """
    if pixels.dtype != np.uint8:
        pixels = pixels.astype(np.float32, copy=False)
    if interpolation == 'lanczos':
        return _resize_lanczos(pixels, size)
    if pixels.shape[:2] == tuple(size):
        return pixels
    if pixels.dtype != np.uint8:  # which torch resizes faster by planes
        planes = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        pixels = F.interpolate(planes, size, mode=interpolation, antialias=True)[0].permute(1, 2, 0).numpy()
        return np.ascontiguousarray(pixels) if interleaved else pixels
    # permuted after adding the batch axis, the tensor is channels_last to torch, which takes its fast path
    batch = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    pixels = F.interpolate(batch, size, mode=interpolation, antialias=True)[0].permute(1, 2, 0).numpy()
    return pixels if interleaved else planar(pixels)


def _resize_lanczos(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if pixels.dtype == np.uint8 and pixels.shape[2] == 3:
        return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS))
    # Pillow has no mode of more channels, and one of floats for a single channel only
    bands = [Image.fromarray(np.ascontiguousarray(band)) for band in pixels.transpose(2, 0, 1)]
    return np.stack([band.resize(size[::-1], Image.Resampling.LANCZOS) for band in bands], axis=2)


def planar(pixels: np.ndarray) -> np.ndarray:
    """Copy (H, W, C) to a memory layout with one plane per channel, as PackInputs needs it."""
    planes = np.empty((pixels.shape[2], *pixels.shape[:2]), pixels.dtype)
    cv2.split(pixels, list(planes))
    return planes.transpose(1, 2, 0)
