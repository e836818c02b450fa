"""Label maps of segmentation: images of class indices, read without loss; errors name the file."""

from typing import Any

import numpy as np
from mmcv.transforms import BaseTransform
from PIL import Image

from mmssl.data.images import MAX_PIXELS, BadImageError, check_png, open_image
from mmssl.data.label_values import Color, is_colored
from mmssl.registry import TRANSFORMS

# Pillow's modes with one value per pixel: gray, palette indices, one bit, 16 and 32 bits
SINGLE_CHANNEL = ('L', 'P', '1', 'I', 'I;16', 'I;16B', 'I;16L', 'I;16N')
LOSSY_FORMATS = ('JPEG', 'MPO', 'JPEG2000')
IGNORE_INDEX = 255


def read_label_map(path: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read the class indices of an image.

    Gray, palette (the indices, not the colors), 1-bit and 16-bit values are returned as they are; alpha is
    dropped; of a color image with three equal channels one is returned.

    Args:
        path: Path of a file, or a path that leads through an archive.
        max_pixels: Largest image to accept, width times height.

    Returns:
        (H, W) uint8, or uint16 if there are values above 255.

    Raises:
        FileNotFoundError: There is no such file.
        BadImageError: The file is not a readable image, has colors that are not class indices or values above
            65535, or is of a lossy format, which changes the indices.
    """
    image = _load(path, max_pixels)
    mode = image.mode
    values = np.asarray(image)
    if mode not in SINGLE_CHANNEL:
        values = _equal_channels(values, mode, path)
    if values.dtype == bool:
        return values.astype(np.uint8)
    smallest, largest = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if smallest < 0 or largest > np.iinfo(np.uint16).max:
        raise BadImageError(
            f'holds numbers from {smallest} to {largest}; classes go from 0 to {np.iinfo(np.uint16).max}',
            path,
        )
    return values.astype(np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16)


def read_colors(path: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Read the colours of an image, as (H, W, 3) uint8; errors are those of :func:`read_label_map`."""
    return np.asarray(_load(path, max_pixels).convert('RGB'))


def _load(path: str, max_pixels: int) -> Image.Image:
    """Decode an image whose values are exact."""
    encoded = open_image(path, max_pixels)
    image = encoded.header
    if image.format in LOSSY_FORMATS:
        raise BadImageError(
            f'{image.format} changes the numbers of classes when it compresses; save labels as PNG', path
        )
    check_png(encoded)
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        raise BadImageError(f'undecodable: {error}', path) from None
    return image


def _equal_channels(values: np.ndarray, mode: str, path: str) -> np.ndarray:
    """Reduce (H, W, 2 to 4) to one channel if all color channels are equal; raise BadImageError if not."""
    if mode not in ('LA', 'PA', 'La', 'RGB', 'RGBA', 'RGBa', 'RGBX'):
        raise BadImageError(
            f'mode {mode} is not a label map; one whole number per pixel is needed (8 or 16 bits)', path
        )
    if values.shape[2] <= 2:
        return values[..., 0]
    red, green, blue = (values[..., channel] for channel in range(3))
    differs = (red != green) | (red != blue)
    if differs.any():
        row, column = np.argwhere(differs)[0]
        raise BadImageError(
            f'is colored: pixel ({row}, {column}) is {tuple(map(int, values[row, column, :3]))}, '
            'which is not a class index; save the indices, as gray or with a palette',
            path,
        )
    return red


@TRANSFORMS.register_module()
class LoadLabelMap(BaseTransform):
    """Load the label map of an image, see :func:`read_label_map`.

    Without ``seg_map_path``, as in inference on images alone, nothing is loaded.

    Required keys: ``seg_map_path``, ``reduce_zero_label``, ``label_map``, ``seg_fields`` (from mmseg's data
    sets). ``label_map`` may be one of colours, and with ``label_map_is_complete`` other values are refused,
    see :class:`mmssl.data.segmentation.SegmentationFolder`. Added key: ``gt_seg_map``, (H, W) uint8 or
    uint16.

    Args:
        reduce_zero_label: Replace 0 by 255, and subtract 1 from other labels; if None, as the data set says.
        max_pixels: Largest image to accept, width times height.
    """

    # mmseg's LoadAnnotations cuts 16-bit values to 8 bits, so that class 300 becomes 44, accepts colored
    # labels and labels of another size than the image, and its errors do not name the file

    def __init__(self, reduce_zero_label: bool | None = None, max_pixels: int = MAX_PIXELS):
        self.reduce_zero_label = reduce_zero_label
        self.max_pixels = max_pixels

    def transform(self, results: dict) -> dict:
        """Load ``results['seg_map_path']``.

        Raises:
            BadImageError: The file is not a label map, or not of the image's size; the message names it.
        """
        path = results.get('seg_map_path')
        if path is None:
            return results
        label_map: Any = results.get('label_map')
        if is_colored(label_map):
            classes = _map_colors(read_colors(path, self.max_pixels), label_map, path)
        else:
            classes = read_label_map(path, self.max_pixels)
        _check_size(classes, path, results)
        reduce_zero_label = results.get('reduce_zero_label', False)
        if self.reduce_zero_label not in (None, reduce_zero_label):
            raise ValueError(
                f'reduce_zero_label={self.reduce_zero_label} of LoadLabelMap, but {reduce_zero_label} of the '
                'data set; leave it out here'
            )
        if reduce_zero_label:
            classes = _reduce_zero_label(classes, path)
        if label_map and not is_colored(label_map):
            if results.get('label_map_is_complete'):
                _check_values(classes, label_map, path)
            classes = _map_labels(classes, label_map)
        results['gt_seg_map'] = classes
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(reduce_zero_label={self.reduce_zero_label})'


def _check_size(classes: np.ndarray, path: str, results: dict) -> None:
    shape = results.get('ori_shape')
    if shape is None or tuple(shape[:2]) == classes.shape:
        return
    is_rotated = tuple(shape[:2]) == classes.shape[::-1]
    hint = ' (the image is rotated by its EXIF tag; rotate the label too)' if is_rotated else ''
    raise BadImageError(
        f'the label has {classes.shape[1]}x{classes.shape[0]} pixels and the image '
        f'{results.get("img_path", "")} has {shape[1]}x{shape[0]}{hint}',
        path,
    )


def _reduce_zero_label(classes: np.ndarray, path: str) -> np.ndarray:
    """Replace 0 by 255 and subtract 1 from the other classes, as mmseg does."""
    if classes.dtype != np.uint8:
        raise BadImageError(
            f'reduce_zero_label turns 0 into {IGNORE_INDEX}, which is a class here: higher values exist',
            path,
        )
    reduced = np.where(classes == IGNORE_INDEX, classes, classes - 1)
    reduced[classes == 0] = IGNORE_INDEX
    return reduced


def _map_labels(classes: np.ndarray, label_map: dict[int, int]) -> np.ndarray:
    """Replace all classes at once by those of ``label_map``; classes that it lacks stay as they are."""
    if max(label_map.values()) > np.iinfo(classes.dtype).max:
        classes = classes.astype(np.uint16)
    table = np.arange(np.iinfo(classes.dtype).max + 1, dtype=classes.dtype)
    for old, new in label_map.items():
        if old < len(table):
            table[old] = new % len(table)  # -1, the ignored label of older data sets, becomes 255
    return table[classes]


def _check_values(classes: np.ndarray, label_map: dict[int, int], path: str) -> None:
    """Raise BadImageError for values that are no key of ``label_map``."""
    present = np.flatnonzero(np.bincount(classes.reshape(-1)))
    unlisted = [int(value) for value in present if value not in label_map]
    if unlisted:
        raise BadImageError(
            f'holds the values {", ".join(map(str, unlisted[:5]))}, which label_map does not name; it names '
            f'{", ".join(map(str, list(label_map)[:10]))}',
            path,
        )


def _map_colors(colors: np.ndarray, label_map: dict[Color, int], path: str) -> np.ndarray:
    """(H, W, 3) colours to classes (H, W); raise BadImageError for colours that ``label_map`` lacks."""
    packed = (colors.astype(np.int32) * (1 << 16, 1 << 8, 1)).sum(2)
    keys = np.array([(red << 16) + (green << 8) + blue for red, green, blue in label_map])
    order = np.argsort(keys)
    index = np.minimum(np.searchsorted(keys, packed, sorter=order), len(keys) - 1)
    known = keys[order][index] == packed
    if not known.all():
        row, column = np.argwhere(~known)[0]
        raise BadImageError(
            f'pixel ({row}, {column}) has the colour {tuple(map(int, colors[row, column]))}, which label_map '
            'does not name',
            path,
        )
    labels = np.array(list(label_map.values()))
    return labels.astype(np.uint8 if labels.max() <= IGNORE_INDEX else np.uint16)[order][index]
