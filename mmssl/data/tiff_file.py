"""TIFF and BigTIFF, read by tifffile and imagecodecs."""

import io
import json
import math
from typing import Any

import numpy as np

from mmssl.data.array_file import ArrayFile

_ORIENTATION = 0x0112
_GDAL_NO_DATA = 42113
_PALETTE = 3


class TiffFile(ArrayFile):
    """A TIFF or BigTIFF, without its thumbnails, overviews and masks.

    Args:
        data: Bytes of the file.
    """

    def __init__(self, data: bytes):
        import tifffile

        self._file = tifffile.TiffFile(io.BytesIO(data))
        self._pages: list[Any] = [
            page for page in self._file.pages if not int(getattr(page, 'subfiletype', 0)) & 0b101
        ]
        self._data = data
        self.pages = len(self._pages)
        self._stack: np.ndarray | None = None
        tag = self._pages[0].tags.get(_ORIENTATION)
        self.orientation = int(tag.value) if tag and tag.value in range(1, 9) else 1
        self.no_data = _no_data(self._pages[0])
        if self.pages == 1 and self._pages[0].axes == 'ZYX':  # slices of a volume in one page
            self._stack = self._pages[0].asarray()
            self.pages = len(self._stack)
        elif self.pages == 1 and self._may_be_stack():
            self._read_stack()

    def _may_be_stack(self) -> bool:
        """Return False if the only page with a directory is all there is: then nothing has to be searched."""
        page = self._pages[0]
        if page.is_shaped:  # {"shape": [5, 512, 512]}, as tifffile describes an array
            try:
                return math.prod(json.loads(page.is_shaped)['shape']) > math.prod(page.shape)
            except (ValueError, TypeError, KeyError):
                return True
        rest = len(self._data) - sum(page.databytecounts)
        return bool(page.is_imagej) or (page.is_contiguous and rest >= page.nbytes)

    def _read_stack(self) -> None:
        """Read the pages of an uncompressed stack that follow one another with one directory."""
        series = self._file.series[0] if self._file.series else None
        shape = self._pages[0].shape
        if series is not None and math.prod(series.shape) > math.prod(shape):
            self._stack = series.asarray().reshape(-1, *shape)
            self.pages = len(self._stack)

    def size(self, page: int) -> tuple[int, int]:
        """Return height and width of a page without decoding it."""
        selected = self._pages[0 if self._stack is not None else page]
        return selected.imagelength, selected.imagewidth

    def read(self, page: int) -> np.ndarray:
        """Return the values of a page, (H, W, C)."""
        if self._stack is not None:
            return _channels_last(self._stack[page], self._pages[0].axes.removeprefix('Z'))
        selected = self._pages[page]
        ends = map(sum, zip(selected.dataoffsets, selected.databytecounts, strict=True))
        if max(ends, default=0) > len(self._data):
            raise ValueError('truncated: the file ends before the last of its strips or tiles')
        values = self._uncopied(selected)
        values = _channels_last(selected.asarray() if values is None else values, selected.axes)
        return self._with_colors(values, selected)

    def _with_colors(self, values: np.ndarray, page: Any) -> np.ndarray:
        """Look up the colors of a palette, 8 bits of the 16 that the file has for each, as Pillow does."""
        if page.photometric != _PALETTE or page.colormap is None:
            return values
        return (page.colormap >> 8).astype(np.uint8).T[values[..., 0]]

    def _uncopied(self, page: Any) -> np.ndarray | None:
        """Return the values of an uncompressed page in the memory of the file, read-only; None for others."""
        dtype = page.dtype and page.dtype.newbyteorder(self._file.byteorder)
        if not page.is_final or not page.dataoffsets or dtype is None or dtype == np.uint8:
            return None  # arrays of bytes may be wanted as tensors, which have to be writable
        values = np.frombuffer(self._data, dtype, math.prod(page.shape), page.dataoffsets[0])
        return values.reshape(page.shape)


def _no_data(page: Any) -> float | None:
    tag = page.tags.get(_GDAL_NO_DATA)
    try:
        value = float(tag.value) if tag else math.nan
    except (TypeError, ValueError):
        return None
    return None if math.isnan(value) else value


def _channels_last(values: np.ndarray, axes: str) -> np.ndarray:
    """Return a page (H, W, C) whose axes are 'YX', 'YXS' (interleaved) or 'SYX' (planar)."""
    if axes == 'YX':
        return values[..., None]
    if axes not in ('YXS', 'SYX'):
        raise ValueError(f'a page with the axes {axes} is no image; save its slices as pages')
    return values if axes == 'YXS' else values.transpose(1, 2, 0)
