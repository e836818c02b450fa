"""Values, colours and palettes of label maps."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmssl.data.label_maps import read_colors, read_label_map
from mmssl.data.label_values import Color
from mmssl.errors import BadImageError


@dataclass
class MapValues:
    """What label maps hold.

    Attributes:
        files: Value, or colour as (R, G, B) -> the first file that holds it.
        is_colored: Whether the maps are of colours.
        has_palette: Whether the maps are indices of a palette.
        palette: Index -> (R, G, B), if all maps have the same palette.
    """

    files: dict[Any, str] = field(default_factory=dict)
    is_colored: bool = False
    has_palette: bool = False
    palette: dict[int, Color] = field(default_factory=dict)


def load_map(path: str, colored: bool) -> tuple[np.ndarray, dict[int, Color]]:
    """Read a label map.

    Args:
        path: The file.
        colored: Read the colours as R * 65536 + G * 256 + B; False reads values.

    Returns:
        (H, W) integers, and the colours of the palette, if there is one.
    """
    from PIL import Image

    if colored:
        colors = read_colors(path).astype(np.int32)
        return colors[..., 0] << 16 | colors[..., 1] << 8 | colors[..., 2], {}
    array = read_label_map(path)
    with Image.open(path) as image:
        palette = image.getpalette() if image.mode == 'P' else None
    if not palette:
        return array, {}
    triples = zip(palette[0::3], palette[1::3], palette[2::3], strict=True)
    return array, dict(enumerate(triples))


def scan_maps(paths: Iterable[str]) -> MapValues:
    """Read all label maps for the values that they hold.

    Maps are taken as colours if one of them has pixels with different red, green and blue.

    Raises:
        BadImageError: A map cannot be read exactly, as a JPEG.
    """
    paths = list(paths)
    try:
        return _scan(paths, False)
    except BadImageError as error:
        if 'is colored' not in error.reason:
            raise
        return _scan(paths, True)


def _scan(paths: list[str], colored: bool) -> MapValues:
    values = MapValues(is_colored=colored)
    palettes = []
    for path in paths:
        array, palette = load_map(path, colored)
        if palette:
            palettes.append(palette)
        for value in _unique(array):
            key = (value >> 16, value >> 8 & 255, value & 255) if colored else value
            values.files.setdefault(key, path)
    values.has_palette = bool(palettes) and not colored
    if palettes and all(palette == palettes[0] for palette in palettes):
        values.palette = palettes[0]
    return values


def _unique(array: np.ndarray) -> list[int]:
    if array.dtype == np.uint8:
        return np.flatnonzero(np.bincount(array.reshape(-1), minlength=256)).tolist()
    return np.unique(array).tolist()
