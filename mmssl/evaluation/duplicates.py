"""Duplicates among images: pairs with similar features, confirmed by a perceptual hash of the pixels."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from mmssl.evaluation.feature_files import blocks
from mmssl.evaluation.neighbours import BLOCK_ROWS

# cosine similarity of the features of candidates
SIMILARITY = 0.8
# Bits of 128 in which the hashes of duplicates may differ. Of 153 photographs of Imagenette and COCO,
# duplicates differ in at most 14, the 11,628 other pairs in at least 28.
MAX_BITS = 20
# difference of the mean colors, of 255: the hash is of gray values, and says nothing of flat images
MAX_COLOR_DIFFERENCE = 24.0
HASH_BITS = 128
_BIT_COUNTS = np.array([value.bit_count() for value in range(1 << 16)], dtype=np.uint8)
# (left, top, right, bottom) margins of the windows that are hashed
_CUT = 0.05
WINDOWS = (
    (0.0, 0.0, 0.0, 0.0),
    (_CUT / 2, _CUT / 2, _CUT / 2, _CUT / 2),
    (_CUT, _CUT, _CUT, _CUT),
    (_CUT, _CUT, 0.0, 0.0),
    (0.0, 0.0, _CUT, _CUT),
    (_CUT, 0.0, 0.0, _CUT),
    (0.0, _CUT, _CUT, 0.0),
)


class Fingerprint(NamedTuple):
    """What is compared of an image.

    Attributes:
        hashes: (W, 16) uint8, the 128 bits of the hash of each window.
        mirrored: (W, 16) uint8, the same of the mirror image.
        color: (3,) float32, mean of R, G and B.
        pixels: Width times height.
    """

    hashes: np.ndarray
    mirrored: np.ndarray
    color: np.ndarray
    pixels: int


class Pair(NamedTuple):
    """Two rows and the cosine similarity of their features."""

    first: int
    second: int
    similarity: float


def fingerprint(image: np.ndarray) -> Fingerprint:
    """Hash an image and its mirror image, whole and without a margin of up to 5 %.

    The hash joins pHash, which compares 64 low frequencies of the cosine transform with their median
    (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010, section 3.2.1), and
    dHash, the signs of 64 horizontal differences.

    Args:
        image: (H, W, 3) uint8, RGB.
    """
    pixels = image.shape[0] * image.shape[1]
    color = image.reshape(-1, 3).mean(axis=0, dtype=np.float32)
    image = _reduced(image)
    height, width = image.shape[:2]
    hashes: list[list[np.ndarray]] = [[], []]
    for left, top, right, bottom in WINDOWS:
        rows = slice(round(top * height), max(round((1 - bottom) * height), 1))
        columns = slice(round(left * width), max(round((1 - right) * width), 1))
        window = image[rows, columns] if image[rows, columns].size else image
        for values, view in zip(hashes, (window, window[:, ::-1]), strict=True):
            values.append(_perceptual_hash(view))
    return Fingerprint(np.array(hashes[0]), np.array(hashes[1]), color, pixels)


def _reduced(image: np.ndarray) -> np.ndarray:
    """Shrink the short side of a large image to 256 pixels; the hash reads 32."""
    import cv2

    height, width = image.shape[:2]
    scale = 256 / min(height, width)
    if scale >= 1:
        return image
    size = (max(round(width * scale), 1), max(round(height * scale), 1))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _perceptual_hash(image: np.ndarray) -> np.ndarray:
    try:
        import imagehash
    except ImportError:
        raise ImportError("duplicates need imagehash: pip install 'mmssl[features]'") from None
    from PIL import Image

    gray = Image.fromarray(np.ascontiguousarray(image)).convert('L')
    gray = gray.resize((64, 64), Image.Resampling.LANCZOS)
    return np.packbits([imagehash.phash(gray).hash, imagehash.dhash(gray).hash])


def is_same_picture(first: Fingerprint, second: Fingerprint, max_bits: int = MAX_BITS) -> bool:
    """True if two fingerprints are of the same picture, re-encoded, resized, mirrored or cropped by 5 %."""
    if np.abs(first.color - second.color).max() > MAX_COLOR_DIFFERENCE:
        return False
    ours = np.concatenate([first.hashes, first.mirrored])
    bits = np.unpackbits(ours[:, None] ^ second.hashes[None], axis=2).sum(axis=2)
    return int(bits.min()) <= max_bits


def candidate_pairs(
    features: np.ndarray,
    others: np.ndarray | None = None,
    threshold: float = SIMILARITY,
    block_rows: int = BLOCK_ROWS,
    progress: Callable[[int], object] = lambda rows: None,
    turn: tuple[int, int] = (0, 1),
) -> Iterator[Pair]:
    """Yield the pairs of rows whose cosine similarity reaches a threshold, block by block.

    All pairs are compared, a block of rows with a block of rows at a time: time N^2, and memory for
    ``block_rows`` ** 2 similarities.

    Args:
        features: (N, D).
        others: (M, D); None compares the features with each other, each pair once.
        threshold: Smallest similarity.
        block_rows: Rows of a block.
        progress: Called with the number of rows done.
        turn: (K, N) takes the K-th of N blocks of rows of ``features``, counted from 0, and so on.
    """
    second_features = features if others is None else others
    for start, block in blocks(features, block_rows):
        if start // block_rows % turn[1] != turn[0]:
            continue
        skipped = start if others is None else 0
        for offset, other in blocks(second_features[skipped:], block_rows):
            similarities = block @ other.T
            is_similar = similarities >= threshold
            if others is None and not offset:  # a row with itself and with those before it
                is_similar.triu_(1)
            rows, columns = is_similar.nonzero(as_tuple=True)
            values = similarities[rows, columns].clamp(max=1).tolist()
            yield from map(Pair, (rows + start).tolist(), (columns + offset + skipped).tolist(), values)
        progress(len(block))


def confirm(
    pairs: Iterable[Pair],
    first_prints: Callable[[int], Fingerprint | None],
    second_prints: Callable[[int], Fingerprint | None],
    max_bits: int = MAX_BITS,
) -> Iterator[Pair]:
    """Yield the candidates that are one picture.

    Args:
        pairs: Candidates.
        first_prints: Fingerprint of a first row; None for an image that cannot be read.
        second_prints: The same of a second row.
        max_bits: As for :func:`is_same_picture`.
    """
    for pair in pairs:
        first, second = first_prints(pair.first), second_prints(pair.second)
        if first is not None and second is not None and is_same_picture(first, second, max_bits):
            yield pair


def matching_pairs(
    first: Sequence[Fingerprint | None], others: Sequence[Fingerprint | None], max_bits: int = MAX_BITS
) -> Iterator[Pair]:
    """Yield the pairs of a first and another image that are one picture, without any features.

    All pairs are compared: time N M, memory for the hashes.

    Args:
        first: N fingerprints; None for images that cannot be read.
        others: M fingerprints.
        max_bits: As for :func:`is_same_picture`.

    Yields:
        The rows, and the fraction of the bits that agree.
    """
    rows = np.array([row for row, each in enumerate(others) if each is not None], dtype=int)
    known = [each for each in others if each is not None]
    if not known:
        return
    # 16-bit words, whose bits a table counts
    hashes = np.stack([each.hashes for each in known]).view(np.uint16)
    colors = np.stack([each.color for each in known])
    for row, each in enumerate(first):
        if each is None:
            continue
        (close,) = np.nonzero(np.abs(colors - each.color).max(axis=1) <= MAX_COLOR_DIFFERENCE)
        words = np.concatenate([each.hashes, each.mirrored]).view(np.uint16)
        for start in range(0, len(close), BLOCK_ROWS):
            block = close[start : start + BLOCK_ROWS]
            differing = _BIT_COUNTS[words[:, None, None] ^ hashes[block]].sum(axis=-1)
            bits = differing.min(axis=(0, 2))
            for index in np.flatnonzero(bits <= max_bits):
                yield Pair(row, int(rows[block[index]]), 1 - int(bits[index]) / HASH_BITS)


def rows_to_drop(pairs: Sequence[Pair], pixels: Callable[[int], int]) -> list[int]:
    """Return the rows to drop so that one of each group of duplicates is left: the largest, or the first.

    Args:
        pairs: Pairs of rows of one file.
        pixels: Size of the image of a row.
    """
    root: dict[int, int] = {}

    def find(row: int) -> int:
        while root.setdefault(row, row) != row:
            root[row] = root[root[row]]
            row = root[row]
        return row

    for pair in pairs:
        root[find(pair.first)] = find(pair.second)
    groups: dict[int, list[int]] = {}
    for row in sorted(root):
        groups.setdefault(find(row), []).append(row)
    dropped = [row for group in groups.values() for row in group if row != max(group, key=pixels)]
    return sorted(dropped)
