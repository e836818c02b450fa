"""Label pictures of segmentation: one whole number a pixel, read without loss, or refused by the name of the file."""

import numpy as np
from mmcv.transforms import BaseTransform

from mmssl.data.images import MAX_PIXELS, BadImageError, open_image
from mmssl.registry import TRANSFORMS

# modes of Pillow with one value a pixel: grey, indices of a palette, one bit, 16 and 32 bits
PLAIN = ('L', 'P', '1', 'I', 'I;16', 'I;16B', 'I;16L', 'I;16N')
LOSSY = ('JPEG', 'MPO', 'JPEG2000')
IGNORED = 255


def read_label_map(path: str, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The classes in a picture.

    Grey, palette (the indices, not the colours), one bit and 16 bits are taken as they are, alpha is dropped,
    and of a colour picture whose three channels are the same one is taken.

    Args:
        path: a file, or a virtual path through an archive.
        max_pixels: a larger picture is refused; width times height.

    Returns:
        (H, W) uint8, or uint16 where there are values above 255.

    Raises:
        FileNotFoundError: there is no such file.
        BadImageError: no readable picture, colours that are no numbers, values beyond 65535, or a lossy
            format, which changes numbers.
    """
    image = open_image(path, max_pixels)
    picture = image.header
    if picture.format in LOSSY:
        raise BadImageError(
            f'{picture.format} changes the numbers of classes when it compresses; save labels as PNG', path
        )
    try:
        picture.load()
        mode = picture.mode
        values = np.asarray(picture)
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ...
        raise BadImageError(f'undecodable: {error}', path) from None
    if mode not in PLAIN:
        values = _one_channel(values, mode, path)
    if values.dtype == bool:
        return values.astype(np.uint8)
    least, largest = (int(values.min()), int(values.max())) if values.size else (0, 0)
    if least < 0 or largest > np.iinfo(np.uint16).max:
        raise BadImageError(
            f'holds numbers from {least} to {largest}; classes go from 0 to {np.iinfo(np.uint16).max}', path
        )
    return values.astype(np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16)


def _one_channel(values: np.ndarray, mode: str, path: str) -> np.ndarray:
    """What the colour channels of (H, W, 2 to 4) have in common."""
    if mode not in ('LA', 'PA', 'La', 'RGB', 'RGBA', 'RGBa', 'RGBX'):
        raise BadImageError(
            f'mode {mode} is no label picture; one whole number a pixel is needed (8 or 16 bits)', path
        )
    if values.shape[2] <= 2:
        return values[..., 0]
    red, green, blue = (values[..., channel] for channel in range(3))
    differs = (red != green) | (red != blue)
    if differs.any():
        row, column = np.argwhere(differs)[0]
        raise BadImageError(
            f'is coloured: pixel ({row}, {column}) is {tuple(map(int, values[row, column, :3]))}, which is no number of a '
            'class; save the numbers, as grey or with a palette',
            path,
        )
    return red


@TRANSFORMS.register_module()
class LoadLabelMap(BaseTransform):
    """mmseg's LoadAnnotations cuts 16-bit values to 8 bits, so that class 300 becomes 44, goes on with coloured labels and with labels of
    another size than the image, and names no file.

    See :func:`read_label_map`. Without ``seg_map_path``, as in inference on an image alone, nothing is
    loaded.

    Required keys: ``seg_map_path``, ``reduce_zero_label``, ``label_map``, ``seg_fields`` (mmseg's data sets
        give them). Added key:
    ``gt_seg_map``, (H, W) uint8 or uint16.

    Args:
        reduce_zero_label: 0 becomes 255, and 1 becomes 0; as the data set says when None.
        max_pixels: a larger picture is refused; width times height.
    """

    def __init__(self, reduce_zero_label: bool | None = None, max_pixels: int = MAX_PIXELS):
        self.reduce_zero_label = reduce_zero_label
        self.max_pixels = max_pixels

    def transform(self, results: dict) -> dict:
        """Load ``results['seg_map_path']``; raises BadImageError naming the file, also where its size is not that of the image."""
        path = results.get('seg_map_path')
        if path is None:
            return results
        classes = read_label_map(path, self.max_pixels)
        shape = results.get('ori_shape')
        if shape is not None and tuple(shape[:2]) != classes.shape:
            turned = (
                ' (the image is turned by its EXIF tag; turn the label too)'
                if tuple(shape[:2]) == classes.shape[::-1]
                else ''
            )
            raise BadImageError(
                f'the label has {classes.shape[1]}x{classes.shape[0]} pixels and the image {results.get("img_path", "")} '
                f'has {shape[1]}x{shape[0]}{turned}',
                path,
            )
        told = results.get('reduce_zero_label', False)
        if self.reduce_zero_label not in (None, told):
            raise ValueError(
                f'reduce_zero_label={self.reduce_zero_label} of LoadLabelMap, but {told} of the data set; leave it out here'
            )
        if told and classes.dtype != np.uint8:
            raise BadImageError(
                f'reduce_zero_label makes 0 to {IGNORED}, which is a class here: there are values above it',
                path,
            )
        if told:
            zero = classes == 0
            classes = np.where(classes == IGNORED, classes, classes - 1)
            classes[zero] = IGNORED
        if results.get('label_map'):
            classes = _renumbered(classes, results['label_map'])
        results['gt_seg_map'] = classes
        results.setdefault('seg_fields', []).append('gt_seg_map')
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(reduce_zero_label={self.reduce_zero_label})'


def _renumbered(classes: np.ndarray, numbers: dict[int, int]) -> np.ndarray:
    """Classes with new numbers, all at once; those without one stay as they are."""
    table = np.arange(np.iinfo(classes.dtype).max + 1, dtype=classes.dtype)
    for old, new in numbers.items():
        if old < len(table):
            table[old] = new % len(table)  # -1, ignored in older data sets, is 255
    return table[classes]
