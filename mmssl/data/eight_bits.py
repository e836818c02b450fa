"""Checks that an image is 8-bit grey or RGB, so that converting it to RGB loses no bits, bands or pages."""

import io
import re
import warnings

from PIL import Image

from mmssl.data.heif import bits_of, is_avif
from mmssl.errors import BadImageError

RANGE_HINT = 'measure it by `mmssl stats DIR` and set value_range=(low, high) in the loader transform'
CHANNELS_HINT = (
    'set channels=N in the loader transform to load all of them, or channels=(0, 1, 2) for some '
    "(pip install 'mmssl[images]')"
)
PAGES_HINT = "set pages=0 for the first, or pages='channels' to load all of them, in the loader transform"
_DEPTH = 32997
_PHOTOMETRIC, _BITS, _SAMPLES, _EXTRA_SAMPLES, _SUBFILE_TYPE = 262, 258, 277, 338, 254
_GRAY, _RGB, _YCBCR, _LAB = (0, 1), 2, 6, 8
_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA = 1, 2
_REDUCED_OR_MASK = 0b101


class ImageSettingError(BadImageError):
    """The file is readable, but not without a setting of the loader transform."""


def refuse_lossy(header: Image.Image, data: bytes, path: str) -> None:
    """Refuse an image of which an 8-bit RGB image would hold a part only.

    Alpha is no part of the image. Of an animation (GIF, WebP, APNG) the first frame is the image.

    Args:
        header: Pillow's image, not decoded.
        data: Bytes of the file.
        path: Its path, for the message.

    Raises:
        ImageSettingError: It has more than 8 bits, bands beyond RGB, or several pages.
    """
    if header.format == 'TIFF':
        _refuse_lossy_tiff(header, data, path)
    bits = _bits(header, data)
    if bits > 8:
        raise ImageSettingError(f'values of {bits} bits have no known range; {RANGE_HINT}', path)


def _bits(header: Image.Image, data: bytes) -> int:
    """Return the bits per value."""
    if header.format == 'PPM' and header.mode != 'F':
        return netpbm_maximum(data).bit_length()
    if header.mode in ('I', 'F') and header.format != 'PNG':
        return 32
    if header.mode.startswith('I'):
        return 16
    if header.format == 'PNG':
        return data[24]  # IHDR begins at byte 16: width, height, bit depth
    if header.format == 'TIFF':
        return max(_numbers(header, _BITS, 1))
    if header.format in ('HEIF', 'AVIF'):
        return bits_of(data)
    if header.format == 'JPEG2000':
        if data[:4] == b'\xff\x4f\xff\x51':  # a bare codestream: ISO/IEC 15444-1, A.5.1
            return 1 + (data[42] & 0x7F)
        start = data.find(b'ihdr', 0, 256)  # height, width, components (2 bytes), bits - 1
        return 1 + (data[start + 14] & 0x7F) if start >= 0 else 8
    return 8


def _refuse_lossy_tiff(header: Image.Image, data: bytes, path: str) -> None:
    pages = _count_pages(data) if getattr(header, 'n_frames', 1) > 1 else _numbers(header, _DEPTH, 1)[0]
    if pages > 1:
        raise ImageSettingError(f'a TIFF of {pages} pages; {PAGES_HINT}', path)
    samples = _numbers(header, _SAMPLES, 1)[0]
    photometric = _numbers(header, _PHOTOMETRIC, 1)[0]
    colors = 1 if photometric in _GRAY else 3 if photometric in (_RGB, _YCBCR, _LAB) else samples
    extra = samples - colors
    alpha = (_ASSOCIATED_ALPHA, _UNASSOCIATED_ALPHA)
    if extra > 1 or (extra == 1 and _numbers(header, _EXTRA_SAMPLES, 0)[0] not in alpha):
        raise ImageSettingError(f'a TIFF of {samples} channels; {CHANNELS_HINT}', path)


def _numbers(header: Image.Image, tag: int, default: int) -> tuple[int, ...]:
    values = header.tag_v2.get(tag, default)
    return tuple(values) if isinstance(values, tuple) else (int(values),)


def _count_pages(data: bytes) -> int:
    """Return the number of pages of a TIFF that are neither thumbnails, overviews nor masks."""
    count = 0
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        image = Image.open(io.BytesIO(data))
        for index in range(image.n_frames):
            try:
                image.seek(index)
                count += not _numbers(image, _SUBFILE_TYPE, 0)[0] & _REDUCED_OR_MASK
            except Exception:  # a page of bands that Pillow does not know
                count += 1
    return count


def unknown_format(data: bytes, path: str) -> BadImageError:
    """Return the error for a file that Pillow does not identify."""
    if is_avif(data):
        return BadImageError('AVIF, which Pillow reads from version 11.3 on; pip install -U pillow', path)
    name = format_of_values(data)
    if name is None:
        return BadImageError('no known image format', path)
    return ImageSettingError(
        f'a {name} file of values that are not 8-bit RGB; measure it by `mmssl stats DIR` and set '
        'value_range=(low, high), or channels=N for bytes, in the loader transform '
        "(pip install 'mmssl[images]')",
        path,
    )


def format_of_values(data: bytes) -> str | None:
    """Return 'TIFF', 'NPY', 'NPZ', 'DICOM' or 'JPEG2000' by the first bytes of a file; None for others."""
    if data[:4] in (b'II*\0', b'MM\0*', b'II+\0', b'MM\0+'):
        return 'TIFF'
    if data[:6] == b'\x93NUMPY':
        return 'NPY'
    if data[:4] == b'PK\x03\x04':
        return 'NPZ'
    if data[4:12] == b'jP  \r\n\x87\n' or data[:4] == b'\xff\x4f\xff\x51':
        return 'JPEG2000'
    return 'DICOM' if data[128:132] == b'DICM' else None


def netpbm_maximum(data: bytes) -> int:
    """Return the largest value that the header of a PGM or PPM states; 1 for a bitmap (PBM)."""
    tokens = re.sub(rb'#[^\n]*\n', b' ', data[:1024]).split()
    return int(tokens[3]) if tokens[0] in (b'P2', b'P3', b'P5', b'P6') else 1
