"""Label Studio's run lengths of brush masks: bits of runs of the RGBA values of an image.

The stream is a number of 32 bits, how many values follow; 5 bits, the size of a value less one; four times
4 bits, sizes of lengths less one; then for each run a bit, 1 for a repeated value and 0 for single ones, two
bits that choose the size of its length, its length less one, and the value or the values. The mask is the
alpha channel.
"""

from collections.abc import Sequence

import numpy as np

_VALUE_BITS = 8
# sizes in bits of the lengths that are written
_LENGTH_BITS = (3, 4, 8, 16)
_CHANNELS = 4


def decode_brush(stream: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Return the (H, W) bool mask of a stream of bytes.

    Args:
        stream: The bytes.
        size: (H, W).

    Raises:
        ValueError: The stream does not have the values of the image.
    """
    bits = ''.join(f'{byte:08b}' for byte in stream)
    position = 0

    def take(count: int) -> int:
        nonlocal position
        position += count
        return int(bits[position - count : position], 2)

    total = take(32)
    if total != size[0] * size[1] * _CHANNELS:
        raise ValueError(f'the brush mask has {total} values, the image {size[0] * size[1] * _CHANNELS}')
    value_bits = take(5) + 1
    length_bits = [take(4) + 1 for _ in range(4)]
    values = np.zeros(total, np.uint8)
    done = 0
    while done < total:
        is_run = take(1)
        length = take(length_bits[take(2)]) + 1
        if is_run:
            values[done : done + length] = take(value_bits)
        else:
            values[done : done + length] = [take(value_bits) for _ in range(length)]
        done += length
    return values.reshape(*size, _CHANNELS)[..., -1] > 127


def encode_brush(mask: np.ndarray) -> list[int]:
    """Return the stream of bytes of an (H, W) bool mask."""
    values = np.repeat(mask.reshape(-1).astype(np.uint8) * 255, _CHANNELS)
    starts = np.flatnonzero(np.concatenate([[True], values[1:] != values[:-1]]))
    lengths = np.diff(np.concatenate([starts, [len(values)]]))
    parts = [f'{len(values):032b}', f'{_VALUE_BITS - 1:05b}', *(f'{size - 1:04b}' for size in _LENGTH_BITS)]
    longest = 1 << _LENGTH_BITS[-1]
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        value = f'{int(values[start]):08b}'
        while length > 0:
            run = min(length, longest)
            choice = next(index for index, size in enumerate(_LENGTH_BITS) if run <= 1 << size)
            parts.append(f'1{choice:02b}{run - 1:0{_LENGTH_BITS[choice]}b}{value}')
            length -= run
    bits = ''.join(parts)
    bits += '0' * (-len(bits) % 8)
    return [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]
