"""Decode an image file of any usual kind to BGR uint8, as much of it as is needed.

Measured on 500x375 JPEGs (one core): OpenCV decodes straight to BGR in the time Pillow takes before its copy
to numpy, and torch's uint8 antialiased resize takes a fifth of Pillow's at the same result to within two grey
levels. So: Pillow reads headers and every kind but common JPEG, OpenCV decodes JPEG, torch resizes.
"""

import io
import os
import warnings
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from mmssl.data.archives import read_bytes
from mmssl.errors import BadImageError

# Pillow's own limit for one image; a larger one is refused by name before its pixels are decoded
MAX_PIXELS = 178_956_970
_ORIENTATION_TAG = 0x0112
_REDUCED = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


class EncodedImage(NamedTuple):
    """An image file whose header has been read.

    ``width`` and ``height`` are as a person sees the image, that is after the EXIF orientation (1 to 8) has
    been applied.
    """

    path: str
    data: bytes
    header: Image.Image
    width: int
    height: int
    orientation: int

    @property
    def is_transposed(self) -> bool:
        """Whether rows are stored as columns (orientations 5 to 8)."""
        return self.orientation >= 5


def open_image(path: str, max_pixels: int = MAX_PIXELS) -> EncodedImage:
    """Read a file and its header; no pixel is decoded.

    Args:
        path: a file, or a virtual path through an archive.
        max_pixels: width times height above which the image is refused.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: empty, a folder, no known format, or larger than ``max_pixels``.
    """
    try:
        data = read_bytes(path)
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:
        raise BadImageError(
            'is a folder' if isinstance(error, IsADirectoryError) else str(error), path
        ) from None
    if not data:
        raise BadImageError('the file is empty', path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            header = Image.open(io.BytesIO(data))
            orientation = header.getexif().get(_ORIENTATION_TAG, 1)
    except Image.UnidentifiedImageError:
        raise BadImageError('no known image format', path) from None
    except Exception as error:  # Pillow's parsers raise whatever a damaged header makes them stumble over
        raise BadImageError(f'unreadable header: {error}', path) from None
    width, height = header.size
    if width * height > max_pixels:
        raise BadImageError(f'{width}x{height} pixels are above the limit max_pixels={max_pixels}', path)
    if orientation not in range(1, 9):
        orientation = 1
    if orientation >= 5:
        width, height = height, width
    return EncodedImage(path, data, header, width, height, orientation)


def decode(image: EncodedImage, reduction: int = 1) -> np.ndarray:
    """Decode the pixels in the order in which they are stored, whatever the EXIF orientation.

    Alpha is dropped, as torchvision's loader (``convert('RGB')``) and the hosts' (``cv2.IMREAD_COLOR``) do;
    16-bit values keep their high byte; of an animation the first frame is taken.

    Args:
        image: from :func:`open_image`.
        reduction: 1, 2, 4 or 8: decode a JPEG at this fraction of its size (scaled DCT). Other kinds are
            decoded whole, then their size tells.

    Returns:
        (H, W, 3) uint8, BGR; H = ceil(stored height / reduction) for a JPEG, likewise W.

    Raises:
        BadImageError: truncated or undecodable.
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


def can_reduce(image: EncodedImage) -> bool:
    """Whether OpenCV decodes the image, and at a reduced size if wished: grey or three-component JPEG with its end in place."""
    header = image.header
    if header.format not in ('JPEG', 'MPO') or header.mode not in ('L', 'RGB'):
        return False
    # some versions of OpenCV return a truncated file half grey; Pillow, which takes over, raises
    return b'\xff\xd9' in image.data[-4096:]


def _decode_with_pillow(image: EncodedImage) -> np.ndarray:
    picture = image.header
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            picture.load()
            if picture.mode.startswith('I;16') or (picture.mode == 'I' and picture.format == 'PNG'):
                pixels = (np.asarray(picture).astype(np.int32) >> 8).astype(np.uint8)
                return np.repeat(pixels[..., None], 3, axis=2)
            if picture.mode in ('I', 'F'):
                raise BadImageError(
                    f'32-bit values (mode {picture.mode}) have no common range; save it with 8 or 16 bits',
                    image.path,
                )
            rgb = np.asarray(picture.convert('RGB'))
    except BadImageError:
        raise
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        raise BadImageError(f'undecodable: {error}', image.path) from None
    return np.ascontiguousarray(rgb[..., ::-1])


def orient(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn stored pixels upright.

    Args:
        pixels: (H, W, C).
        orientation: EXIF tag 0x0112, 1 to 8.

    Returns:
        (H, W, C), or (W, H, C) for orientations 5 to 8.
    """
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    # after the transposition: which axes are mirrored (EXIF 2.32, table of tag 0x0112)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def stored_box(box: tuple[int, int, int, int], image: EncodedImage) -> tuple[int, int, int, int]:
    """A box (left, top, right, bottom) of the upright image in the coordinates of the stored one."""
    left, top, right, bottom = box
    if image.orientation in (2, 3, 6, 7):
        left, right = image.width - right, image.width - left
    if image.orientation in (3, 4, 7, 8):
        top, bottom = image.height - bottom, image.height - top
    return (top, left, bottom, right) if image.is_transposed else (left, top, right, bottom)


def upright_box(box: tuple[int, int, int, int], image: EncodedImage) -> tuple[int, int, int, int]:
    """A box (left, top, right, bottom) of the stored image in the coordinates of the upright one: undoes :func:`stored_box`."""
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
        pixels: (H, W, 3) uint8.
        size: (height, width) of the result.
        interpolation: 'bicubic' or 'bilinear' (torch, equal to Pillow's to within two grey levels), or
            'lanczos' (Pillow).
        interleaved: leave the channels of a pixel together in memory, for OpenCV to go on with, instead of
            :func:`planar`.

    Returns:
        (height, width, 3) uint8.
    """
    if interpolation == 'lanczos':
        return np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS))
    if pixels.shape[:2] == tuple(size):
        return pixels
    # the batch axis comes first and is then whole in memory: torch keeps the channels last and takes its fast
    # path
    batch = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    pixels = F.interpolate(batch, size, mode=interpolation, antialias=True)[0].permute(1, 2, 0).numpy()
    return pixels if interleaved else planar(pixels)


def planar(pixels: np.ndarray) -> np.ndarray:
    """The same (H, W, 3) uint8 with the channels one after the other in memory, which is what the packing needs."""
    planes = np.empty((3, *pixels.shape[:2]), np.uint8)
    cv2.split(pixels, list(planes))
    return planes.transpose(1, 2, 0)
