"""HEIC and AVIF: which package opens them, and how many bits their values have."""

import functools
import io

import numpy as np

_BRANDS = (b'heic', b'heix', b'heim', b'heis', b'hevc', b'hevx', b'mif1', b'msf1')


def is_heic(data: bytes) -> bool:
    """Return True for a HEIC file, by its first box (ISO/IEC 23008-12, 10.2)."""
    return data[4:8] == b'ftyp' and data[8:12] in _BRANDS and b'avif' not in data[:64]


def is_avif(data: bytes) -> bool:
    """Return True for an AVIF file, by its first box (AVIF 1.1, section 6)."""
    return data[4:8] == b'ftyp' and b'avif' in data[8:64]


@functools.cache
def register_heic() -> None:
    """Let Pillow open HEIC.

    Raises:
        ImportError: The package pillow-heif is missing.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        raise ImportError(
            "HEIC is read by pillow-heif, which is missing: pip install 'mmssl[images]'"
        ) from None
    register_heif_opener(thumbnails=False)


def bits_of(data: bytes) -> int:
    """Return the bits of a value of a HEIC or AVIF file, by its decoder configuration record."""
    start = data.find(b'av1C')
    if start >= 0:  # AV1-ISOBMFF, section 2.3.3
        flags = data[start + 6]
        return (12 if flags & 0x20 else 10) if flags & 0x40 else 8
    start = data.find(b'hvcC')
    return 8 + (data[start + 21] & 7) if start >= 0 else 8  # ISO/IEC 14496-15, section 8.3.3.1


def decode_deep(data: bytes) -> np.ndarray:
    """Decode a file of more than 8 bits.

    Returns:
        (H, W) or (H, W, C) uint16, from 0 to 2 ** bits - 1.
    """
    if is_avif(data):
        import imagecodecs

        return imagecodecs.avif_decode(data)
    import pillow_heif

    image = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    return np.asarray(image) >> (16 - bits_of(data))  # pillow-heif scales to 16 bits
